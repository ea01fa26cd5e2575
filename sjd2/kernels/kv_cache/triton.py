"""`kv_append`, `kv_truncate` and `kv_compact` as Triton kernels."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels.tiles import warps

_BLOCK = 1024  # elements per program
_ROWS = 128  # lengths per program


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
def truncate_kernel(lengths, accept_length, rows, images, BLOCK: tl.constexpr):
    """Add the accept length of its picture to the length of every row."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    accepted = tl.load(accept_length + row % images, mask=inside)
    tl.store(lengths + row, tl.load(lengths + row, mask=inside) + accepted, mask=inside)


@triton.jit
def compact_kernel(cache, rows, lengths, kept, capacity, size, BLOCK: tl.constexpr):
    """A part of one head: rows move to the front in ascending order, so each is read before it is
    overwritten.
    """
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
    key_row, key_head, key_slot, _ = new_keys.stride()
    value_row, value_head, value_slot, _ = new_values.stride()
    append_kernel[(heads, rows)](
        keys=keys,
        values=values,
        new_keys=new_keys,
        new_values=new_values,
        lengths=lengths,
        capacity=keys.shape[2],
        width=width,
        key_size=size,
        value_size=new_values.shape[3],
        key_row=key_row,
        key_head=key_head,
        key_slot=key_slot,
        value_row=value_row,
        value_head=value_head,
        value_slot=value_slot,
        BLOCK=_BLOCK,
        num_warps=warps(128),
    )


@torch.library.custom_op("sjd2::kv_truncate", mutates_args=("lengths",))
def _kv_truncate(lengths: Tensor, accept_length: Tensor) -> None:
    truncate_kernel[(triton.cdiv(len(lengths), _ROWS),)](
        lengths=lengths,
        accept_length=accept_length,
        rows=len(lengths),
        images=len(accept_length),
        BLOCK=_ROWS,
        num_warps=warps(128),
    )


@torch.library.custom_op("sjd2::kv_compact", mutates_args=("cache",))
def _kv_compact(cache: Tensor, rows: Tensor, lengths: Tensor) -> None:
    heads, capacity, size = cache.shape[1:]
    compact_kernel[(heads, triton.cdiv(capacity * size, _BLOCK))](
        cache=cache,
        rows=rows,
        lengths=lengths,
        kept=len(rows),
        capacity=capacity,
        size=size,
        BLOCK=_BLOCK,
        num_warps=warps(128),
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


def kv_truncate(lengths: Tensor, accept_length: Tensor) -> None:
    """Triton path of `sjd2.kernels.kv_truncate`; see there for the arguments."""
    _kv_truncate(lengths, accept_length)


def kv_compact(cache: Tensor, rows: Tensor, lengths: Tensor) -> None:
    """Triton path of `sjd2.kernels.kv_compact`; see there for the arguments."""
    _kv_compact(cache, rows, lengths)
