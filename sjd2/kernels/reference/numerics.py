"""Functions of tensors that NumPy computes many times faster than torch does on a CPU.

Its sorting is vectorised, and its exponential and logarithm have no slow path for infinities, of
which filtered laws and residuals are full. On other devices they are torch's own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def exp(x: Tensor) -> Tensor:
    """Elementwise exponential."""
    return torch.from_numpy(np.exp(x.numpy())) if _is_here(x) else x.exp()


def log(x: Tensor) -> Tensor:
    """Elementwise natural logarithm; of zero it is minus infinity."""
    if not _is_here(x):
        return x.log()
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(x.numpy()))


def drop_below(x: Tensor, cut: Tensor) -> Tensor:
    """Minus infinity for what is below the cut, which broadcasts; NaN stays."""
    if not _is_here(x):
        return x.masked_fill(x < cut, -torch.inf)
    # By arithmetic, which is done by vectors, and a choice is not: plus the logarithm of 1 or 0.
    values = x.numpy()
    kept = (~(values < cut.numpy())).astype(values.dtype)
    with np.errstate(divide="ignore"):
        np.log(kept, out=kept)
    return torch.from_numpy(np.add(values, kept, out=kept))


def kth_largest(x: Tensor, k: int) -> Tensor:
    """The k-th largest value along the last dimension, which is kept: [..., 1]. NaN is largest."""
    if not _is_here(x):
        return x.topk(k, dim=-1).values[..., -1:]
    at = x.shape[-1] - k
    return torch.from_numpy(np.partition(x.numpy(), at, axis=-1)[..., at : at + 1].copy())


def descending(x: Tensor) -> Tensor:
    """Sorted along the last dimension, the largest first. NaN is largest."""
    if not _is_here(x):
        return x.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(x.numpy(), axis=-1)[..., ::-1].copy())


def _is_here(x: Tensor) -> bool:
    return x.device.type == "cpu" and not x.requires_grad
