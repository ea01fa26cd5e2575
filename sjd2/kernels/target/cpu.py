"""Functions of tensors that NumPy computes many times faster than torch does on a CPU.

Its sorting is vectorised, and its exponential and logarithm have no slow path for infinities, of
which filtered distributions and residuals are full. On other devices they are torch's own.
`bench/bench_cpu.py` times each beside torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LONG = 4096  # numbers of a row, from which on it is worth to look at some of them first
_STEP = 32  # one of so many


def exp(x: Tensor) -> Tensor:
    """Elementwise exponential."""
    return torch.from_numpy(np.exp(x.numpy())) if is_host(x) else x.exp()


def log(x: Tensor) -> Tensor:
    """Elementwise natural logarithm; of zero it is minus infinity."""
    if not is_host(x):
        return x.log()
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(x.numpy()))


def drop_below(x: Tensor, cut: Tensor) -> Tensor:
    """Minus infinity for what is below the cut, which broadcasts; NaN stays."""
    if not is_host(x):
        return x.masked_fill(x < cut, -torch.inf)
    # By arithmetic, which is done by vectors, and a choice is not: plus 0, or what overflows.
    values = x.numpy()
    dropped = (values < cut.numpy()).astype(values.dtype)
    with np.errstate(over="ignore"):
        dropped *= np.finfo(values.dtype).min
        dropped *= 2
    return torch.from_numpy(np.add(values, dropped, out=dropped))


def kth_largest(x: Tensor, k: int) -> Tensor:
    """The k-th largest value along the last dimension, which is kept: [..., 1]. NaN is largest."""
    if not is_host(x):
        return x.topk(k, dim=-1).values[..., -1:]
    rows, at = x.numpy().reshape(-1, x.shape[-1]), x.shape[-1] - k
    find = _kth_by_sample if x.shape[-1] >= _LONG else _kth
    return torch.from_numpy(find(rows, at)).view(*x.shape[:-1], 1)


def _kth(rows: NDArray[Any], at: int) -> NDArray[Any]:
    """What would stand at a place of every sorted row: [N]."""
    return np.partition(rows, at, axis=-1)[:, at].copy()


def _kth_by_sample(rows: NDArray[Any], at: int) -> NDArray[Any]:
    """As `_kth`: a sample of a row says between which values it lies, and few numbers are there."""
    sample = np.sort(rows[:, ::_STEP], axis=-1)
    count, share = sample.shape[1], at / rows.shape[1]
    # Four standard deviations of a rank in the sample: the whole row is hardly ever asked.
    reach = 4 * (count * share * (1 - share)) ** 0.5 + 2
    lowest, highest = int(count * share - reach), int(count * share + reach)
    below = rows < sample[:, max(lowest, 0), None]
    between = ~below
    if highest < count:
        between &= rows <= sample[:, highest, None]
    found = np.empty_like(rows[:, 0])
    for number, row in enumerate(rows):
        few, rank = row.compress(between[number]), at - int(np.count_nonzero(below[number]))
        if not 0 <= rank < len(few):
            few, rank = row.copy(), at
        few.partition(rank)
        found[number] = few[rank]
    return found


def descending(x: Tensor) -> Tensor:
    """Sorted along the last dimension, the largest first. NaN is largest."""
    if not is_host(x):
        return x.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(x.numpy(), axis=-1)[..., ::-1].copy())


def is_host(x: Tensor) -> bool:
    """Whether NumPy can look into a tensor, and no gradient is wanted of it."""
    return x.device.type == "cpu" and not x.requires_grad
