"""The thresholds themselves."""

from __future__ import annotations

import pytest
import torch

from tests.statistics import (
    ERRORS,
    OF_ONE_TEST,
    POWER,
    excess,
    pearson,
    smallest_bias,
    strays,
    tail,
    threshold,
)


def test_tails_are_those_of_the_tables() -> None:
    """Kills: a lower tail, and degrees taken for half of them."""
    assert tail(3.841459, 1) == pytest.approx(0.05, abs=1e-6)
    assert tail(18.307038, 10) == pytest.approx(0.05, abs=1e-6)
    assert tail(149.449253, 100) == pytest.approx(0.001, abs=1e-8)
    assert 5.5 < ERRORS < 6.5


@pytest.mark.parametrize("degrees", [1, 8, 80, 1023])
def test_a_threshold_has_the_tail_that_was_asked_for(degrees: int) -> None:
    """Kills: a search that stops too early, or at its bound."""
    assert tail(threshold(degrees), degrees) == pytest.approx(OF_ONE_TEST, rel=1e-6)


def test_the_smallest_bias_is_seen_99_times_in_100() -> None:
    """Kills: a promise of power that is not kept, or one that is far too careful."""
    generator = torch.Generator().manual_seed(0)
    cells, pictures, times = 27, 5000, 1000
    q = torch.full((cells,), 1 / cells, dtype=torch.float64)
    sign = torch.where(torch.arange(cells) % 2 == 0, 1.0, -1.0).double()
    sign[-1] = 0
    seen = []
    for bias in (smallest_bias(cells - 1, pictures), 0.85 * smallest_bias(cells - 1, pictures)):
        p = q * (1 + bias * sign)
        drawn = torch.multinomial(p, times * pictures, replacement=True, generator=generator)
        rows = drawn.view(times, -1) + cells * torch.arange(times)[:, None]
        counts = torch.bincount(rows.flatten(), minlength=times * cells).view(times, cells)
        found = ((counts - pictures * q) ** 2 / (pictures * q)).sum(dim=1)
        seen.append(float((found > threshold(cells - 1)).double().mean()))
    assert seen[0] > 0.975
    assert seen[1] < 0.9


def test_a_claim_to_see_more_than_is_seen_is_refused() -> None:
    """Kills: a docstring's number that nobody computes."""
    bias = smallest_bias(8, 1000)
    assert excess(threshold(8), 8, 1000, bias) == pytest.approx(1)
    with pytest.raises(AssertionError):
        excess(0.0, 8, 1000, 0.99 * bias)
    error = torch.tensor([0.5, 1.0])
    assert strays(error, 0.0, error, ERRORS + POWER) == pytest.approx(1 / ERRORS)
    with pytest.raises(AssertionError):
        strays(error, 0.0, error, ERRORS + 0.9 * POWER)


def test_cells_that_must_be_empty_are() -> None:
    """Kills: an impossible token that is left out of the sum."""
    expected = torch.tensor([500.0, 0.0, 500.0])
    assert pearson(expected, expected, sees=1.0) == 0
    assert pearson(torch.tensor([500.0, 1.0, 499.0]), expected, sees=1.0) == float("inf")
