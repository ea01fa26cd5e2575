"""`verify_window` in two launches: one program per column, then one per row.

The mathematics is that of the eager twin, `kernels/reference/verify_window.py`. What differs is
that nothing of size [W, V] is written: a law stays what the model made it, logits, and three
numbers per column say how to read them as log-probabilities (see `law.py`).
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels._philox import Stream
from sjd2.kernels._triton import philox
from sjd2.kernels._triton.columns import MODES, STATS, columns_kernel
from sjd2.kernels._triton.launch import EXACT, tiles_for
from sjd2.kernels.types import DraftKind, Rules, Verdict, Window

_STARTS = {"uniform": 0, "repeat": 1, "neighbour": 2}

_INDEPENDENT = tl.constexpr(MODES["independent"])
_GUMBEL = tl.constexpr(MODES["gumbel"])
_REPEAT = tl.constexpr(_STARTS["repeat"])
_NEIGHBOUR = tl.constexpr(_STARTS["neighbour"])
_FULL = tl.constexpr(int(DraftKind.FULL))
_UNIFORM = tl.constexpr(int(DraftKind.UNIFORM))
_ONEHOT = tl.constexpr(int(DraftKind.ONEHOT))
_DRAFT = tl.constexpr(int(Stream.DRAFT))


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
    entering_in,
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
    next_width,
    MODE: tl.constexpr,
    START: tl.constexpr,
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

    # The last committed token becomes slot 0; a row that commits nothing keeps the one it has.
    newest = tl.maximum(accept_length - 1, 0)
    last = _tokens_at(newest, run, token_in, redrawn_in, newest >= 0, MODE)
    if accept_length == 0:
        last = tl.load(slots + image * slots_row)
    slots_out += image * (next_width + 1)
    tl.store(slots_out, last)

    inside = columns < next_width
    source = columns + accept_length
    is_new = source >= width
    there = tl.minimum(source, width - 1)
    drafts = _tokens_at(there, run, token_in, redrawn_in, inside, MODE)
    if START == _REPEAT:
        entering = _ONEHOT
    elif START == _NEIGHBOUR:
        behind = entering_in + image * next_width + source - width
        drafts = tl.where(is_new, tl.load(behind, mask=inside & is_new, other=0), drafts)
        entering = _FULL
        if HAS_GRAMMAR:
            end = at + width - 1
            if tl.load(grammar + end, mask=end < grammar_length, other=-1) >= 0:
                entering = _ONEHOT
    else:
        when = iteration
        if MODE == _GUMBEL:
            when = iteration * 0
        bits = philox.word(tl.load(seed + image), (at + source).to(tl.int32), when, _DRAFT)
        fresh = ((bits * vocab.to(tl.uint64)) >> 32).to(tl.int64)
        drafts = tl.where(is_new, fresh, drafts)
        entering = _UNIFORM
    kinds = tl.where(is_new, entering, _FULL)
    if HAS_GRAMMAR:
        there = at + source
        forced = tl.load(grammar + there, mask=inside & (there < grammar_length), other=-1)
        drafts = tl.where(forced >= 0, forced, drafts)
        kinds = tl.where(forced >= 0, _ONEHOT, kinds)
    tl.store(slots_out + 1 + columns, drafts, mask=inside)
    tl.store(kinds_out + image * next_width + columns, kinds.to(tl.uint8), mask=inside)


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
    start: int,
    next_width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    images, width, vocab = len(slots), logits.shape[1], logits.shape[2]
    outputs = _outputs(slots, width, next_width)
    accept_length, accepted, tokens, next_slots, next_kinds, stats = outputs
    kept = torch.empty(images, width, dtype=torch.int8, device=slots.device)
    token, redrawn = (torch.empty_like(tokens) for _ in range(2))
    entering = next_width if start == _NEIGHBOUR.value else 0
    entering_tokens = slots.new_empty(images, entering)
    # Nothing is read through these where their flag is off.
    absent = slots
    columns_kernel[(width + entering, images)](
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
        entering_tokens,
        stats,
        iteration,
        width,
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
        entering_tokens,
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
        next_width,
        MODE=mode,
        START=start,
        HAS_GRAMMAR=grammar is not None,
        HAS_NOISE=noisy is not None,
        COLUMNS=triton.next_power_of_2(max(width, next_width)),
        num_warps=1,
        **EXACT,
    )
    return outputs


def _outputs(
    slots: Tensor, width: int, next_width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    images = slots.shape[0]
    return (
        slots.new_empty(images),
        slots.new_empty(images),
        slots.new_empty(images, width),
        slots.new_empty(images, next_width + 1),
        slots.new_empty(images, next_width, dtype=torch.uint8),
        slots.new_empty(images, width, STATS.value, dtype=torch.float32),
    )


@_verify_window.register_fake
def _(logits: Tensor, slots: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return _outputs(slots, logits.shape[1], next_width=args[-1])


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
    next_width: int | None = None,
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
        MODES[rules.coupling if rules.verify == "ratio" else rules.verify],
        _STARTS[rules.start],
        next_width or logits.shape[1],
    )
    return Verdict(
        accept_length, accepted, tokens, Window(slots, kinds, logits, accept_length, stats)
    )
