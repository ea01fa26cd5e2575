"""`kv_append` and `kv_truncate`: ragged writes into a preallocated cache, truncation by length."""

from __future__ import annotations

from torch import Tensor

from sjd2.kernels import reference


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
    Reference: `kernels/reference/kv_cache.py`.
    """
    reference.kv_append(keys, values, new_keys, new_values, lengths)


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
    Reference: `kernels/reference/kv_cache.py`.
    """
    reference.kv_truncate(lengths, accept_length, tails, width)
