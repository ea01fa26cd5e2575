"""Eager twins of `activate_window` and `correct_window`: read this to understand the kernels.

Every draft `x ~ q` gets a new distribution `q'`. As in `verify_window` it is kept with probability
`min(1, q'(x) / q(x))` and otherwise drawn from the residual, by the same code and from the same
streams, but nothing is committed. In same-seed mode the fixed noise picks the draft from `q'`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sjd2.kernels.correct_window import cpu
from sjd2.kernels.types import CORRECTIONS, DraftKind, Rules, Shifts, Window
from sjd2.kernels.verify_window.draws import PhiloxDraws
from sjd2.kernels.verify_window.eager import (
    couple,
    force,
    grammar_at,
    same_seed,
    stored_at,
)


def activate_window(
    state: Tensor,
    tokens: Tensor,
    shifts: Shifts,
    *,
    position: Tensor,
    rows: Tensor | None = None,
    window: Window | None = None,
    grammar: Tensor | None = None,
) -> Tensor:
    """Eager twin of `sjd2.kernels.activate_window`; see there for the arguments."""
    if rows is not None:
        tokens = tokens[rows]
    if window is not None:
        columns = position[:, None] + torch.arange(window.width, device=position.device)
        tokens = tokens.scatter(1, columns, window.tokens)
    beside = neighbours(
        tokens, shifts.offsets, len(shifts.features), position, state.shape[1], grammar
    )
    return activation(state, beside, shifts.features)


def correct_window(
    window: Window,
    scored: Window,
    state: Tensor,
    seen: Tensor,
    tokens: Tensor,
    shifts: Shifts,
    rules: Rules,
    *,
    seed: Tensor,
    position: Tensor,
    iteration: int,
    begun: Tensor | None = None,
    correction: int,
    rows: Tensor | None = None,
    grammar: Tensor | None = None,
) -> Window:
    """Eager twin of `sjd2.kernels.correct_window`; see there for the arguments."""
    images, at = torch.arange(len(seed), device=seed.device)[:, None], stored_at(scored)
    was, state, log_p = seen[images, at], state[images, at], scored.draft_logits[images, at]
    now = activate_window(
        state, tokens, shifts, position=position, rows=rows, window=window, grammar=grammar
    )
    if cpu.is_short(log_p, rules.top_k):
        scores = cpu.shift_the_possible(log_p, now - was, shifts.output)
    else:
        scores = log_p.add_((now - was) @ shifts.output.T)  # `log_p` is a copy already
    if grammar is not None:
        # A forced column has no distribution to correct, nor have columns that entered beside it.
        beside = grammar_at(grammar, position - scored.offset, scored.draft_logits.shape[1])
        token_ids = torch.arange(log_p.shape[-1], device=scores.device)
        stays = torch.where(token_ids == window.tokens.unsqueeze(-1), 0.0, -torch.inf)
        scores = torch.where((beside.gather(1, at) >= 0).unsqueeze(-1), stays, scores)
    log_q = torch.log_softmax(scores, dim=-1)
    draws = PhiloxDraws(seed, position, iteration + CORRECTIONS * correction, begun)
    if rules.verify == "greedy":
        drafts = log_q.argmax(dim=-1)
    elif rules.verify == "gumbel":
        drafts = same_seed(log_q, draws)
    else:
        drafts, _ = couple(log_q, window, draws, "maximal")
    slots = torch.cat((window.slots[:, :1], drafts), dim=1)
    kinds = torch.full_like(window.kinds, int(DraftKind.FULL))
    return force(Window(slots, kinds, log_q, torch.zeros_like(position)), position, grammar)


def activation(state: Tensor, rows: Tensor, features: Tensor) -> Tensor:
    """`silu(state + sum of features[rows])`: states [..., r], rows [..., O]."""
    beside = F.embedding_bag(rows.flatten(0, -2), features, mode="sum")
    return F.silu(state + beside.view_as(state))


def neighbours(
    tokens: Tensor,
    offsets: Tensor,
    rows: int,
    position: Tensor,
    width: int,
    grammar: Tensor | None,
) -> Tensor:
    """The neighbours of `width` columns from `position` on, as rows of the `rows` features.

    Returns:
        int64 [B, width, O].
    """
    tokens_and_none = rows // len(offsets)
    columns = position[:, None] + torch.arange(width, device=position.device)
    at = columns.unsqueeze(-1) - offsets
    inside = at.clamp(min=0)
    known, found = at >= 0, tokens.gather(1, inside.flatten(1)).view_as(at)
    if grammar is not None:
        # Forced tokens are not part of the picture.
        free = grammar_at(grammar, torch.zeros_like(position), tokens.shape[1]) < 0
        known = known & free.gather(1, inside.flatten(1)).view_as(at)
    first_row = torch.arange(len(offsets), device=offsets.device) * tokens_and_none
    return torch.where(known, found, tokens_and_none - 1) + first_row
