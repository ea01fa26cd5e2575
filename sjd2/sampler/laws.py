"""The laws that tokens were drawn from, kept where `generate` is asked for scores or logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sjd2.kernels import Rules, Verdict
from sjd2.kernels.reference.target import target_log_probs
from sjd2.kernels.reference.verify_window import grammar_at
from sjd2.sampler.state import DecodingState


def keep_laws(
    laws: Mapping[str, Tensor],
    state: DecodingState,
    verdict: Verdict,
    raw: Tensor,
    logits: Tensor,
    rules: Rules,
    grammar: Tensor | None,
) -> None:
    """Note what the tokens that a verdict commits were drawn from.

    Args:
        laws: as in `Request`; filled in.
        state: before the verdict is committed.
        verdict: on the logits.
        raw: [R, W, V], as the model gave them.
        logits: [R, W, V], or [B, W, V] where processors have run.
        rules: of the verification.
        grammar: int64 [length] or None, forced tokens, -1 where free.

    Sync: asks which columns are committed.
    """
    width = logits.shape[1]
    columns = torch.arange(width, device=logits.device)
    row, column = (columns < verdict.accept_length[:, None]).nonzero(as_tuple=True)
    at = (state.rows[row], state.columns()[row, column])
    if "scores" in laws:
        forced = None if grammar is None else grammar_at(grammar, state.position, width)
        laws["scores"][at] = target_log_probs(logits, rules, forced)[row, column].float()
    if "logits" in laws:
        laws["logits"][at] = raw[row, column].float()
