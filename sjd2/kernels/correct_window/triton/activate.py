"""`activate_window`: the hidden layer of a corrector, which `correct_window` computes as well.

The mathematics is that of the eager twin, `kernels/correct_window/eager.py`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels.tiles import EXACT, warps
from sjd2.kernels.types import Shifts

COLUMNS = 16  # of a program; `tl.dot` needs at least 16 rows
INNER = 64  # units of the hidden layer at once


@triton.jit
def activation(
    state,
    tokens,
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
        token = tl.load(tokens + where, mask=known, other=nobody)
        if HAS_GRAMMAR:
            forced = tl.load(grammar + where, mask=known & (where < grammar_length), other=-1)
            token = tl.where(forced >= 0, nobody, token)
        row = (number * (nobody + 1) + token)[:, None] * rank
        beside += tl.load(features + row + inner, mask=is_inner, other=0.0)
    x = tl.load(state, mask=inside[:, None] & is_inner, other=0.0) + beside
    return x / (1 + tl.exp(-x))


@triton.jit
def activate_kernel(
    state,
    tokens,
    tokens_row,
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
    activated = activation(
        state + entry,
        tokens + image * tokens_row,
        tl.load(position + image) + columns,
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
    grammar: Tensor | None,
) -> Tensor:
    images, width, rank = state.shape
    out = torch.empty_like(state)
    activate_kernel[(triton.cdiv(width, COLUMNS), triton.cdiv(rank, INNER), images)](
        state=state,
        tokens=tokens,
        tokens_row=tokens.stride(0),
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
    grammar: Tensor | None = None,
) -> Tensor:
    """Triton path of `sjd2.kernels.activate_window`; see there for the arguments."""
    state = state.contiguous()
    out: Tensor = _activate_window(
        state, tokens, shifts.features, shifts.offsets, position, grammar
    )
    return out
