"""Eager twin of `commit_window`."""

from __future__ import annotations

import torch
from torch import Tensor

from sjd2.kernels.types import Verdict


def commit_window(verdict: Verdict, rows: Tensor, pictures: Tensor, position: Tensor) -> None:
    """Eager twin of `sjd2.kernels.commit_window`; see there for the arguments."""
    columns = position[:, None] + torch.arange(verdict.tokens.shape[1], device=position.device)
    # All columns: the next window overwrites those that are not committed.
    pictures[rows[:, None], columns] = verdict.tokens
    position += verdict.accept_length
