"""Work that a CPU saves by looking into tensors first, which a GPU would have to wait for.

`bench/bench_cpu.py` times each trick beside the plain way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sjd2.kernels import philox
from sjd2.kernels.philox import Stream
from sjd2.kernels.target.cpu import is_host

# Below this share of possible tokens they are listed. Two share a block of noise, so not above.
_SPARSE = 0.25


def entries(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the set entries of a mask [B, W], or of a superset of them.

    A GPU would have to tell the host how many there are, so there every entry is listed, and the
    caller masks what it writes.
    """
    if is_host(mask):
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    return all_entries(mask)


def all_entries(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of every entry of a mask [B, W]."""
    flat = torch.arange(mask.numel(), device=mask.device)
    return flat // mask.shape[1], flat % mask.shape[1]


def holds(condition: Tensor) -> bool:
    """Whether a condition, bool [], is seen to hold; False on a GPU, where it is not looked at."""
    return is_host(condition) and bool(condition)


def is_sparse(log_p: Tensor) -> bool:
    """Whether so few tokens are possible that `race_the_possible` pays; False on a GPU."""
    if not is_host(log_p):
        return False
    possible = int((log_p != -torch.inf).sum())
    return possible < _SPARSE * log_p.numel()


def race_the_possible(log_p: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """`argmax(log_p + noise)` of same-seed mode [M], with noise for possible tokens alone."""
    row, token = (log_p != -torch.inf).nonzero(as_tuple=True)
    noise = philox.gumbel_of(seeds[row], positions[row], 0, Stream.DRAFT, token)
    raced = torch.full_like(log_p, -torch.inf)
    raced[row, token] = log_p[row, token] + noise
    return raced.argmax(dim=-1)
