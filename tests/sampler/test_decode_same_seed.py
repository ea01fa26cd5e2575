"""Same-seed mode: acceleration changes no token, at any batch size and pace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sjd2
from tests.janus_model import PROMPTS, draw


@pytest.mark.parametrize("window", [2, 5, 16, 64])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("start", ["neighbour", "uniform", "repeat"])
def test_gumbel_equals_token_by_token(janus: Any, window: int, batch: int, start: str) -> None:
    """Kills: noise that depends on the iteration, the row or the window; an unverified commit."""
    rows = slice(0, batch)
    sjd2.accelerate(janus, method="ar", seed=11)
    expected = draw(janus, rows, top_k=0)
    sjd2.accelerate(janus, verify="gumbel", window=window, start=start, seed=11)
    assert torch.equal(draw(janus, rows, top_k=0), expected)
    stats = sjd2.decoding_stats(janus)
    assert stats.step_compression > 1.2
    if batch > 1:
        assert len(set(stats.accept_lengths)) > 1, "rows must differ in pace for this to mean much"


def test_same_seed_same_prompt_same_picture_in_any_company(janus: Any) -> None:
    """Kills: a draw addressed by row; a window cut by another row's end."""
    sjd2.accelerate(janus, window=16)
    together = draw(janus, slice(0, 8), seed=3, top_k=0)
    for row in range(8):
        alone = draw(janus, slice(row, row + 1), seed=3 + row, top_k=0)
        assert torch.equal(alone[0], together[row])
    assert len(PROMPTS) == 8


def test_different_seeds_draw_different_pictures(janus: Any) -> None:
    """Kills: a seed that reaches no draw."""
    sjd2.accelerate(janus, window=16)
    assert not torch.equal(draw(janus, seed=1), draw(janus, seed=101))
