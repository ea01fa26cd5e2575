"""`kv_append`, `kv_truncate` and `kv_compact`: one layer of a 7 B model.

pytest bench/bench_kv_cache.py      # on a GPU; a CPU runs one small shape
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.harness import DEVICE, bytes_of, implementations, record, skip_without
from sjd2.kernels import eager, triton

HEADS, SIZE, CAPACITY = 32, 128, 2560
SHAPES = [(32, 2), (96, 2), (96, 32)]  # window, rows with guidance
APPEND = implementations(eager.kv_append, triton.kv_append)
TRUNCATE = implementations(eager.kv_truncate, triton.kv_truncate)
COMPACT = implementations(eager.kv_compact, triton.kv_compact)


def cache(rows: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, HEADS, CAPACITY, SIZE, device=DEVICE).bfloat16()


def lengths_of(rows: int, width: int) -> Tensor:
    return torch.arange(rows, device=DEVICE) * 37 % (CAPACITY - width)


def skip(name: str, shape: tuple[int, int]) -> None:
    skip_without(name)
    if DEVICE == "cpu" and shape != SHAPES[0]:
        pytest.skip("one shape is enough to see that it works")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", APPEND)
def bench_kv_append(benchmark: Any, name: str, shape: tuple[int, int]) -> None:
    skip(name, shape)
    width, rows = shape
    lengths = lengths_of(rows, width)
    new = torch.randn(rows, width, HEADS, SIZE, device=DEVICE).bfloat16().transpose(1, 2)
    expected, keys, values = cache(rows), cache(rows), cache(rows)
    eager.kv_append(expected, expected.clone(), new, new, lengths)

    def call() -> None:
        APPEND[name](keys, values, new, new, lengths)

    call()
    assert torch.equal(keys, expected)
    assert torch.equal(values, expected)
    record(benchmark, call, 4 * bytes_of(new))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", TRUNCATE)
def bench_kv_truncate(benchmark: Any, name: str, shape: tuple[int, int]) -> None:
    skip(name, shape)
    width, rows = shape
    lengths = lengths_of(rows, width)
    accepted = torch.arange(rows // 2, device=DEVICE) % width
    expected = lengths.clone()
    eager.kv_truncate(expected, accepted)

    def call() -> None:
        TRUNCATE[name](lengths, accepted)

    call()
    assert torch.equal(lengths, expected)
    record(benchmark, call, 2 * bytes_of(lengths) + bytes_of(accepted))


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("name", COMPACT)
def bench_kv_compact(benchmark: Any, name: str, shape: tuple[int, int]) -> None:
    skip(name, shape)
    rows = shape[1]
    kept = torch.arange(1, rows, 2, device=DEVICE)
    lengths = torch.full((rows,), CAPACITY, device=DEVICE)
    expected, stored = cache(rows), cache(rows)
    eager.kv_compact(expected, kept, lengths)

    def call() -> None:
        COMPACT[name](stored, kept, lengths)

    call()
    assert torch.equal(stored[: len(kept)], expected[: len(kept)])
    record(benchmark, call, 2 * len(kept) * bytes_of(stored) // rows)
