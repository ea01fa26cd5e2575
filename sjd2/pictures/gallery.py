"""Sheets of pictures, side by side under headings, and text tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

PAPER, INK, GREY, TRACK = "#ffffff", "#1b1f24", "#656d76", "#e7eaee"
ACCENT, PLAIN = "#0b8a6f", "#8b949e"
_SMALLEST_CELL = 256  # pixels; smaller pictures are enlarged by a whole factor, up to about this


@dataclass(frozen=True)
class Column:
    """One column of a comparison.

    Attributes:
        title: its heading.
        notes: small lines under the heading; every column has equally many.
        share: length of the bar under the notes, 0 to 1 of the column.
        pictures: one per caption, of one size.
        badge: a few words under the notes, in the bar's colour.
        is_baseline: drawn in grey.
    """

    title: str
    notes: tuple[str, ...]
    share: float
    pictures: Sequence[Image.Image]
    badge: str = ""
    is_baseline: bool = False


def compose(captions: Sequence[str], columns: Sequence[Column]) -> Image.Image:
    """One picture: captions are rows, columns stand side by side.

    Args:
        captions: one per row.
        columns: at least one.

    Returns:
        RGB; everything in it scales with the size of the pictures.
    """
    side = max(columns[0].pictures[0].size)
    factor = max(1, round(_SMALLEST_CELL / side))
    width, height = (factor * edge for edge in columns[0].pictures[0].size)
    unit = width / 16
    margin, gap, label = round(1.6 * unit), round(0.8 * unit), round(10 * unit)
    lines = len(columns[0].notes) + any(column.badge for column in columns)
    heading = round((2.4 + 1.7 * lines + 1.9) * unit)

    left = margin + label + gap
    top = margin + heading
    sheet = Image.new(
        "RGB",
        (
            left + len(columns) * (width + gap) - gap + margin,
            top + len(captions) * (height + gap) - gap + margin,
        ),
        PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    corners = _rounded(width, height, round(0.5 * unit))
    for row, caption in enumerate(captions):
        middle = top + row * (height + gap) + height // 2
        _write_caption(pen, caption, (margin, middle), (label, height), unit)
    for number, column in enumerate(columns):
        x = left + number * (width + gap)
        _write_heading(pen, column, lines, (x, margin), width, unit)
        for row, picture in enumerate(column.pictures):
            large = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
            sheet.paste(large, (x, top + row * (height + gap)), corners)
    return sheet


@cache
def font(size: float) -> FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow ships, in pixels."""
    return ImageFont.load_default(round(size))


def _write_heading(
    pen: ImageDraw.ImageDraw,
    column: Column,
    lines: int,
    at: tuple[int, int],
    width: int,
    unit: float,
) -> None:
    """Title, `lines` of notes and badge, and the bar."""
    x, y = at
    colour = PLAIN if column.is_baseline else ACCENT
    base = y + 1.5 * unit
    bold = font(1.6 * unit)
    # Pillow ships one font of one weight; a thin outline makes it bold.
    pen.text((x, base), column.title, INK, bold, anchor="ls", stroke_width=0.025 * unit)
    for line, note in enumerate((*column.notes, column.badge)):
        paint = GREY if line < len(column.notes) else colour
        pen.text((x, y + (2.4 + 1.7 * line) * unit), note, paint, font(1.2 * unit))
    bar = y + (2.4 + 1.7 * lines + 0.35) * unit
    thickness = 0.45 * unit
    for share, paint in ((1.0, TRACK), (column.share, colour)):
        end = x + max(thickness, share * (width - 1))
        pen.rounded_rectangle((x, bar, end, bar + thickness), thickness / 2, paint)


def _write_caption(
    pen: ImageDraw.ImageDraw,
    caption: str,
    middle_left: tuple[int, int],
    room: tuple[int, int],
    unit: float,
) -> None:
    """A caption, wrapped; an ellipsis replaces lines that do not fit."""
    face = font(1.3 * unit)
    lines = wrap(caption, room[0], face)
    fitting = max(1, int(room[1] / (1.8 * unit)))
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], lines[fitting - 1] + " …"]
    x, middle = middle_left
    y = middle - 0.9 * unit * len(lines)
    for number, line in enumerate(lines):
        pen.text((x, y + 1.8 * unit * number), line, INK, face)


def wrap(text: str, width: float, face: FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of whole words that fit the width; a wider word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and face.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _rounded(width: int, height: int, radius: int) -> Image.Image:
    """A mask with smooth round corners."""
    finer = 4
    mask = Image.new("L", (finer * width, finer * height))
    box = (0, 0, finer * width - 1, finer * height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, finer * radius, 255)
    return mask.resize((width, height), Image.Resampling.LANCZOS)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text: the first row is the head, the first column is flush left.

    Args:
        rows: of equal length.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width for width in widths]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        first, *rest = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *rest)).rstrip())
    return "\n".join(lines)
