"""Functions that NumPy computes several times faster than torch does on a CPU.

NumPy sorts and partitions with vector instructions, and its exponential and logarithm have no slow
path for infinities, of which filtered distributions and residuals are full. On other devices these
are torch's own functions. The ratios are those of `bench/bench_cpu.py` on 2 CPU cores.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def exp(x: Tensor) -> Tensor:
    """Elementwise exponential; 7 times faster on log-probabilities behind a top-k of 50."""
    return torch.from_numpy(np.exp(x.numpy())) if is_host(x) else x.exp()


def log(x: Tensor) -> Tensor:
    """Elementwise natural logarithm, -inf for zero; 19 times faster on residuals."""
    if not is_host(x):
        return x.log()
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(x.numpy()))


def drop_below(x: Tensor, cut: Tensor) -> Tensor:
    """`x` with -inf for what is below the cut, which broadcasts; NaN stays. 3 times faster."""
    if not is_host(x):
        return x.masked_fill(x < cut, -torch.inf)
    # Arithmetic is vectorised where a selection is not: add 0, or a number that overflows to -inf.
    values = x.numpy()
    dropped = (values < cut.numpy()).astype(values.dtype)
    with np.errstate(over="ignore"):
        dropped *= np.finfo(values.dtype).min
        dropped *= 2
    return torch.from_numpy(np.add(values, dropped, out=dropped))


def kth_largest(x: Tensor, k: int) -> Tensor:
    """The k-th largest value along the last dimension: [..., 1]. NaN counts as the largest.

    8 times faster for the 2000th of 16384.
    """
    if not is_host(x):
        return x.topk(k, dim=-1).values[..., -1:]
    at = x.shape[-1] - k
    return torch.from_numpy(np.partition(x.numpy(), at, axis=-1)[..., at : at + 1].copy())


def descending(x: Tensor) -> Tensor:
    """Sorted along the last dimension, NaN and then the largest first; 16 times faster."""
    if not is_host(x):
        return x.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(x.numpy(), axis=-1)[..., ::-1].copy())


def is_host(x: Tensor) -> bool:
    """Whether NumPy can read a tensor: it is on the CPU and needs no gradient."""
    return x.device.type == "cpu" and not x.requires_grad
