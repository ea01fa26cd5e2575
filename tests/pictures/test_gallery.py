"""The comparison picture shows every picture under its heading; tables line up."""

import numpy as np
import pytest
from PIL import Image, ImageChops

from sjd2.pictures.gallery import Column, compose, text_table

COLOURS = [[(200, 30, 30), (30, 200, 30)], [(30, 30, 200), (120, 60, 10)]]


def column(colours, side=64, **changes):
    pictures = [Image.new("RGB", (side, side), colour) for colour in colours]
    options = {"title": "ar", "notes": ("256 forwards", "1.0"), "share": 1.0} | changes
    return Column(pictures=pictures, **options)


def cells(sheet, colour):
    """The box (left, top, right, bottom) that a colour fills."""
    rows, columns = np.where((np.asarray(sheet) == colour).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def differs(one, other):
    return ImageChops.difference(one, other).getbbox()


@pytest.mark.parametrize(("side", "shown"), [(64, 256), (32, 256), (384, 384), (100, 300)])
def test_compose_puts_captions_in_rows_and_methods_in_columns(side, shown):
    """Kills: swapping rows and columns, a factor that is no integer, and shrinking pictures."""
    sheet = compose(["a", "b"], [column(colours, side) for colours in COLOURS])
    boxes = [[cells(sheet, colour) for colour in colours] for colours in COLOURS]
    for box in boxes[0] + boxes[1]:
        assert (box[2] - box[0], box[3] - box[1]) == (shown, shown)
    (first, below), (beside, _) = boxes
    assert first[0] == below[0]
    assert first[3] < below[1]
    assert first[1] == beside[1]
    assert first[2] < beside[0]
    assert sheet.width > beside[2]
    assert sheet.height > below[3]


@pytest.mark.parametrize(
    ("before", "change"),
    [({}, {"title": "sjd"}), ({}, {"notes": ("", "")}), ({"badge": " "}, {"badge": "same"})],
)
def test_what_is_said_of_a_column_stands_above_it(before, change):
    """Kills: not drawing the title, the notes or the badge, or drawing them elsewhere."""
    plain = compose(["a", "b"], [column(COLOURS[0]), column(COLOURS[1], **before)])
    other = compose(["a", "b"], [column(COLOURS[0]), column(COLOURS[1], **change)])
    left, top, right, bottom = differs(plain, other)
    box = cells(plain, COLOURS[1][0])
    assert box[0] - 2 <= left
    assert right <= box[2]
    assert top > 0
    assert bottom < box[1]


def test_the_bar_is_as_long_as_the_share():
    """Kills: a bar that is always full, or 1 - share."""
    blank, quarter, full = (
        compose(["a", "b"], [column(COLOURS[0], share=share)]) for share in (0.0, 0.25, 1.0)
    )
    left, _, right, _ = differs(blank, full)
    assert (right - left) / 256 == pytest.approx(1, abs=0.03)
    left, _, right, _ = differs(quarter, full)
    assert (right - left) / 256 == pytest.approx(0.75, abs=0.03)
    assert right == pytest.approx(cells(full, COLOURS[0][0])[2], abs=2)
    assert differs(blank, quarter)[2] < left + 4


def test_captions_stay_in_their_place():
    """Kills: no wrapping, no limit to the lines, and leaving the caption out."""
    columns = [column(COLOURS[0])]
    blank = compose(["", ""], columns)
    left, top, right, bottom = differs(blank, compose(["many words " * 99, ""], columns))
    box = cells(blank, COLOURS[0][0])
    assert left > 0
    assert right < box[0]
    assert box[1] - 4 <= top
    assert bottom <= box[3] + 4
    assert bottom - top > 200


def test_text_tables_line_up():
    """Kills: widths taken from the head alone, and numbers flush left."""
    table = text_table([["method", "s"], ["ar", "10.00"], ["a long one", "2.5"]])
    assert table.splitlines() == [
        "method          s",
        "----------  -----",
        "ar          10.00",
        "a long one    2.5",
    ]
