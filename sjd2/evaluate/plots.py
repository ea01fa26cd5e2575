"""Plots as inline SVG: lines, bars and stacked bars.

By hand rather than by matplotlib: `sjd2 evaluate` works without an extra, the page loads nothing,
and every point shows its value under the mouse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 48
# Colours that stay apart for colour-blind eyes (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b6b", "#8c564b")
_LEGEND_LINE = 18

Points = Sequence[tuple[float, float]]


def line_plot(series: Mapping[str, Points], x_label: str, y_label: str) -> str:
    """Lines with dots.

    Args:
        series: points of every line, by its name, ordered by x.
        x_label, y_label: what the axes show.
    """
    points = [point for line in series.values() for point in line]
    ticks = sorted({x for x, _ in points})
    low, high = ticks[0], ticks[-1]
    margin = (high - low or 1) * 0.04
    frame = _Frame(low - margin, high + margin, max(y for _, y in points), len(series))
    parts = frame.axes([(x, f"{x:g}") for x in ticks], x_label, y_label)
    for number, (name, line) in enumerate(series.items()):
        colour = _colour(number)
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in line:
            parts.append(
                f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3.5" fill="{colour}">'
                f"<title>{escape(name)}: {y:.2f} at {x:g}</title></circle>"
            )
    return frame.svg(parts, list(series), f"{y_label} by {x_label}")


def histogram(series: Mapping[str, Mapping[int, float]], x_label: str, y_label: str) -> str:
    """Bars side by side over whole numbers.

    Args:
        series: heights by number, by the name of what they are of.
        x_label, y_label: what the axes show.
    """
    numbers = [number for heights in series.values() for number in heights]
    low, high = min(numbers), max(numbers)
    top = max(height for heights in series.values() for height in heights.values())
    frame = _Frame(low - 0.5, high + 0.5, top, len(series))
    step = max(1, math.ceil((high - low + 1) / 16))
    ticks = [(float(n), str(n)) for n in range(low, high + 1, step)]
    parts = frame.axes(ticks, x_label, y_label)
    width = 0.84 / len(series)
    for number, (name, heights) in enumerate(series.items()):
        for at, height in heights.items():
            left = at - 0.42 + number * width
            title = f"{name}: {height:.3g} at {at}"
            parts.append(frame.bar(left, left + width, 0, height, _colour(number), title))
    return frame.svg(parts, list(series), f"{y_label} by {x_label}")


def stacked_bars(bars: Mapping[str, Mapping[str, float]], y_label: str) -> str:
    """One bar per name, of parts upon each other.

    Args:
        bars: heights by part, by the name of the bar; every bar has the same parts.
        y_label: what the axis shows.
    """
    layers = list(next(iter(bars.values())))
    top = max(sum(parts.values()) for parts in bars.values())
    frame = _Frame(-0.5, len(bars) - 0.5, top, len(layers), bottom=110)
    parts = frame.axes([(float(n), name) for n, name in enumerate(bars)], "", y_label, slanted=True)
    for at, (name, heights) in enumerate(bars.items()):
        base = 0.0
        for number, layer in enumerate(layers):
            title = f"{name}, {layer}: {heights[layer]:.3g}"
            end = base + heights[layer]
            parts.append(frame.bar(at - 0.35, at + 0.35, base, end, _colour(number), title))
            base = end
    return frame.svg(parts, layers, y_label)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


class _Frame:
    """Maps values to pixels, and draws axes and legend. The vertical axis starts at 0."""

    def __init__(
        self, low: float, high: float, top: float, entries: int, bottom: int = _BOTTOM
    ) -> None:
        self.low, self.high = low, high
        self.step = _nice(top / 5 if top > 0 else 0.2)
        self.top = self.step * max(1, math.ceil(top / self.step - 1e-9))
        self.above = _TOP + _LEGEND_LINE * math.ceil(entries / 3)
        self.bottom = bottom

    def x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - self.bottom - value / self.top * (_HEIGHT - self.bottom - self.above)

    def bar(
        self, left: float, right: float, low: float, high: float, colour: str, title: str
    ) -> str:
        x, y = self.x(left), self.y(high)
        return (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{self.x(right) - x:.1f}" '
            f'height="{self.y(low) - y:.1f}" fill="{colour}"><title>{escape(title)}</title></rect>'
        )

    def axes(
        self,
        ticks: Sequence[tuple[float, str]],
        x_label: str,
        y_label: str,
        slanted: bool = False,
    ) -> list[str]:
        parts = []
        for number in range(round(self.top / self.step) + 1):
            value = number * self.step
            y = self.y(value)
            parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" class="grid"/>')
            parts.append(_text(_LEFT - 6, y + 4, f"{value:g}", "end"))
        base = _HEIGHT - self.bottom + 16
        for value, name in ticks:
            x = self.x(value)
            turned = f' transform="rotate(-35 {x:.1f} {base})"' if slanted else ""
            parts.append(_text(x, base, name, "end" if slanted else "middle", turned))
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(_text(middle, _HEIGHT - 8, x_label, "middle"))
        centre = (self.above + _HEIGHT - self.bottom) / 2
        parts.append(_text(14, centre, y_label, "middle", f' transform="rotate(-90 14 {centre})"'))
        return parts

    def svg(self, parts: Sequence[str], legend: Sequence[str], title: str) -> str:
        keys = []
        for number, name in enumerate(legend):
            x = _LEFT + number % 3 * (_WIDTH - _LEFT) / 3
            y = 6 + _LEGEND_LINE * (number // 3)
            keys.append(
                f'<rect x="{x:.0f}" y="{y}" width="12" height="12" fill="{_colour(number)}"/>'
            )
            keys.append(_text(x + 17, y + 11, name, "start"))
        inside = "\n".join([*keys, *parts])
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}" '
            f'xmlns="http://www.w3.org/2000/svg">\n{inside}\n</svg>'
        )


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _nice(step: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
