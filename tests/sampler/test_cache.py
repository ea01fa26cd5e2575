"""The window cache: ragged writes, truncation by length, rows that leave."""

from __future__ import annotations

import torch
from torch import Tensor

from sjd2.sampler.cache import WindowCache

HEADS, DIM = 2, 3


def states(rows: int, width: int, mark: float) -> Tensor:
    return torch.full((rows, HEADS, width, DIM), mark)


def write(cache: WindowCache, width: int, mark: float) -> tuple[Tensor, Tensor]:
    positions, mask = cache.open_window(width)
    cache.update(
        states(len(cache.lengths), width, mark), states(len(cache.lengths), width, mark), 0
    )
    return positions, mask


def test_rows_write_at_their_own_length_and_see_only_their_prefix() -> None:
    """Kills: a common offset, a mask that shows stale entries or hides a slot from itself."""
    cache = WindowCache(2, 12, torch.device("cpu"))
    write(cache, 3, 1.0)
    cache.truncate(torch.tensor([1, 3]))
    positions, mask = write(cache, 2, 2.0)
    assert positions.tolist() == [[1, 2], [3, 4]]
    assert cache.keys[0][:, 0, :6, 0].tolist() == [[1, 2, 2, 0, 0, 0], [1, 1, 1, 2, 2, 0]]
    assert mask[0, 0].long().tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert mask[1, 0].long().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_attention_reads_no_further_than_the_longest_row() -> None:
    """Kills: attention over the whole capacity, or a bound that is too short after `advance`."""
    cache = WindowCache(2, 50, torch.device("cpu"))
    cache.open_window(4)
    keys, _ = cache.update(states(2, 4, 1.0), states(2, 4, 1.0), 0)
    assert keys.shape[2] == 4
    cache.truncate(torch.tensor([1, 2]))
    cache.open_window(4)
    keys, _ = cache.update(states(2, 4, 1.0), states(2, 4, 1.0), 0)
    assert keys.shape[2] == 8, "until the host is told, every row may have kept everything"
    cache.truncate(torch.tensor([1, 2]))
    cache.measure(4)
    assert cache.open_window(4)[1].shape[-1] == 8


def test_rows_leave_with_their_entries() -> None:
    """Kills: lengths and entries of different rows."""
    cache = WindowCache(3, 8, torch.device("cpu"))
    cache.open_window(2)
    marks = torch.arange(3.0)[:, None, None, None].expand(3, HEADS, 2, DIM)
    cache.update(marks, marks, 0)
    cache.truncate(torch.tensor([0, 1, 2]))
    cache.keep_rows(torch.tensor([2, 0]))
    assert cache.lengths.tolist() == [2, 0]
    assert cache.keys[0][:, 0, 0, 0].tolist() == [2, 0]


def test_a_fresh_cache_holds_no_garbage() -> None:
    """Kills: `torch.empty`; a masked NaN times zero is still NaN."""
    cache = WindowCache(1, 64, torch.device("cpu"))
    write(cache, 1, 1.0)
    assert torch.isfinite(cache.keys[0]).all()
    assert torch.isfinite(cache.values[0]).all()
