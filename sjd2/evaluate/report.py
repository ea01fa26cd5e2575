"""`results.md` and `report.html`: the table, its plots and how they were made, in one file each."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from sjd2.evaluate.plots import histogram, line_plot, stacked_bars
from sjd2.evaluate.tables import Row, head_and_cells, markdown
from sjd2.sampler.presets import BASELINE

_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 2rem auto; max-width: 80rem;
  padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px;
  display: block; overflow-x: auto }
th, td { padding: .3rem .45rem; text-align: right; border-bottom: 1px solid #e7eaee }
th { vertical-align: bottom; font-weight: 600 }
td { white-space: nowrap }
th:first-child, td:first-child { text-align: left }
figure { display: inline-block; width: min(36rem, 100%); margin: 1rem .5rem 1rem 0 }
figcaption { color: #656d76 }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; fill: #1b1f24 }
svg .grid { stroke: #e7eaee }
.pictures td:first-child { white-space: normal; min-width: 9rem }
.pictures img { display: block; width: 8rem; height: auto }
/* A shadow at the edge behind which there is more to scroll to. */
table { background: linear-gradient(to right, #fff 1rem, #fff0) left / 2rem 100% no-repeat local,
  linear-gradient(to left, #fff 1rem, #fff0) right / 2rem 100% no-repeat local,
  linear-gradient(to right, #0003, #0000) left / .8rem 100% no-repeat scroll,
  linear-gradient(to left, #0003, #0000) right / .8rem 100% no-repeat scroll }
"""
_SIDE = 256  # pixels of a picture in the page, at most


class Drawn(NamedTuple):
    """One caption, and its picture of every method: a label and a file."""

    caption: str
    pictures: list[tuple[str, Path]]


def as_markdown(found: Row, timings: Row) -> str:
    """The table in Markdown, and above it how it was made.

    Args:
        found: what `results.json` holds.
        timings: what `timings.json` holds.
    """
    table = markdown(*head_and_cells(found["rows"], timings["rows"]))
    return "\n\n".join([_how(found, timings), table, *_notes(found)]) + "\n"


def as_html(found: Row, timings: Row, drawn: Sequence[Drawn] = ()) -> str:
    """One page that loads nothing.

    Args:
        found, timings: as `as_markdown`.
        drawn: captions and their pictures, to show side by side.
    """
    head, cells = head_and_cells(found["rows"], timings["rows"])
    rows = [_html_row("th", head), *(_html_row("td", row) for row in cells)]
    notes = "".join(f"<p>{escape(note)}</p>" for note in _notes(found))
    figures = "".join(
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, svg in _plots(found, timings)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>sjd2: decoding of {escape(found['model'])}</title>"
        f"<style>{_STYLE}</style></head><body>"
        f"<h1>Decoding of {escape(found['model'])}</h1><p>{escape(_how(found, timings))}</p>"
        f"<table>{''.join(rows)}</table>{notes}{_gallery(drawn)}{figures}</body></html>\n"
    )


def _gallery(drawn: Sequence[Drawn]) -> str:
    """Captions in rows, methods in columns, the pictures inside the page."""
    if not drawn:
        return ""
    labels = [label for label, _ in drawn[0].pictures]
    rows = [_html_row("th", ["caption", *labels])]
    for one in drawn:
        cells = "".join(
            f'<td><img alt="{escape(f"{one.caption}, by {label}")}" src="{_data(path)}"></td>'
            for label, path in one.pictures
        )
        rows.append(f"<tr><td>{escape(one.caption)}</td>{cells}</tr>")
    return f'<h2>Pictures</h2><table class="pictures">{"".join(rows)}</table>'


def _data(path: Path) -> str:
    """A picture as an address that holds it, small enough for a page of many."""
    file = BytesIO()
    with Image.open(path) as picture:
        picture.thumbnail((_SIDE, _SIDE))
        picture.convert("RGB").save(file, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _how(found: Row, timings: Row) -> str:
    sampling = found["sampling"]
    settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in sampling.items())
    return (
        f"Captions: {len(found['captions'])}, seeds: {len(found['seeds'])}, batch: "
        f"{found['batch']}, {settings}; {' and '.join(map(_machine, timings['environments']))}."
    )


def _machine(where: Row) -> str:
    return (
        f"{where['device']}, threads: {where['threads']}, torch {where['torch']}, transformers "
        f"{where['transformers']}, {where['dtype']}"
    )


def _notes(found: Row) -> list[str]:
    """Explanations of the columns."""
    rows = found["rows"]
    notes = [
        "Forwards are those of a picture, without the one that reads the prompt. Step compression "
        "is of the average picture, as decoding_stats gives it; its mean, deviation and "
        "percentiles are over pictures. Seconds are those of the sampler, without pixels; "
        '"in forwards" is the share of the model\'s layers in them. Peak memory is that of the '
        "GPU, and without one that of the whole process."
    ]
    if any(row["same_as_ar"] for row in rows):
        notes.append(
            "Pictures as ar's: those whose every token is that of token-by-token decoding. Methods "
            "that do not promise it have no entry."
        )
    if any(row["checker"] for row in rows):
        notes.append(
            "As captioned: pictures in which the checker finds what the caption says, with "
            "Wilson's interval of 95 %."
        )
    if any(row["total_variation"] is not None for row in rows):
        notes.append(
            "Total variation: how far pictures of a model small enough to be enumerated are from "
            f"its own distribution, sampled; an exact rule shows {found['floor']:.3f} by chance."
        )
    return notes


def _plots(found: Row, timings: Row) -> list[tuple[str, str]]:
    """Captions and SVG of all plots that there is data for."""
    rows = found["rows"]
    accelerated = [row for row in rows if row["method"] != BASELINE]
    plots = []
    if accelerated:
        widest = max(row["window"] for row in accelerated)
        lengths = {row["label"]: _shares(row) for row in accelerated if row["window"] == widest}
        plots.append(
            (
                f"Accept lengths at W = {widest}: tokens that a forward committed.",
                histogram(lengths, "accept length", "share of forwards"),
            )
        )
        by_window = _lines(accelerated, "window")
        plots.append(
            ("Step compression by window.", line_plot(by_window, "window", "step compression"))
        )
    for over, unit in (("guidance", "guidance scale"), ("temperature", "temperature")):
        if curve := found["curves"][over]:
            window = curve[0]["window"]
            plots.append(
                (
                    f"Step compression by {unit} at W = {window}, first batch only.",
                    line_plot(_lines(curve, over), unit, "step compression"),
                )
            )
    bars = {}
    for row, timing in zip(rows, timings["rows"], strict=True):
        name = row["label"] if row["method"] == BASELINE else f"{row['label']} {row['window']}"
        bars[name] = {
            "forwards": timing["forward_seconds_per_picture"],
            "the rest": timing["rest_seconds_per_picture"],
        }
    plots.append(
        ("Seconds of a picture: in forwards, and in the rest.", stacked_bars(bars, "seconds"))
    )
    return plots


def _shares(row: Row) -> dict[int, float]:
    total = sum(row["accept_lengths"].values())
    return {int(length): count / total for length, count in row["accept_lengths"].items()}


def _lines(rows: Sequence[Row], over: str) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        lines[row["label"]].append((row[over], row["step_compression"]))
    return {name: sorted(points) for name, points in lines.items()}


def _html_row(cell: str, texts: Sequence[Any]) -> str:
    # Markdown's emphasis marks a rule that is not exact; HTML needs a tag.
    shown = [
        f"<b>{escape(text[2:-2])}</b>" if text.startswith("**") else escape(text) for text in texts
    ]
    return "<tr>" + "".join(f"<{cell}>{text}</{cell}>" for text in shown) + "</tr>"
