"""`activate_window`: the hidden layer of a corrector, which `correct_window` computes as well.

The mathematics is that of the eager twin, `kernels/correct_window/eager.py`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels.tiles import EXACT, warps
from sjd2.kernels.types import Shifts, Window

COLUMNS = 16  # of a program; `tl.dot` needs at least 16 rows
INNER = 64  # units of the hidden layer at once


@triton.jit
def standing(text, where, known, nobody):
    """The tokens at some picture positions, `nobody` where there are none.

    `text` is (pointer to the picture, pointer to the drafts of its window, position of the first).
    """
    picture, drafts, first = text
    token = tl.load(picture + where, mask=known & (where < first), other=nobody)
    draft = tl.load(drafts + (where - first), mask=known & (where >= first), other=nobody)
    return tl.where(where < first, token, draft)


@triton.jit
def activation(
    state,
    text,
    at,
    inside,
    features,
    offsets,
    grammar,
    grammar_length,
    nobody,
    rank,
    inner,
    OFFSETS: tl.constexpr,
    HAS_GRAMMAR: tl.constexpr,
):
    """silu(state + features of the neighbours), [columns, inner]; `state` points to both."""
    is_inner = inner < rank
    beside = tl.zeros((at.shape[0], inner.shape[0]), tl.float32)
    for number in tl.static_range(OFFSETS):
        where = at - tl.load(offsets + number)
        known = inside & (where >= 0)
        token = standing(text, where, known, nobody)
        if HAS_GRAMMAR:
            forced = tl.load(grammar + where, mask=known & (where < grammar_length), other=-1)
            token = tl.where(forced >= 0, nobody, token)
        row = (number * (nobody + 1) + token)[:, None] * rank
        beside += tl.load(features + row + inner, mask=is_inner, other=0.0)
    x = tl.load(state, mask=inside[:, None] & is_inner, other=0.0) + beside
    return x / (1 + tl.exp(-x))


@triton.jit
def row_of(rows, image, HAS_ROWS: tl.constexpr):
    """The row of the tokens that a picture of the batch has."""
    row = image
    if HAS_ROWS:
        row = tl.load(rows + image)
    return row


@triton.jit
def activate_kernel(
    state,
    tokens,
    tokens_row,
    rows,
    slots,
    slots_row,
    position,
    features,
    offsets,
    grammar,
    grammar_length,
    out,
    nobody,
    width,
    rank,
    OFFSETS: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_GRAMMAR: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """A tile of columns and units of the hidden layer."""
    image = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inner = (tl.program_id(1) * INNER + tl.arange(0, INNER))[None, :]
    inside = columns < width
    entry = (image * width + columns)[:, None] * rank + inner
    first = tl.load(position + image)
    at = first + columns
    if not HAS_WINDOW:
        first += width  # all neighbours stand before it
    picture = tokens + row_of(rows, image, HAS_ROWS) * tokens_row
    activated = activation(
        state + entry,
        (picture, slots + image * slots_row + 1, first),
        at,
        inside,
        features,
        offsets,
        grammar,
        grammar_length,
        nobody,
        rank,
        inner,
        OFFSETS,
        HAS_GRAMMAR,
    )
    tl.store(out + entry, activated, mask=inside[:, None] & (inner < rank))


@torch.library.custom_op("sjd2::activate_window", mutates_args=())
def _activate_window(
    state: Tensor,
    tokens: Tensor,
    features: Tensor,
    offsets: Tensor,
    position: Tensor,
    rows: Tensor | None,
    slots: Tensor | None,
    grammar: Tensor | None,
) -> Tensor:
    images, width, rank = state.shape
    out = torch.empty_like(state)
    activate_kernel[(triton.cdiv(width, COLUMNS), triton.cdiv(rank, INNER), images)](
        state=state,
        tokens=tokens,
        tokens_row=tokens.stride(0),
        # `tokens` is a placeholder for absent arguments, which the kernel does not read.
        rows=tokens if rows is None else rows,
        slots=tokens if slots is None else slots,
        slots_row=0 if slots is None else slots.stride(0),
        position=position,
        features=features,
        offsets=offsets,
        grammar=tokens if grammar is None else grammar,
        grammar_length=0 if grammar is None else len(grammar),
        out=out,
        nobody=len(features) // len(offsets) - 1,
        width=width,
        rank=rank,
        OFFSETS=len(offsets),
        HAS_ROWS=rows is not None,
        HAS_WINDOW=slots is not None,
        HAS_GRAMMAR=grammar is not None,
        COLUMNS=COLUMNS,
        INNER=INNER,
        num_warps=warps(128),
        **EXACT,
    )
    return out


@_activate_window.register_fake
def _(state: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(state)


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
    """Triton path of `sjd2.kernels.activate_window`; see there for the arguments."""
    state = state.contiguous()
    out: Tensor = _activate_window(
        state,
        tokens,
        shifts.features,
        shifts.offsets,
        position,
        rows,
        None if window is None else window.slots,
        grammar,
    )
    return out
