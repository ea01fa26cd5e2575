"""A race as frames: token by token and accelerated side by side, forward by forward."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw

from sjd2.pictures.gallery import ACCENT, GREY, INK, PAPER, PLAIN, TRACK, font, wrap
from sjd2.watch.trace import Trace, heat

_SIDE = 224  # pixels of a picture on the sheet, about
_MARGIN, _GAP, _BARS = 16, 16, 72
_SECONDS, _HOLD = 12.0, 2.5  # of a whole film, and of its last frame
_MOST_FRAMES = 120
_COLOURS = 128  # of a film; pictures of few colours make small files


@dataclass(frozen=True)
class Film:
    """Frames of one size and how long each is shown.

    Attributes:
        frames: RGB, the last one shows everything.
        milliseconds: per frame; time is proportional to forwards.
    """

    frames: tuple[Image.Image, ...]
    milliseconds: tuple[int, ...]

    def write_gif(self, file: BinaryIO) -> None:
        """Write an endless GIF.

        All frames share a palette and are not dithered, so that what stands still costs nothing.
        """
        palette = self.frames[-1].quantize(_COLOURS, Image.Quantize.MEDIANCUT)
        shown = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        shown[0].save(
            file,
            "GIF",
            save_all=True,
            append_images=shown[1:],
            duration=list(self.milliseconds),
            loop=0,
        )


def film(caption: str, baseline: Trace, accelerated: Trace) -> Film:
    """The race of two methods for one caption.

    Args:
        caption: stands above.
        baseline: token by token.
        accelerated: of as many tokens.
    """
    last = max(baseline.forwards, accelerated.forwards)
    forwards = _shown_forwards(accelerated.forwards, last)
    frames = [sheet(caption, baseline, accelerated, forward) for forward in forwards]
    pace = 1000 * _SECONDS / last
    # GIF counts in hundredths of a second; browsers slow down what is faster than two of them.
    steps = (after - now for now, after in pairwise(forwards))
    durations = [max(20, round(step * pace, -1)) for step in steps]
    return Film(tuple(frames), (*map(int, durations), int(1000 * _HOLD)))


def _shown_forwards(finished: int, last: int) -> list[int]:
    """Every forward while both draw, if that is not too many; then some of those that remain."""
    early = max(1, round(2 * finished / _MOST_FRAMES))
    late = max(1, round(2 * (last - finished) / _MOST_FRAMES))
    shown = [*range(0, finished, early), *range(finished, last, late), last]
    return sorted(set(shown))


def sheet(caption: str, baseline: Trace, accelerated: Trace, forward: int) -> Image.Image:
    """One frame: both pictures, the heat map of the accelerated one, and its accept lengths."""
    width, height = _shown_size(accelerated.picture)
    lines = wrap(caption, 3 * width + 2 * _GAP, font(15))
    head = _MARGIN + 20 * len(lines) + 6
    top = head + 46
    bars = top + height + 34
    page = Image.new(
        "RGB", (2 * _MARGIN + 3 * width + 2 * _GAP, bars + _BARS + 22 + _MARGIN), PAPER
    )
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + 20 * number), line, INK, font(15))
    xs = [_MARGIN + number * (width + _GAP) for number in range(3)]
    for x, trace, colour in ((xs[0], baseline, PLAIN), (xs[1], accelerated, ACCENT)):
        now = min(forward, trace.forwards)
        done = trace.committed(now) / trace.committed_at.size
        pen.text((x, head), trace.label, INK, font(14))
        pen.text((x + width, head), f"{now} forwards", colour, font(14), anchor="ra")
        pen.rectangle((x, head + 22, x + width - 1, head + 27), TRACK)
        if done:
            pen.rectangle((x, head + 22, x + round(done * (width - 1)), head + 27), colour)
        page.paste(_enlarged(trace.picture_at(now), width, height), (x, top))
    pen.text((xs[2], head), "accepted at forward", INK, font(14))
    page.paste(_enlarged(accelerated.heat_map(forward), width, height), (xs[2], top))
    _write_scale(page, (xs[2], top + height + 6), width, accelerated.forwards)
    _draw_bars(pen, (_MARGIN, bars), (3 * width + 2 * _GAP, _BARS), accelerated, forward)
    return page


def _shown_size(picture: Image.Image) -> tuple[int, int]:
    factor = _SIDE / max(picture.size)
    if factor > 1:
        factor = round(factor)  # whole pixels of small pictures
    return round(picture.width * factor), round(picture.height * factor)


def _enlarged(picture: Image.Image, width: int, height: int) -> Image.Image:
    is_larger = picture.width > width
    method = Image.Resampling.LANCZOS if is_larger else Image.Resampling.NEAREST
    return picture.resize((width, height), method)


def _write_scale(page: Image.Image, at: tuple[int, int], width: int, forwards: int) -> None:
    """The colours of the heat map, from the first forward to the last."""
    x, y = at
    ramp = heat(np.linspace(1 / forwards, 1, width)[None].repeat(8, axis=0))
    page.paste(Image.fromarray(ramp), (x, y))
    pen = ImageDraw.Draw(page)
    pen.text((x, y + 10), "1", GREY, font(11))
    pen.text((x + width, y + 10), str(forwards), GREY, font(11), anchor="ra")


def _draw_bars(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    room: tuple[int, int],
    trace: Trace,
    forward: int,
) -> None:
    """Accept length by forward."""
    (x, y), (width, height) = at, room
    most = max(trace.accept_lengths)
    pace = width / trace.forwards
    for number, length in enumerate(trace.accept_lengths[:forward]):
        left, right = x + number * pace, x + (number + 1) * pace - 1
        box = (round(left), y + height - round(height * length / most), round(right), y + height)
        pen.rectangle((box[0], box[1], max(box[0], box[2]), box[3]), ACCENT)
    pen.line((x, y + height, x + width, y + height), TRACK)
    mean = trace.committed_at.size / trace.forwards
    text = f"accept length over time: {mean:.1f} tokens per forward, {most} at most"
    pen.text((x, y + height + 6), text, GREY, font(12))
