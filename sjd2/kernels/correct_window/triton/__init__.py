"""`correct_window` in two launches.

The first writes the scores of the corrected distributions, one program per tile of columns and
tokens; the second is the first launch of `verify_window` with these scores as the target. The
mathematics is that of the eager twins, `kernels/correct_window/eager.py`.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels.correct_window.triton.activate import COLUMNS, INNER, activation, row_of
from sjd2.kernels.target.triton import log_probabilities, scores
from sjd2.kernels.tiles import EXACT, tiles_for, warps
from sjd2.kernels.types import CORRECTIONS, DraftKind, Rules, Shifts, Window
from sjd2.kernels.verify_window.triton.columns import (
    MODES,
    STATS,
    columns_kernel,
    forced_at,
    load_stats,
)

_TOKENS = 64  # of a program
_FULL = tl.constexpr(int(DraftKind.FULL))
_ONEHOT = tl.constexpr(int(DraftKind.ONEHOT))


@triton.jit
def shift_kernel(
    logits,
    logits_width,
    logits_stats,
    offset,
    slots,
    slots_row,
    state,
    seen,
    tokens,
    tokens_row,
    rows,
    position,
    features,
    offsets,
    output,
    grammar,
    grammar_length,
    scores_out,
    slots_out,
    kinds_out,
    offset_out,
    vocab,
    width,
    rank,
    guidance,
    cooling,
    OFFSETS: tl.constexpr,
    GUIDED: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_GRAMMAR: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
    INNER: tl.constexpr,
    INNERS: tl.constexpr,
):
    """Scores of a tile of columns and tokens: log-probabilities of the forward, shifted."""
    image, images = tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    choices = (tl.program_id(1) * TOKENS + tl.arange(0, TOKENS))[None, :]
    inside = columns < width
    stored = tl.minimum(columns + tl.load(offset + image), logits_width - 1)
    first = tl.load(position + image)
    at = first + columns
    entry = image * logits_width + stored
    picture = tokens + row_of(rows, image, HAS_ROWS) * tokens_row
    text = (picture, slots + image * slots_row + 1, first)

    shifted = tl.zeros((COLUMNS, TOKENS), tl.float32)
    for part in range(INNERS):
        inner = (part * INNER + tl.arange(0, INNER))[None, :]
        here = entry[:, None] * rank + inner
        now = activation(
            state + here,
            text,
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
            output + choices * rank + depth, mask=(choices < vocab) & (depth < rank), other=0.0
        )
        # Full precision, so that rounding changes no token.
        shifted += tl.dot(now - before, weights, input_precision="ieee")

    row = (logits + entry * vocab)[:, None]
    source = (row, row + images * logits_width * vocab, vocab, guidance, cooling)
    peak, log_sum, cut = load_stats(logits_stats + entry[:, None] * STATS)
    log_p = log_probabilities(scores(source, choices, GUIDED), (peak, log_sum, cut))
    score = log_p + shifted
    if HAS_GRAMMAR:
        # A forced column has no distribution to correct, nor have columns that entered beside it.
        beside = first - tl.load(offset + image) + stored
        is_fixed = forced_at(grammar, beside, grammar_length) >= 0
        draft = tl.load(slots + image * slots_row + columns + 1, mask=inside, other=0)
        stays = tl.where(choices == draft[:, None], 0.0, -float("inf"))
        score = tl.where(is_fixed[:, None], stays, score)
    out = scores_out + (image * width + columns)[:, None] * vocab + choices
    tl.store(out, score, mask=inside[:, None] & (choices < vocab))

    if tl.program_id(1) == 0:
        kinds = tl.full((COLUMNS,), _FULL, tl.int32)
        if HAS_GRAMMAR:
            kinds = tl.where(forced_at(grammar, at, grammar_length) >= 0, _ONEHOT, kinds)
        tl.store(kinds_out + image * width + columns, kinds.to(tl.uint8), mask=inside)
        if tl.program_id(0) == 0:
            tl.store(slots_out + image * (width + 1), tl.load(slots + image * slots_row))
            tl.store(offset_out + image, image * 0)


@torch.library.custom_op("sjd2::correct_window", mutates_args=())
def _correct_window(
    slots: Tensor,
    kinds: Tensor,
    draft_logits: Tensor,
    draft_stats: Tensor,
    is_processed: bool,
    draft_offset: Tensor,
    logits: Tensor,
    logits_stats: Tensor,
    offset: Tensor,
    state: Tensor,
    seen: Tensor,
    tokens: Tensor,
    features: Tensor,
    offsets: Tensor,
    output: Tensor,
    seed: Tensor,
    position: Tensor,
    rows: Tensor | None,
    grammar: Tensor | None,
    iteration: int,
    begun: Tensor | None,
    guidance_scale: float,
    temperature: float,
    mode: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    images, width, (vocab, rank) = len(slots), kinds.shape[1], output.shape
    outputs = _outputs(slots, kinds, output)
    next_slots, next_kinds, corrected, next_offset, stats = outputs
    guided = guidance_scale != 1.0
    shared: dict[str, Any] = {
        "slots": slots,
        "slots_row": slots.stride(0),
        "position": position,
        "grammar": slots if grammar is None else grammar,
        "grammar_length": 0 if grammar is None else len(grammar),
        "vocab": vocab,
        "guidance": guidance_scale,
        "HAS_GRAMMAR": grammar is not None,
    }
    shift_kernel[(triton.cdiv(width, COLUMNS), triton.cdiv(vocab, _TOKENS), images)](
        **shared,
        logits=logits,
        logits_width=logits.shape[1],
        logits_stats=logits_stats,
        offset=offset,
        state=state,
        seen=seen,
        tokens=tokens,
        tokens_row=tokens.stride(0),
        rows=slots if rows is None else rows,
        features=features,
        offsets=offsets,
        output=output,
        scores_out=corrected,
        slots_out=next_slots,
        kinds_out=next_kinds,
        offset_out=next_offset,
        width=width,
        rank=rank,
        cooling=1 / temperature,
        OFFSETS=len(offsets),
        GUIDED=guided,
        HAS_ROWS=rows is not None,
        COLUMNS=COLUMNS,
        TOKENS=_TOKENS,
        INNER=INNER,
        INNERS=triton.cdiv(rank, INNER),
        num_warps=warps(128),
        **EXACT,
    )
    # Nothing is committed, so only the tokens of the decision are used.
    unused = {
        "kept_out": torch.empty_like(next_kinds),
        "redrawn_out": torch.empty_like(next_slots),
    }
    columns_kernel[(width, images)](
        **shared,
        **unused,
        logits=corrected,
        draft_logits=draft_logits,
        draft_width=draft_logits.shape[1],
        draft_stats=draft_stats,
        kinds=kinds,
        kinds_row=kinds.stride(0),
        offset=draft_offset,
        seed=seed,
        token_out=next_slots[:, 1:],
        token_row=width + 1,
        stats_out=stats,
        iteration=iteration,
        begun=slots if begun is None else begun,
        HAS_BEGUN=begun is not None,
        log_uniform=-math.log(vocab),
        cooling=1.0,
        draft_cooling=1.0 if is_processed else 1 / temperature,
        top_p=1.0,
        MODE=mode,
        GUIDED=False,
        DRAFT_GUIDED=guided and not is_processed,
        TOP_K=0,
        TOP_P=False,
        **tiles_for(vocab, top_p=False),
    )
    return outputs


def _outputs(
    slots: Tensor, kinds: Tensor, output: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    images, width = kinds.shape
    return (
        slots.new_empty(images, width + 1),
        kinds.new_empty(images, width),
        output.new_empty(images, width, len(output)),
        slots.new_empty(images),
        output.new_empty(images, width, STATS.value),
    )


@_correct_window.register_fake
def _(slots: Tensor, kinds: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    output: Tensor = args[12] if args else kwargs["output"]
    return _outputs(slots, kinds, output)


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
    """Triton path of `sjd2.kernels.correct_window`; see there for the arguments."""
    assert window.draft_stats is not None
    assert scored.draft_stats is not None
    slots, kinds, corrected, offset, stats = _correct_window(
        window.slots,
        window.kinds,
        draft_logits=window.draft_logits,
        draft_stats=window.draft_stats,
        is_processed=window.is_processed,
        draft_offset=window.offset,
        logits=scored.draft_logits,
        logits_stats=scored.draft_stats,
        offset=scored.offset,
        state=state.contiguous(),
        seen=seen,
        tokens=tokens,
        features=shifts.features,
        offsets=shifts.offsets,
        output=shifts.output,
        seed=seed,
        position=position.contiguous(),
        rows=rows,
        grammar=grammar,
        iteration=iteration + CORRECTIONS * correction,
        begun=begun,
        guidance_scale=rules.guidance_scale,
        temperature=rules.temperature,
        mode=MODES["maximal" if rules.verify == "ratio" else rules.verify],
    )
    return Window(slots, kinds, corrected, offset, stats, is_processed=True)
