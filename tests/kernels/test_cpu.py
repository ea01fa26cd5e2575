"""NumPy computes the same as torch, infinities and NaN included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sjd2.kernels.target import cpu

CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exp": (cpu.exp, torch.exp),
    "log": (lambda x: cpu.log(x.abs()), lambda x: x.abs().log()),
    "first": (lambda x: cpu.kth_largest(x, 1), lambda x: x.topk(1).values),
    "fifth": (lambda x: cpu.kth_largest(x, 5), lambda x: x.topk(5).values[..., -1:]),
    "last": (lambda x: cpu.kth_largest(x, 9), lambda x: x.amin(-1, keepdim=True)),
    "drop": (
        lambda x: cpu.drop_below(x, x[..., :1]),
        lambda x: x.masked_fill(x < x[..., :1], -torch.inf),
    ),
    "descending": (cpu.descending, lambda x: x.sort(descending=True).values),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_numpy_and_torch_agree(name: str, dtype: torch.dtype) -> None:
    """Kills: the k-th smallest, an ascending order, infinities that become numbers."""
    ours, theirs = CASES[name]
    x = torch.randn(6, 3, 9, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x[0, 0, 3], x[1, 1, :5], x[2, 0, 0], x[3, 2, :] = torch.inf, -torch.inf, 0, -torch.inf
    x[4, 1, 2:4] = x[4, 1, 0]
    for given in (x, x.transpose(0, 1), x[..., ::2].repeat(1, 1, 2)[..., :9]):
        torch.testing.assert_close(ours(given), theirs(given))


def test_nan_is_the_largest() -> None:
    """Kills: a row of NaN that looks filtered."""
    x = torch.tensor([[1.0, torch.nan, 3.0]])
    assert cpu.kth_largest(x, 1).isnan().all()
    assert cpu.kth_largest(x, 2).item() == 3
    assert cpu.descending(x)[0, 0].isnan()
    dropped = cpu.drop_below(x, torch.tensor([[2.0]]))
    expected = torch.tensor([[-torch.inf, torch.nan, 3.0]])
    torch.testing.assert_close(dropped, expected, equal_nan=True)


@pytest.mark.parametrize("k", [1, 2, 500, 4096, 8192])
def test_kth_largest_of_long_rows(k: int) -> None:
    """Kills: a rank counted from the wrong end, ties counted twice, filtered tokens skipped."""
    random = torch.randn(5, 8192, generator=torch.Generator().manual_seed(1))
    rows = {
        "random": random,
        "ties": random.round(),
        "filtered": random.masked_fill(random < 1, -torch.inf),
        "equal": torch.zeros(2, 3, 8192),
        "nan": random.masked_fill(torch.arange(8192) >= 8092, torch.nan),
    }
    for name, x in rows.items():
        found, expected = cpu.kth_largest(x, k), x.topk(k).values[..., -1:]
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, msg=name)
