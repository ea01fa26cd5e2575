"""Logits to the target distribution: guidance, grammar, temperature, top-k, top-p, log-softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from sjd2.kernels.target.cpu import descending, drop_below, kth_largest
from sjd2.kernels.types import Rules


def target_log_probs(logits: Tensor, rules: Rules, forced: Tensor | None = None) -> Tensor:
    """The distribution that a token is drawn from, for every column.

    Args:
        logits: [R, W, V] of any float dtype; R = B, or 2 B with guidance, conditional rows first.
        rules: guidance, temperature, top-k and top-p.
        forced: int64 [B, W] or None; the token that the grammar fixes, -1 where it is free.

    Returns:
        [B, W, V] log-probabilities, float32 (float64 for float64 logits).
    """
    logits = guide(logits, rules.guidance_scale)
    if rules.temperature != 1.0:
        # Times the inverse, not over the temperature: torch does that on a GPU, and only there.
        logits = logits * (1 / rules.temperature)
    if 0 < rules.top_k < logits.shape[-1]:
        logits = _keep_top_k(logits, rules.top_k)
    if rules.top_p < 1.0:
        logits = _keep_top_p(logits, rules.top_p)
    if forced is not None:
        tokens = torch.arange(logits.shape[-1], device=logits.device)
        is_forced = forced.unsqueeze(-1)
        one_hot = torch.where(tokens == is_forced, 0.0, -torch.inf).to(logits.dtype)
        logits = torch.where(is_forced >= 0, one_hot, logits)
    return torch.log_softmax(logits, dim=-1)


def guide(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance `u + scale (c - u)` over the two halves of the batch; 1 = no halves.

    Args:
        logits: [2 B, W, V], conditional rows first, or [B, W, V] where the scale is 1.
        scale: the guidance scale.

    Returns:
        [B, W, V], float32 (float64 for float64 logits).
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if scale == 1.0:
        return logits
    conditional, unconditional = logits.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def _keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Drop what is below the k-th largest logit; ties with it stay, as in transformers."""
    return drop_below(logits, kth_largest(logits, k))


def _keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens until their mass reaches `p`; ties with the last one stay."""
    ordered = descending(logits)
    probability = ordered.softmax(dim=-1)
    mass_before = probability.cumsum(dim=-1) - probability
    # The most likely token has no mass before it, so one is kept, but for rows of NaN.
    last = (mass_before < p).sum(dim=-1, keepdim=True).sub(1).clamp(min=0)
    return drop_below(logits, ordered.gather(-1, last))
