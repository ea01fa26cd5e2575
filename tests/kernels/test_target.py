"""What top-k and top-p leave, by hand."""

from __future__ import annotations

import pytest
import torch

from sjd2.kernels import Rules, eager
from sjd2.kernels.target.eager import target_log_probs

P = torch.tensor([0.15, 0.5, 0.05, 0.3])
FILTERS = pytest.mark.parametrize(
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


@FILTERS
def test_filters_keep_the_tokens_that_their_definition_keeps(
    settings: dict[str, float], left: int
) -> None:
    """Kills: top-p without the token that reaches it, or one more; of the mass before top-k."""
    rules = Rules(**settings)  # type: ignore[arg-type]
    found = target_log_probs(P.log().view(1, 1, -1), rules).exp().flatten()
    torch.testing.assert_close(found, kept(left))


@FILTERS
def test_a_kernel_keeps_the_tokens_that_their_definition_keeps(
    settings: dict[str, float], left: int
) -> None:
    """Kills: a cut one token off, top-p of the mass that top-k has dropped."""
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("Triton is not interpreted here")
    from sjd2.kernels import triton

    zero, logits = torch.tensor([0]), P.log().view(1, 1, -1)
    window = eager.first_window(zero, 1, len(P))
    rules = Rules(**settings)  # type: ignore[arg-type]
    at = {"seed": zero, "position": zero}
    verdict = triton.verify_window(logits, window, rules, **at, iteration=1, length=9)
    assert verdict.window.draft_stats is not None
    peak, log_sum, cut = verdict.window.draft_stats.flatten()
    found = torch.where(P.log() < cut, 0, (P.log() - peak - log_sum).exp())
    torch.testing.assert_close(found, kept(left))


def kept(left: int) -> torch.Tensor:
    """The distribution of so many of the likeliest tokens."""
    likeliest = P * (P.sort(descending=True).values[left - 1] <= P)
    return likeliest / likeliest.sum()
