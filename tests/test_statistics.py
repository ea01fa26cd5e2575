"""The thresholds themselves."""

from __future__ import annotations

import pytest
import torch

from tests.statistics import ERRORS, OF_ONE_TEST, smallest_bias, tail, threshold


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


def test_the_smallest_bias_is_seen_nine_times_in_ten() -> None:
    """Kills: a promise of power that is not kept, or one that is far too careful."""
    generator = torch.Generator().manual_seed(0)
    cells, pictures = 27, 5000
    q = torch.full((cells,), 1 / cells, dtype=torch.float64)
    sign = torch.where(torch.arange(cells) % 2 == 0, 1.0, -1.0).double()
    sign[-1] = 0
    p = q * (1 + smallest_bias(cells - 1, pictures) * sign)
    drawn = torch.multinomial(p, 200 * pictures, replacement=True, generator=generator)
    counts = torch.stack([torch.bincount(one, minlength=cells) for one in drawn.view(200, -1)])
    found = ((counts - pictures * q) ** 2 / (pictures * q)).sum(dim=1)
    assert 0.8 < float((found > threshold(cells - 1)).double().mean()) < 0.97
