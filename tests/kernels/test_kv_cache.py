"""`kv_append` and `kv_truncate`."""

from __future__ import annotations

import pytest
import torch

from sjd2.kernels import kv_append, kv_truncate


def test_append_touches_the_window_and_nothing_else() -> None:
    """Kills: heads and slots exchanged, one row's offset for all, values written as keys."""
    torch.manual_seed(0)
    keys, values = torch.randn(3, 2, 9, 4), torch.randn(3, 2, 9, 5)
    before_keys, before_values = keys.clone(), values.clone()
    new_keys, new_values = torch.randn(3, 2, 3, 4), torch.randn(3, 2, 3, 5)
    lengths = torch.tensor([0, 4, 6])
    kv_append(keys, values, new_keys, new_values, lengths)
    for row, at in enumerate(lengths.tolist()):
        before_keys[row, :, at : at + 3] = new_keys[row]
        before_values[row, :, at : at + 3] = new_values[row]
    assert torch.equal(keys, before_keys)
    assert torch.equal(values, before_values)


def test_truncate_moves_the_length_in_place() -> None:
    """Kills: a copy of the lengths, which leaves the cache as it was."""
    lengths = torch.tensor([1, 5])
    kv_truncate(lengths, torch.tensor([2, 0]))
    assert lengths.tolist() == [3, 5]


def test_truncate_moves_guidance_rows_with_their_pictures() -> None:
    """Kills: guidance rows that are left out, or given the accept length of another picture."""
    lengths = torch.tensor([1, 5, 3, 8])
    kv_truncate(lengths, torch.tensor([2, 0]))
    assert lengths.tolist() == [3, 5, 5, 8]


def test_truncate_refuses_rows_that_belong_to_no_picture() -> None:
    """Kills: accept lengths of another batch, which a kernel would apply to the wrong rows."""
    with pytest.raises(ValueError, match="lengths has 3 rows: must be a multiple of the 2 of"):
        kv_truncate(torch.tensor([1, 5, 3]), torch.tensor([2, 0]))
