"""Eager twins of `kv_append`, `kv_truncate` and `kv_compact`."""

from __future__ import annotations

import torch
from torch import Tensor


def kv_append(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, lengths: Tensor
) -> None:
    """Eager twin of `sjd2.kernels.kv_append`; see there for the arguments."""
    slots = lengths[:, None] + torch.arange(new_keys.shape[2], device=lengths.device)
    rows = torch.arange(keys.shape[0], device=lengths.device)[:, None]
    # Indexing both ends of [B, H, S, D] puts the indexed axes first: [B, W, H, D].
    keys[rows, :, slots] = new_keys.transpose(1, 2)
    values[rows, :, slots] = new_values.transpose(1, 2)


def kv_truncate(lengths: Tensor, accept_length: Tensor) -> None:
    """Eager twin of `sjd2.kernels.kv_truncate`; see there for the arguments."""
    lengths += accept_length.repeat(len(lengths) // len(accept_length))


def kv_compact(cache: Tensor, rows: Tensor, lengths: Tensor) -> None:
    """Eager twin of `sjd2.kernels.kv_compact`; see there for the arguments."""
    cache[: len(rows)] = cache[rows]
