"""`verify_window` in two launches: one program per column, then one per row.

The mathematics is that of the eager twin, `kernels/reference/verify_window.py`. What differs is
that nothing of size [W, V] is written: a law stays what the model made it, logits, and five numbers
per column say how to read them as log-probabilities (see `law.py`).
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels._philox import Stream
from sjd2.kernels._triton import philox
from sjd2.kernels._triton.launch import EXACT, tiles_for
from sjd2.kernels._triton.law import draw, law_of, log_probabilities, recover, scores
from sjd2.kernels.types import DraftKind, Rules, Verdict, Window

_MODES = {"maximal": 0, "independent": 1, "gumbel": 2, "greedy": 3}

_INDEPENDENT = tl.constexpr(_MODES["independent"])
_GUMBEL = tl.constexpr(_MODES["gumbel"])
_FULL = tl.constexpr(int(DraftKind.FULL))
_UNIFORM = tl.constexpr(int(DraftKind.UNIFORM))
_ONEHOT = tl.constexpr(int(DraftKind.ONEHOT))
_DRAFT = tl.constexpr(int(Stream.DRAFT))
_ACCEPT = tl.constexpr(int(Stream.ACCEPT))

# Per column: what makes a law of its logits, and what its two possible drafts have under it.
_PEAK, _LOG_SUM, _CUT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_LOG_Q, _LOG_Q_REDRAWN = tl.constexpr(3), tl.constexpr(4)
_STATS = tl.constexpr(5)


@triton.jit(do_not_specialize=["iteration"])
def columns_kernel(
    logits,
    law,
    law_width,
    law_stats,
    slots,
    slots_row,
    kinds,
    kinds_row,
    offset,
    seed,
    position,
    grammar,
    grammar_length,
    kept_out,
    token_out,
    redrawn_out,
    stats_out,
    iteration,
    vocab,
    log_uniform,
    guidance,
    cooling,
    top_p,
    MODE: tl.constexpr,
    GUIDED: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    HAS_GRAMMAR: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
    RACE: tl.constexpr,
    RACES: tl.constexpr,
):
    """Decide one column: whether its draft is kept, and what stands there otherwise."""
    column, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    width, images = tl.num_programs(0), tl.num_programs(1).to(tl.int64)
    entry = image * width + column
    stats = stats_out + entry * _STATS
    at = tl.load(position + image).to(tl.int32) + column
    draft = tl.load(slots + image * slots_row + column + 1).to(tl.int32)
    forced = -1
    if HAS_GRAMMAR:
        forced = tl.load(grammar + at, mask=at < grammar_length, other=-1).to(tl.int32)
    if forced >= 0:
        tl.store(kept_out + entry, (draft == forced).to(tl.int8))
        tl.store(token_out + entry, forced)
        tl.store(redrawn_out + entry, forced)
    else:
        key = tl.load(seed + image)
        row = logits + entry * vocab
        source = (row, row + images * width * vocab, vocab, guidance, cooling)
        p = law_of(source, top_p, TOP_K, TOP_P, GUIDED, BLOCK, CHUNKS)
        redrawn = draft
        if MODE >= _GUMBEL:
            # Same-seed noise depends on where a column stands, not on when it is decided.
            token = draw(source, p, key, at, at * 0, MODE == _GUMBEL, GUIDED, RACE, RACES)
            kept = token == draft
        else:
            is_full = tl.load(kinds + image * kinds_row + column) == _FULL
            is_uniform = tl.load(kinds + image * kinds_row + column) == _UNIFORM
            stored = tl.minimum(column + tl.load(offset + image), law_width - 1)
            old_entry = image * law_width + stored
            old_stats = law_stats + old_entry * _STATS
            log_q = 0.0
            if is_full:
                log_q = tl.load(old_stats + _LOG_Q)
            elif is_uniform:
                log_q = log_uniform
            u, _ = philox.pair(key, at * 0, at, iteration, _ACCEPT)
            log_p = log_probabilities(scores(source, draft, GUIDED), p)
            kept = tl.log(u) < log_p - log_q
            token = draft
            if not kept:
                old_row = law + old_entry * vocab
                old_twin = old_row + images * law_width * vocab
                q = (
                    tl.load(old_stats + _PEAK, mask=is_full, other=0.0),
                    tl.load(old_stats + _LOG_SUM, mask=is_full, other=0.0),
                    tl.load(old_stats + _CUT, mask=is_full, other=0.0),
                )
                token = recover(
                    source,
                    p,
                    (old_row, old_twin, vocab, guidance, cooling),
                    q,
                    log_uniform,
                    draft,
                    is_full,
                    is_uniform,
                    key,
                    at,
                    iteration,
                    GUIDED,
                    RACE,
                    RACES,
                )
            if MODE == _INDEPENDENT:
                redrawn = draw(source, p, key, at, iteration, True, GUIDED, RACE, RACES)
                log_p = log_probabilities(scores(source, redrawn, GUIDED), p)
                tl.store(stats + _LOG_Q_REDRAWN, log_p)
            tl.store(stats + _LOG_Q, log_probabilities(scores(source, token, GUIDED), p))
        peak, log_sum, cut = p
        tl.store(stats + _PEAK, peak)
        tl.store(stats + _LOG_SUM, log_sum)
        tl.store(stats + _CUT, cut)
        tl.store(kept_out + entry, kept.to(tl.int8))
        tl.store(token_out + entry, token)
        tl.store(redrawn_out + entry, redrawn)


@triton.jit
def _tokens_at(columns, run, token_in, redrawn_in, mask, MODE: tl.constexpr):
    """What stands in some columns after the decision."""
    tokens = tl.load(token_in + columns, mask=mask, other=0)
    if MODE == _INDEPENDENT:
        # SJD: behind the accepted run every column is drawn again, whatever its draft was worth.
        redrawn = tl.load(redrawn_in + columns, mask=mask, other=0)
        tokens = tl.where(columns > run, redrawn, tokens)
    return tokens


@triton.jit(do_not_specialize=["iteration"])
def rows_kernel(
    kept_in,
    token_in,
    redrawn_in,
    stats,
    slots,
    slots_row,
    noisy,
    noisy_row,
    seed,
    position,
    grammar,
    grammar_length,
    accept_length_out,
    accepted_out,
    tokens_out,
    slots_out,
    kinds_out,
    iteration,
    length,
    vocab,
    width,
    MODE: tl.constexpr,
    REPEATS: tl.constexpr,
    HAS_GRAMMAR: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Count a row's accepted run and slide its window."""
    image = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    entry = image * width
    kept = tl.load(kept_in + entry + columns, mask=inside, other=0)
    run = tl.min(tl.where(kept == 0, columns, width), axis=0)
    run = tl.minimum(run, width)
    at = tl.load(position + image)
    committable = tl.minimum(tl.maximum(length - at, 0), width)
    if HAS_NOISE:
        fed_noise = tl.load(noisy + image * noisy_row + columns, mask=inside, other=0)
        clean = tl.min(tl.where(fed_noise != 0, columns, width), axis=0)
        committable = tl.minimum(committable, clean)
    accept_length = tl.minimum(run + 1, committable)
    tl.store(accept_length_out + image, accept_length)
    tl.store(accepted_out + image, tl.minimum(run, committable))

    token_in += entry
    redrawn_in += entry
    tokens = _tokens_at(columns, run, token_in, redrawn_in, inside, MODE)
    tl.store(tokens_out + entry + columns, tokens, mask=inside)
    if MODE == _INDEPENDENT:
        entries = stats + (entry + columns) * _STATS
        behind = inside & (columns > run)
        redrawn_log_q = tl.load(entries + _LOG_Q_REDRAWN, mask=behind, other=0.0)
        tl.store(entries + _LOG_Q, redrawn_log_q, mask=behind)

    # The last committed token becomes slot 0; a row that commits nothing keeps the one it has.
    newest = tl.maximum(accept_length - 1, 0)
    last = _tokens_at(newest, run, token_in, redrawn_in, newest >= 0, MODE)
    if accept_length == 0:
        last = tl.load(slots + image * slots_row)
    slots_out += image * (width + 1)
    tl.store(slots_out, last)

    source = columns + accept_length
    is_new = source >= width
    if REPEATS:
        moved = tl.minimum(source, width - 1)
        drafts = _tokens_at(moved, run, token_in, redrawn_in, inside, MODE)
        kinds = tl.where(is_new, _ONEHOT, _FULL)
    else:
        when = iteration
        if MODE == _GUMBEL:
            when = iteration * 0
        bits = philox.word(tl.load(seed + image), (at + source).to(tl.int32), when, _DRAFT)
        fresh = ((bits * vocab.to(tl.uint64)) >> 32).to(tl.int64)
        drafts = _tokens_at(source, run, token_in, redrawn_in, inside & (source < width), MODE)
        drafts = tl.where(is_new, fresh, drafts)
        kinds = tl.where(is_new, _UNIFORM, _FULL)
    if HAS_GRAMMAR:
        there = at + source
        forced = tl.load(grammar + there, mask=inside & (there < grammar_length), other=-1)
        drafts = tl.where(forced >= 0, forced, drafts)
        kinds = tl.where(forced >= 0, _ONEHOT, kinds)
    tl.store(slots_out + 1 + columns, drafts, mask=inside)
    tl.store(kinds_out + entry + columns, kinds.to(tl.uint8), mask=inside)


@torch.library.custom_op("sjd2::verify_window", mutates_args=())
def _verify_window(
    logits: Tensor,
    slots: Tensor,
    kinds: Tensor,
    law: Tensor,
    law_stats: Tensor | None,
    offset: Tensor,
    seed: Tensor,
    position: Tensor,
    grammar: Tensor | None,
    noisy: Tensor | None,
    iteration: int,
    length: int,
    guidance_scale: float,
    temperature: float,
    top_k: int,
    top_p: float,
    mode: int,
    repeats: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    images, width, vocab = len(slots), logits.shape[1], logits.shape[2]
    outputs = _outputs(slots, width)
    accept_length, accepted, tokens, next_slots, next_kinds, stats = outputs
    kept = torch.empty(images, width, dtype=torch.int8, device=slots.device)
    token, redrawn = (torch.empty_like(tokens) for _ in range(2))
    # Nothing is read through these where their flag is off.
    absent = slots
    columns_kernel[(width, images)](
        logits,
        law,
        law.shape[1],
        stats if law_stats is None else law_stats,
        slots,
        slots.stride(0),
        kinds,
        kinds.stride(0),
        offset,
        seed,
        position,
        absent if grammar is None else grammar,
        0 if grammar is None else len(grammar),
        kept,
        token,
        redrawn,
        stats,
        iteration,
        vocab,
        -math.log(vocab),
        guidance_scale,
        1 / temperature,
        top_p,
        MODE=mode,
        GUIDED=guidance_scale != 1.0,
        TOP_K=top_k if top_k < vocab else 0,
        TOP_P=top_p < 1.0,
        HAS_GRAMMAR=grammar is not None,
        **tiles_for(vocab, top_p < 1.0),
    )
    rows_kernel[(images,)](
        kept,
        token,
        redrawn,
        stats,
        slots,
        slots.stride(0),
        absent if noisy is None else noisy,
        0 if noisy is None else noisy.stride(0),
        seed,
        position,
        absent if grammar is None else grammar,
        0 if grammar is None else len(grammar),
        accept_length,
        accepted,
        tokens,
        next_slots,
        next_kinds,
        iteration,
        length,
        vocab,
        width,
        MODE=mode,
        REPEATS=repeats,
        HAS_GRAMMAR=grammar is not None,
        HAS_NOISE=noisy is not None,
        COLUMNS=triton.next_power_of_2(width),
        num_warps=1,
        **EXACT,
    )
    return outputs


def _outputs(slots: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    images = slots.shape[0]
    return (
        slots.new_empty(images),
        slots.new_empty(images),
        slots.new_empty(images, width),
        slots.new_empty(images, width + 1),
        slots.new_empty(images, width, dtype=torch.uint8),
        slots.new_empty(images, width, _STATS.value, dtype=torch.float32),
    )


@_verify_window.register_fake
def _(logits: Tensor, slots: Tensor, *args: object) -> tuple[Tensor, ...]:
    return _outputs(slots, logits.shape[1])


def verify_window(
    logits: Tensor,
    window: Window,
    rules: Rules,
    *,
    seed: Tensor,
    position: Tensor,
    iteration: int,
    length: int,
    grammar: Tensor | None = None,
    noisy: Tensor | None = None,
) -> Verdict:
    """Triton path of `sjd2.kernels.verify_window`; see there for the arguments."""
    logits = logits.contiguous()
    accept_length, accepted, tokens, slots, kinds, stats = _verify_window(
        logits,
        window.slots,
        window.kinds,
        window.law,
        window.law_stats,
        window.offset,
        seed,
        position,
        grammar,
        noisy,
        iteration,
        length,
        rules.guidance_scale,
        rules.temperature,
        rules.top_k,
        rules.top_p,
        _MODES[rules.coupling if rules.verify == "ratio" else rules.verify],
        rules.start == "repeat",
    )
    return Verdict(
        accept_length, accepted, tokens, Window(slots, kinds, logits, accept_length, stats)
    )
