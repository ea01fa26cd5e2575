"""What top-k and top-p leave, by hand."""

from __future__ import annotations

import pytest
import torch

from sjd2.kernels import Rules
from sjd2.kernels.target.eager import target_log_probs


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"top_k": 1}, 1),
        ({"top_k": 3}, 3),
        ({"top_p": 0.45}, 1),
        ({"top_p": 0.7}, 2),
        ({"top_p": 0.85}, 3),
        ({"top_k": 2, "top_p": 0.6}, 1),  # 0.5 is 5/8 of what top-k leaves
        ({"top_k": 3, "top_p": 0.99}, 3),
    ],
    ids=str,
)
def test_filters_keep_the_tokens_that_their_definition_keeps(
    settings: dict[str, float], left: int
) -> None:
    """Kills: top-p without the token that reaches it, or one more; of the mass before top-k."""
    p = torch.tensor([0.15, 0.5, 0.05, 0.3])
    rules = Rules(**settings)  # type: ignore[arg-type]
    found = target_log_probs(p.log().view(1, 1, -1), rules).exp().flatten()
    kept = p * (p >= p.sort(descending=True).values[left - 1])
    torch.testing.assert_close(found, kept / kept.sum())
