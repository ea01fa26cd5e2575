"""`kv_append`, `kv_truncate` and `kv_compact`: ragged writes, truncation, and rows that leave."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels.launch import warps

_BLOCK = 1024


@triton.jit
def _copy_window(new, slot_stride, cache, width, size, BLOCK: tl.constexpr):
    """One head's window [W, D] into adjacent entries of the cache."""
    for first in range(0, width * size, BLOCK):
        entries = first + tl.arange(0, BLOCK)
        inside = entries < width * size
        values = tl.load(new + entries // size * slot_stride + entries % size, mask=inside)
        tl.store(cache + entries, values, mask=inside)


@triton.jit
def append_kernel(
    keys,
    values,
    new_keys,
    new_values,
    lengths,
    capacity,
    width,
    key_size,
    value_size,
    key_row,
    key_head,
    key_slot,
    value_row,
    value_head,
    value_slot,
    BLOCK: tl.constexpr,
):
    """One head of one row: its keys, then its values."""
    head, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    entry = (row * tl.num_programs(0) + head) * capacity + tl.load(lengths + row)
    new_keys += row * key_row + head * key_head
    _copy_window(new_keys, key_slot, keys + entry * key_size, width, key_size, BLOCK)
    new_values += row * value_row + head * value_head
    _copy_window(new_values, value_slot, values + entry * value_size, width, value_size, BLOCK)


@triton.jit
def scrub_kernel(cache, lengths, accept_length, capacity, width, size, BLOCK: tl.constexpr):
    """One head of one row: zero what was written and is not kept; lengths have been moved."""
    head, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + row)
    stale = tl.minimum(width - tl.load(accept_length + row), capacity - length) * size
    cache += ((row * tl.num_programs(0) + head) * capacity + length) * size
    for first in range(0, stale, BLOCK):
        entries = first + tl.arange(0, BLOCK)
        tl.store(cache + entries, tl.zeros((BLOCK,), tl.float32), mask=entries < stale)


@triton.jit
def move_kernel(lengths, accept_length, rows, BLOCK: tl.constexpr):
    """Move the length of every row."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    moved = tl.load(lengths + row, mask=inside) + tl.load(accept_length + row, mask=inside)
    tl.store(lengths + row, moved, mask=inside)


@triton.jit
def compact_kernel(cache, rows, lengths, kept, capacity, size, BLOCK: tl.constexpr):
    """A part of one head: rows that stay move to the front, in order, so each is read in time."""
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heads = tl.num_programs(0)
    entries = part * BLOCK + tl.arange(0, BLOCK)
    for target in range(kept):
        source = tl.load(rows + target)
        inside = entries < tl.load(lengths + source) * size
        old = cache + (source * heads + head) * capacity * size
        new = cache + (tl.cast(target, tl.int64) * heads + head) * capacity * size
        tl.store(new + entries, tl.load(old + entries, mask=inside), mask=inside)


@torch.library.custom_op("sjd2::kv_append", mutates_args=("keys", "values"))
def _kv_append(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, lengths: Tensor
) -> None:
    rows, heads, width, size = new_keys.shape
    append_kernel[(heads, rows)](
        keys,
        values,
        new_keys,
        new_values,
        lengths,
        keys.shape[2],
        width,
        size,
        new_values.shape[3],
        *new_keys.stride()[:3],
        *new_values.stride()[:3],
        BLOCK=_BLOCK,
        num_warps=warps(128),
    )


@torch.library.custom_op("sjd2::kv_truncate", mutates_args=("lengths", "tails"))
def _kv_truncate(lengths: Tensor, accept_length: Tensor, tails: list[Tensor], width: int) -> None:
    rows = len(lengths)
    move_kernel[(triton.cdiv(rows, 128),)](
        lengths, accept_length, rows, BLOCK=128, num_warps=warps(128)
    )
    for cache in tails:
        scrub_kernel[(cache.shape[1], rows)](
            cache,
            lengths,
            accept_length,
            cache.shape[2],
            width,
            cache.shape[3],
            BLOCK=_BLOCK,
            num_warps=warps(128),
        )


@torch.library.custom_op("sjd2::kv_compact", mutates_args=("cache",))
def _kv_compact(cache: Tensor, rows: Tensor, lengths: Tensor) -> None:
    heads, capacity, size = cache.shape[1:]
    compact_kernel[(heads, triton.cdiv(capacity * size, _BLOCK))](
        cache, rows, lengths, len(rows), capacity, size, BLOCK=_BLOCK, num_warps=warps(128)
    )


@_kv_append.register_fake
@_kv_truncate.register_fake
@_kv_compact.register_fake
def _(*args: object) -> None:
    return None


def kv_append(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, lengths: Tensor
) -> None:
    """Triton path of `sjd2.kernels.kv_append`; see there for the arguments."""
    new_keys, new_values = (
        new if new.stride(-1) == 1 else new.contiguous() for new in (new_keys, new_values)
    )
    _kv_append(keys, values, new_keys, new_values, lengths)


def kv_truncate(
    lengths: Tensor, accept_length: Tensor, tails: tuple[Tensor, ...] = (), width: int = 0
) -> None:
    """Triton path of `sjd2.kernels.kv_truncate`; see there for the arguments."""
    _kv_truncate(lengths, accept_length, list(tails), width)


def kv_compact(cache: Tensor, rows: Tensor, lengths: Tensor) -> None:
    """Triton path of `sjd2.kernels.kv_compact`; see there for the arguments."""
    _kv_compact(cache, rows, lengths)
