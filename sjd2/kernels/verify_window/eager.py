"""Eager twin of `verify_window`: read this to understand the kernel.

The same rule decides every column: keep its draft `x ~ q` with probability `min(1, p(x) / q(x))`,
else draw from the residual `max(p - q, 0)`. Up to the first draft that is not kept this is
speculative verification; behind it, it is the maximal coupling of the drafts to this forward's `p`.
So every column is decided once, and verification only counts the leading drafts that were kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sjd2.kernels.philox import Stream
from sjd2.kernels.target.cpu import exp
from sjd2.kernels.target.eager import target_log_probs
from sjd2.kernels.types import Coupling, DraftKind, Rules, Verdict, Window
from sjd2.kernels.verify_window.cpu import all_entries, entries, holds
from sjd2.kernels.verify_window.draws import Draws, PhiloxDraws


def verify_window(
    logits: Tensor,
    window: Window,
    rules: Rules,
    *,
    seed: Tensor,
    position: Tensor,
    iteration: int,
    begun: Tensor | None = None,
    length: int,
    grammar: Tensor | None = None,
    noisy: Tensor | None = None,
    next_width: int | None = None,
) -> Verdict:
    """Eager twin of `sjd2.kernels.verify_window`; see there for the arguments."""
    forced = None if grammar is None else grammar_at(grammar, position, logits.shape[1])
    log_p = target_log_probs(logits, rules, forced)
    # In same-seed mode, what enters depends on its position alone and not on the iteration.
    if rules.verify == "gumbel":
        iteration, begun = 0, None
    draws = PhiloxDraws(seed, position, iteration, begun)
    return decide(
        log_p,
        window,
        rules,
        draws,
        position=position,
        length=length,
        grammar=grammar,
        noisy=noisy,
        next_width=next_width,
    )


def decide(
    log_p: Tensor,
    window: Window,
    rules: Rules,
    draws: Draws,
    *,
    position: Tensor,
    length: int,
    grammar: Tensor | None = None,
    noisy: Tensor | None = None,
    next_width: int | None = None,
) -> Verdict:
    """Couple every column to its target, count the accepted run, slide the window.

    Args:
        log_p: float [B, W, V], this forward's target log-probabilities.
        window: the drafts and their distributions.
        rules: `verify`, `coupling` and `start` are read.
        draws: the randomness.
        position: int64 [B], picture position of column 0.
        length: tokens in a picture; columns beyond it are never committed.
        grammar: int64 [length] or None, forced tokens, -1 where free.
        noisy: bool [B, W] or None, slots that were fed noise instead of a draft. Columns from the
            first of them on are not committed.
        next_width: columns of the next window, W or more; None is W.

    Returns:
        The verdict, with next iteration's window.
    """
    if rules.verify == "ratio":
        tokens, kept = couple(log_p, window, draws, rules.coupling)
    else:
        tokens = same_seed(log_p, draws) if rules.verify == "gumbel" else log_p.argmax(dim=-1)
        kept = tokens == window.tokens
    run = kept.long().cumprod(dim=1).sum(dim=1)
    committable = (length - position).clamp(min=0, max=log_p.shape[1])
    if noisy is not None:
        clean = (~noisy).long().cumprod(dim=1).sum(dim=1)
        committable = torch.minimum(committable, clean)
    accept_length = torch.minimum(run + 1, committable)
    accepted = torch.minimum(run, committable)
    last = _newest(tokens, accept_length, window.slots[:, 0])
    beside = None
    if grammar is not None:
        beside = grammar_at(grammar, position + log_p.shape[1] - 1, 1) >= 0
    next_width = next_width or log_p.shape[1]
    drafts, kinds = _slide(tokens, log_p, accept_length, rules, draws, next_width, beside)
    slots = torch.cat((last[:, None], drafts), dim=1)
    slid = force(Window(slots, kinds, log_p, accept_length), position + accept_length, grammar)
    return Verdict(accept_length, accepted, tokens, slid)


def couple(
    log_p: Tensor, window: Window, draws: Draws, coupling: Coupling
) -> tuple[Tensor, Tensor]:
    """Ratio verification. Returns every column's token and whether it is its draft, both [B, W]."""
    log_p_draft = log_p.gather(-1, window.tokens.unsqueeze(-1)).squeeze(-1)
    kept = draws.accept(log_p_draft - draft_log_probs(window, log_p.shape[-1]))
    run = kept.long().cumprod(dim=1).sum(dim=1, keepdim=True)
    columns = torch.arange(kept.shape[1], device=kept.device)
    tokens, rejected = window.tokens, ~kept
    if coupling == "independent":
        # SJD: behind the accepted run every column is drawn again, whatever its draft was worth.
        behind, rejected = columns > run, columns == run
        rows, cols = entries(behind)
        p = exp(log_p[rows, cols])
        redrawn = draws.choose(p, rows, cols, Stream.DRAFT)
        tokens = _replace(tokens, behind, rows, cols, redrawn)
    rows, cols = entries(rejected)
    log_q = _log_q(window, rows, cols, log_p.shape[-1])
    residual = _residual(log_p[rows, cols], log_q)
    recovered = draws.choose(residual, rows, cols, Stream.RESIDUAL)
    return _replace(tokens, rejected, rows, cols, recovered), kept


def same_seed(log_p: Tensor, draws: Draws) -> Tensor:
    """The token that sequential sampling draws with the same noise, for every column: [B, W]."""
    rows, columns = all_entries(log_p[..., 0])
    return draws.choose_again(log_p.flatten(0, 1), rows, columns).view(log_p.shape[:2])


def draft_log_probs(window: Window, vocab_size: int) -> Tensor:
    """`log q` of every draft, [B, W]."""
    kinds, tokens = window.kinds, window.tokens
    rows = torch.arange(tokens.shape[0], device=tokens.device)[:, None]
    full = window.draft_logits[rows, stored_at(window), tokens]
    uniform = torch.full_like(full, -math.log(vocab_size))
    known = torch.where(kinds == DraftKind.UNIFORM, uniform, 0.0)
    return torch.where(kinds == DraftKind.FULL, full, known)


def _log_q(window: Window, rows: Tensor, columns: Tensor, vocab_size: int) -> Tensor:
    """`log q` of every token, for M columns: [M, V]."""
    kinds = window.kinds[rows, columns].unsqueeze(-1)
    full = window.draft_logits[rows, stored_at(window)[rows, columns]]
    if holds((kinds == DraftKind.FULL).all()):
        return full
    token_ids = torch.arange(vocab_size, device=full.device)
    is_draft = token_ids == window.tokens[rows, columns].unsqueeze(-1)
    one_hot = torch.zeros_like(full).masked_fill_(~is_draft, -torch.inf)
    uniform = torch.full_like(full, -math.log(vocab_size))
    known = torch.where(kinds == DraftKind.UNIFORM, uniform, one_hot)
    return torch.where(kinds == DraftKind.FULL, full, known)


def stored_at(window: Window) -> Tensor:
    """Index of every column in `draft_logits`, [B, W]; entered columns share the last one."""
    columns = torch.arange(window.tokens.shape[1], device=window.offset.device)
    return (columns + window.offset[:, None]).clamp_(max=window.draft_logits.shape[1] - 1)


def _residual(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`max(p - q, 0)`, unnormalised; `p` where rounding leaves a residual of zero."""
    p = exp(log_p)
    residual = (p - exp(log_q)).clamp_(min=0)
    exhausted = residual.amax(dim=-1, keepdim=True) == 0
    if holds(~exhausted.any()):
        return residual
    return torch.where(exhausted, p, residual)


def _newest(tokens: Tensor, accept_length: Tensor, last: Tensor) -> Tensor:
    """Every row's last committed token, [B]; `last` where this iteration committed none."""
    newest = tokens.gather(1, (accept_length - 1).clamp(min=0)[:, None]).squeeze(1)
    return torch.where(accept_length > 0, newest, last)


def _slide(
    tokens: Tensor,
    log_p: Tensor,
    accept_length: Tensor,
    rules: Rules,
    draws: Draws,
    width: int,
    beside: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Drop the committed columns and append new ones: drafts and kinds, both [B, width].

    `beside` is bool [B, 1] or None: whether new columns enter beside a forced token.
    """
    last = log_p.shape[1] - 1
    source = torch.arange(width, device=tokens.device) + accept_length[:, None]
    is_new = source > last
    # Clamping repeats the last column's token, which is what `start="repeat"` wants.
    drafts, entering = tokens.gather(1, source.clamp(max=last)), DraftKind.ONEHOT
    if rules.start == "uniform":
        drafts = torch.where(is_new, draws.fresh(source, log_p.shape[2]), drafts)
        entering = DraftKind.UNIFORM
    elif rules.start == "neighbour":
        drafts = _drawn_beside(drafts, is_new, source, log_p[:, last], rules, draws)
        entering = DraftKind.FULL
    kinds = torch.where(is_new, int(entering), int(DraftKind.FULL))
    if rules.start == "neighbour" and beside is not None:
        # A forced token has probability one, which no logits express.
        kinds = kinds.masked_fill(beside & is_new, int(DraftKind.ONEHOT))
    return drafts, kinds.to(torch.uint8)


def _drawn_beside(
    drafts: Tensor, is_new: Tensor, source: Tensor, log_p: Tensor, rules: Rules, draws: Draws
) -> Tensor:
    """The drafts; new ones are drawn from the distribution [B, V] of the last column."""
    rows, columns = entries(is_new)
    if rules.verify == "greedy":
        entering = log_p.argmax(dim=-1)[rows]
    elif rules.verify == "gumbel":
        entering = draws.choose_again(log_p.index_select(0, rows), rows, source[rows, columns])
    else:
        p = exp(log_p)
        entering = draws.choose(p.index_select(0, rows), rows, source[rows, columns], Stream.DRAFT)
    return _replace(drafts, is_new, rows, columns, entering)


def first_window(
    seed: Tensor, width: int, vocab_size: int, *, grammar: Tensor | None = None
) -> Window:
    """Eager twin of `sjd2.kernels.first_window`; see there for the arguments."""
    position = torch.zeros_like(seed)
    columns = torch.arange(width, device=seed.device).expand(seed.shape[0], -1)
    drafts = PhiloxDraws(seed, position, iteration=0).fresh(columns, vocab_size)
    kinds = torch.full_like(drafts, int(DraftKind.UNIFORM), dtype=torch.uint8)
    nothing_stored = torch.zeros(seed.shape[0], 1, vocab_size, device=seed.device)
    slots = torch.cat((position[:, None], drafts), dim=1)
    return force(Window(slots, kinds, nothing_stored, position), position, grammar)


def force(window: Window, position: Tensor, grammar: Tensor | None) -> Window:
    """Write the tokens that the grammar forces into their columns."""
    if grammar is None:
        return window
    forced = grammar_at(grammar, position, window.tokens.shape[1])
    drafts = torch.where(forced >= 0, forced, window.tokens)
    slots = torch.cat((window.slots[:, :1], drafts), dim=1)
    kinds = window.kinds.masked_fill(forced >= 0, int(DraftKind.ONEHOT))
    return window._replace(slots=slots, kinds=kinds)


def grammar_at(grammar: Tensor, position: Tensor, width: int) -> Tensor:
    """Forced tokens of `width` columns from `position` [B] on: [B, width], -1 where free."""
    at = position[:, None] + torch.arange(width, device=position.device)
    inside = at < grammar.shape[0]
    return torch.where(inside, grammar[at.clamp(max=grammar.shape[0] - 1)], -1)


def _replace(tokens: Tensor, mask: Tensor, rows: Tensor, columns: Tensor, new: Tensor) -> Tensor:
    """A copy of `tokens` with the masked ones of the listed entries replaced."""
    replaced = tokens.clone()
    replaced[rows, columns] = torch.where(mask[rows, columns], new, tokens[rows, columns])
    return replaced
