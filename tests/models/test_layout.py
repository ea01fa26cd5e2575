"""Layouts by hand: where a picture's fixed tokens stand."""

from __future__ import annotations

import torch

from sjd2.models.layout import Layout


def test_rows_end_with_their_fixed_tokens_and_the_picture_with_its_own() -> None:
    """Kills: fixed tokens before their rows, or behind the last row only; codes out of order."""
    layout = Layout(2, 3, end_of_row=(7,), after=(8, 9))
    assert layout.forced().tolist() == [-1, -1, -1, 7, -1, -1, -1, 7, 8, 9]
    assert (layout.length, layout.row_width, layout.forced_ids) == (10, 4, (7, 8, 9))
    codes = torch.arange(10, 16)[None]
    tokens = layout.put(codes)
    assert tokens.tolist() == [[10, 11, 12, 7, 13, 14, 15, 7, 8, 9]]
    assert layout.take(tokens).tolist() == [[[10, 11, 12], [13, 14, 15]]]
