"""`kv_append` and `kv_truncate`."""

from __future__ import annotations

import numpy as np
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


def test_a_cache_beyond_32_bits_is_written() -> None:
    """Row 2 of this cache begins at entry 2^31. Of its memory only what is written is real.

    Kills: addresses in 32 bits.
    """
    triton = pytest.importorskip("triton")
    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton is not interpreted here")
    from sjd2.kernels import triton as kernels

    keys, values = (torch.from_numpy(np.zeros((3, 1, 2**30, 1), dtype=np.int8)) for _ in range(2))
    new = torch.arange(1, 7, dtype=torch.int8).view(3, 1, 2, 1)
    lengths = torch.tensor([0, 5, 2**30 - 2])
    kernels.kv_append(keys, values, new, -new, lengths)
    for row, at in enumerate(lengths.tolist()):
        written = slice(at, at + 2)
        assert torch.equal(keys[row, :, written], new[row])
        assert torch.equal(values[row, :, written], -new[row])
