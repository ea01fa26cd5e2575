"""`correct_window` in two launches.

The first writes the scores of every corrected law, one program for some columns and some tokens;
the second is the one that decides columns in `verify_window`, told that these scores are the
target. The mathematics is that of the eager twins, `kernels/reference/correct_window.py`.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels._triton.activate_window import COLUMNS, INNER, activation
from sjd2.kernels._triton.columns import MODES, STATS, columns_kernel, forced_at, load_law
from sjd2.kernels._triton.launch import EXACT, tiles_for, warps
from sjd2.kernels._triton.law import log_probabilities, scores
from sjd2.kernels.types import CORRECTIONS, DraftKind, Rules, Shifts, Window

_TOKENS = 64  # of a program
_FULL = tl.constexpr(int(DraftKind.FULL))
_ONEHOT = tl.constexpr(int(DraftKind.ONEHOT))


@triton.jit
def shift_kernel(
    logits,
    law_width,
    law_stats,
    offset,
    slots,
    slots_row,
    state,
    seen,
    tokens,
    tokens_row,
    position,
    features,
    offsets,
    shift,
    grammar,
    grammar_length,
    scores_out,
    slots_out,
    kinds_out,
    vocab,
    width,
    rank,
    guidance,
    cooling,
    OFFSETS: tl.constexpr,
    GUIDED: tl.constexpr,
    HAS_GRAMMAR: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
    INNER: tl.constexpr,
    INNERS: tl.constexpr,
):
    """Scores of some columns and tokens: log-probabilities of the forward, shifted."""
    image, images = tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    choices = (tl.program_id(1) * TOKENS + tl.arange(0, TOKENS))[None, :]
    inside = columns < width
    stored = tl.minimum(columns + tl.load(offset + image), law_width - 1)
    at = tl.load(position + image) + columns
    entry = image * law_width + stored

    shifted = tl.zeros((COLUMNS, TOKENS), tl.float32)
    for part in range(INNERS):
        inner = (part * INNER + tl.arange(0, INNER))[None, :]
        here = entry[:, None] * rank + inner
        now = activation(
            state + here,
            tokens + image * tokens_row,
            at,
            inside,
            features,
            offsets,
            grammar,
            grammar_length,
            vocab,
            rank,
            inner,
            OFFSETS,
            HAS_GRAMMAR,
        )
        before = tl.load(seen + here, mask=inside[:, None] & (inner < rank), other=0.0)
        depth = part * INNER + tl.arange(0, INNER)[:, None]
        weights = tl.load(
            shift + choices * rank + depth, mask=(choices < vocab) & (depth < rank), other=0.0
        )
        # Full precision: rounding must not turn a token.
        shifted += tl.dot(now - before, weights, input_precision="ieee")

    row = (logits + entry * vocab)[:, None]
    source = (row, row + images * law_width * vocab, vocab, guidance, cooling)
    peak, log_sum, cut = load_law(law_stats + entry[:, None] * STATS)
    log_p = log_probabilities(scores(source, choices, GUIDED), (peak, log_sum, cut))
    score = log_p + shifted
    if HAS_GRAMMAR:
        # A forced column has no law that could be corrected, nor has what entered beside one.
        beside = tl.load(position + image) - tl.load(offset + image) + stored
        lawless = forced_at(grammar, beside, grammar_length) >= 0
        draft = tl.load(slots + image * slots_row + columns + 1, mask=inside, other=0)
        stays = tl.where(choices == draft[:, None], 0.0, -float("inf"))
        score = tl.where(lawless[:, None], stays, score)
    out = scores_out + (image * width + columns)[:, None] * vocab + choices
    tl.store(out, score, mask=inside[:, None] & (choices < vocab))

    if tl.program_id(1) == 0:
        kinds = tl.full((COLUMNS,), _FULL, tl.int32)
        if HAS_GRAMMAR:
            kinds = tl.where(forced_at(grammar, at, grammar_length) >= 0, _ONEHOT, kinds)
        tl.store(kinds_out + image * width + columns, kinds.to(tl.uint8), mask=inside)
        if tl.program_id(0) == 0:
            tl.store(slots_out + image * (width + 1), tl.load(slots + image * slots_row))


@torch.library.custom_op("sjd2::correct_window", mutates_args=())
def _correct_window(
    slots: Tensor,
    kinds: Tensor,
    law: Tensor,
    law_stats: Tensor,
    is_corrected: bool,
    law_offset: Tensor,
    logits: Tensor,
    logits_stats: Tensor,
    offset: Tensor,
    state: Tensor,
    seen: Tensor,
    tokens: Tensor,
    features: Tensor,
    offsets: Tensor,
    shift: Tensor,
    seed: Tensor,
    position: Tensor,
    grammar: Tensor | None,
    iteration: int,
    begun: Tensor | None,
    guidance_scale: float,
    temperature: float,
    mode: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, width, (vocab, rank) = len(slots), kinds.shape[1], shift.shape
    outputs = _outputs(slots, kinds, shift)
    next_slots, next_kinds, corrected, stats = outputs
    absent = slots
    forced, forced_length = (absent, 0) if grammar is None else (grammar, len(grammar))
    guided = guidance_scale != 1.0
    shift_kernel[(triton.cdiv(width, COLUMNS), triton.cdiv(vocab, _TOKENS), images)](
        logits,
        logits.shape[1],
        logits_stats,
        offset,
        slots,
        slots.stride(0),
        state,
        seen,
        tokens,
        tokens.stride(0),
        position,
        features,
        offsets,
        shift,
        forced,
        forced_length,
        corrected,
        next_slots,
        next_kinds,
        vocab,
        width,
        rank,
        guidance_scale,
        1 / temperature,
        OFFSETS=len(offsets),
        GUIDED=guided,
        HAS_GRAMMAR=grammar is not None,
        COLUMNS=COLUMNS,
        TOKENS=_TOKENS,
        INNER=INNER,
        INNERS=triton.cdiv(rank, INNER),
        num_warps=warps(128),
        **EXACT,
    )
    ignored = torch.empty_like(next_slots), torch.empty_like(next_kinds)
    columns_kernel[(width, images)](
        corrected,
        law,
        law.shape[1],
        law_stats,
        slots,
        slots.stride(0),
        kinds,
        kinds.stride(0),
        law_offset,
        seed,
        position,
        forced,
        forced_length,
        ignored[1],
        next_slots[:, 1:],
        width + 1,
        ignored[0],
        stats,
        iteration,
        absent if begun is None else begun,
        vocab,
        -math.log(vocab),
        guidance_scale,
        1.0,
        1.0 if is_corrected else 1 / temperature,
        1.0,
        MODE=mode,
        GUIDED=False,
        OLD_GUIDED=guided and not is_corrected,
        TOP_K=0,
        TOP_P=False,
        HAS_GRAMMAR=grammar is not None,
        HAS_BEGUN=begun is not None,
        **tiles_for(vocab, top_p=False),
    )
    return outputs


def _outputs(slots: Tensor, kinds: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, width = kinds.shape
    return (
        slots.new_empty(images, width + 1),
        kinds.new_empty(images, width),
        shift.new_empty(images, width, len(shift)),
        shift.new_empty(images, width, STATS.value),
    )


@_correct_window.register_fake
def _(slots: Tensor, kinds: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return _outputs(slots, kinds, shift=args[12])


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
    grammar: Tensor | None = None,
) -> Window:
    """Triton path of `sjd2.kernels.correct_window`; see there for the arguments."""
    assert window.law_stats is not None
    assert scored.law_stats is not None
    slots, kinds, law, stats = _correct_window(
        window.slots,
        window.kinds,
        window.law,
        window.law_stats,
        window.is_corrected,
        window.offset,
        scored.law,
        scored.law_stats,
        scored.offset,
        state.contiguous(),
        seen,
        tokens,
        shifts.features,
        shifts.offsets,
        shifts.output,
        seed,
        position.contiguous(),
        grammar,
        iteration + CORRECTIONS * correction,
        begun,
        rules.guidance_scale,
        rules.temperature,
        MODES["maximal" if rules.verify == "ratio" else rules.verify],
    )
    return Window(slots, kinds, law, torch.zeros_like(position), stats, is_corrected=True)
