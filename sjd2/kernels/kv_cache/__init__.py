"""`kv_append`, `kv_truncate`, `kv_compact`: a preallocated KV cache with a length per row."""

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
    """Truncate every row of the cache behind the accepted part of its window, in place.

    Lengths alone are changed, and they are shared by all layers: the attention mask hides entries
    beyond a row's length, and the next window overwrites them. So this is one small launch
    whatever the size of the cache.

    Args:
        lengths: int64 [R], valid entries of every row before the window; `accept_length` is added.
        accept_length: int64 [B], entries of the window to keep. R is a multiple of B: row `r`
            belongs to picture `r % B`, so guidance rows follow their pictures.

    Raises:
        ValueError: R is no multiple of B.

    Sync: none.
    Reference: `kernels/kv_cache/eager.py`.
    """
    if len(lengths) % len(accept_length):
        raise ValueError(
            f"lengths has {len(lengths)} rows: must be a multiple of the {len(accept_length)} of "
            "accept_length"
        )
    implementation(lengths.device).kv_truncate(lengths, accept_length)


def kv_compact(cache: Tensor, rows: Tensor, lengths: Tensor) -> None:
    """Move the rows that stay to the front of a cache, in place; the rows behind are undefined.

    Args:
        cache: [R, H, S, D], a layer's keys or values, contiguous.
        rows: int64 [R'], ascending: row `rows[i]` becomes row `i`.
        lengths: int64 [R], entries of every row before the move; only these are copied for certain.

    Sync: none.
    Reference: `kernels/kv_cache/eager.py`.
    """
    implementation(cache.device).kv_compact(cache, rows, lengths)
