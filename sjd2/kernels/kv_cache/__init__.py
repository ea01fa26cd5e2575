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


def kv_truncate(
    lengths: Tensor, accept_length: Tensor, tails: tuple[Tensor, ...] = (), width: int = 0
) -> None:
    """Keep the accepted part of the window just written: a move of the length, in place.

    Rejected entries stay where they are; the next window overwrites them and no mask shows them.

    Args:
        lengths: int64 [R], moved by `accept_length`.
        accept_length: int64 [R], in [0, width].
        tails: caches [R, H, S, D] whose rejected entries are also set to zero, for caches that read
            them and for debugging.
        width: slots that were written; read only for `tails`.

    Sync: none.
    Reference: `kernels/kv_cache/eager.py`.
    """
    implementation(lengths.device).kv_truncate(lengths, accept_length, tails, width)


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
