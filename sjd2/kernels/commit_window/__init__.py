"""`commit_window`: write tokens into pictures, each of which advances at its own pace."""

from __future__ import annotations

from torch import Tensor

from sjd2.kernels._dispatch import implementation
from sjd2.kernels.types import Verdict


def commit_window(verdict: Verdict, rows: Tensor, pictures: Tensor, position: Tensor) -> None:
    """Write the columns of a window into the pictures and move the positions, in place.

    All columns are written; the next window overwrites those that are not committed.

    Args:
        verdict: accept lengths [B] and tokens [B, W].
        rows: int64 [B], the row of `pictures` of each row of the verdict.
        pictures: int64 [images, N + W], room for a picture of N tokens and a window behind it.
        position: int64 [B], picture position of column 0; the accept length is added.

    Sync: none.
    Reference: `kernels/commit_window/eager.py`.
    """
    implementation(pictures.device).commit_window(verdict, rows, pictures, position)
