"""`token_log_probs`: how likely the tokens of a verdict were, read from what it leaves behind."""

from __future__ import annotations

from torch import Tensor

from sjd2.kernels.target.eager import guide
from sjd2.kernels.types import Rules, Verdict
from sjd2.kernels.verify_window.eager import grammar_at


def token_log_probs(
    verdict: Verdict, rules: Rules, *, position: Tensor, grammar: Tensor | None = None
) -> Tensor:
    """Log-probabilities of a verdict's tokens under the distributions that they were decided by.

    One number per column is gathered from what the next window keeps anyway; the vocabulary is not
    gone over again. It serves both implementations, so it has no twin.

    Args:
        verdict: of `verify_window`, its window not re-drafted since.
        rules: that it was decided by.
        position: int64 [B], picture position of column 0.
        grammar: int64 [length] or None; a token that it forces is certain.

    Returns:
        float32 [B, W] (float64 for float64 logits); for committed tokens those of the target.

    Sync: none.
    """
    window, tokens = verdict.window, verdict.tokens.unsqueeze(-1)
    if window.draft_stats is None:
        found = window.draft_logits.gather(-1, tokens).squeeze(-1)
    else:
        copies = len(window.draft_logits) // len(tokens)
        picked = window.draft_logits.gather(-1, tokens.repeat(copies, 1, 1))
        score = guide(picked, rules.guidance_scale).squeeze(-1) * (1 / rules.temperature)
        peak, log_sum, _ = window.draft_stats.unbind(-1)
        found = (score - peak) - log_sum  # no token that was decided on is below the cut
    if grammar is not None:
        is_forced = grammar_at(grammar, position, verdict.tokens.shape[1]) >= 0
        found = found.masked_fill(is_forced, 0.0)
    return found
