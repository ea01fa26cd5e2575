"""`kv_append`, `kv_truncate`, `kv_compact`: a preallocated cache with a length for every row."""

from __future__ import annotations

from torch import Tensor

from sjd2.kernels._dispatch import implementation


def kv_append(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, lengths: Tensor
) -> None:
    """Write every row's window at that row's own offset, in place.

    Args:
        keys: [R, H, S, D], a layer's preallocated keys.
        values: [R, H, S, D'], its values.
        new_keys: [R, H, W, D]; row `r` goes to `keys[r, :, lengths[r] : lengths[r] + W]`.
        new_values: [R, H, W, D'].
        lengths: int64 [R], with `lengths + W <= S`.

    Sync: none.
    Reference: `kernels/kv_cache/eager.py`.
    """
    implementation(keys.device).kv_append(keys, values, new_keys, new_values, lengths)


def kv_truncate(lengths: Tensor, accept_length: Tensor) -> None:
    """Keep the accepted part of the window just written, in every layer at once, in place.

    Rejected entries stay where they are: no mask shows what lies behind a row's length, and the
    next window overwrites it. So truncation costs one small launch, however large the cache is.

    Args:
        lengths: int64 [R], entries of every row that are kept; moved by `accept_length`.
        accept_length: int64 [B], R a multiple of B: guidance rows are the same pictures again.

    Sync: none.
    Reference: `kernels/kv_cache/eager.py`.
    """
    implementation(lengths.device).kv_truncate(lengths, accept_length)


def kv_compact(cache: Tensor, rows: Tensor, lengths: Tensor) -> None:
    """Move some rows of a cache to its front, in place; what is behind them is left as it falls.

    Args:
        cache: [R, H, S, D], a layer's keys or values, contiguous.
        rows: int64 [R'], ascending: row `rows[i]` becomes row `i`.
        lengths: int64 [R], entries of every row before the move; only those need to arrive.

    Sync: none.
    Reference: `kernels/kv_cache/eager.py`.
    """
    implementation(cache.device).kv_compact(cache, rows, lengths)
