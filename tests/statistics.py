"""Thresholds that follow from how often a right program may fail, and the biases that they see.

A statistical test goes through `excess` or `strays`, and says what bias it sees: a wrong program of
that bias fails 99 times in 100. Beside it stands a known-bad twin, wrong by not much more, which
must fail it.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

# Of the whole suite, and of one of its some hundred statistical tests.
FALSE_ALARM = 1e-6
OF_ONE_TEST = FALSE_ALARM / 250
# Standard errors that a right program's mean strays further than as rarely.
ERRORS = -NormalDist().inv_cdf(OF_ONE_TEST / 2)
# Standard errors that a wrong program's statistic falls short of its mean by, 1 time in 100.
POWER = NormalDist().inv_cdf(0.99)


def tail(statistic: float, degrees: int) -> float:
    """The probability that a chi-square of so many degrees of freedom is larger."""
    half = torch.tensor([degrees / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def threshold(degrees: int) -> float:
    """The chi-square that a right program exceeds with probability `OF_ONE_TEST`."""
    low, high = 0.0, degrees + 20.0 * (2 * degrees) ** 0.5 + 100
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, degrees) > OF_ONE_TEST else (low, middle)
    return high


def smallest_bias(degrees: int, draws: float) -> float:
    """The bias that a chi-square of so many draws sees 99 times in 100.

    A distribution p drawn for q adds `draws * sum((p - q)^2 / q)` to the statistic on average;
    returned is the root of that sum: the error relative to a probability, in the mean. The total
    variation between p and q is at most half of it.
    """
    # The statistic is about normal, of mean degrees + n b^2, variance 2 degrees + 4 n b^2: the
    # added n b^2 is where mean - POWER * deviation reaches the threshold.
    beyond = threshold(degrees) - degrees
    root = POWER + (POWER**2 + beyond + degrees / 2) ** 0.5
    added = root**2 - degrees / 2
    return (added / draws) ** 0.5


def excess(statistic: float, degrees: int, draws: float, sees: float) -> float:
    """A chi-square as a multiple of its threshold: above 1 the draws are biased.

    Args:
        statistic, degrees: Pearson's, and its degrees of freedom.
        draws: how many were counted.
        sees: the bias that the test claims to see, as `smallest_bias` has it. AssertionError where
            only larger ones are seen.
    """
    assert smallest_bias(degrees, draws) <= sees, smallest_bias(degrees, draws)
    return statistic / threshold(degrees)


def pearson(counts: Tensor, expected: Tensor, sees: float) -> float:
    """`excess` of cells against what is expected in each, none of it rare; infinite where a cell
    that nothing is expected in is not empty.
    """
    possible = expected > 0
    if counts[~possible].any():
        return float("inf")
    errors = (counts - expected)[possible] ** 2 / expected[possible]
    return excess(float(errors.sum()), int(possible.sum()) - 1, float(expected.sum()), sees)


def strays(found: Tensor, expected: Tensor | float, error: Tensor | float, sees: float) -> float:
    """How far means are from what is expected, the farthest, as a multiple of what chance allows.

    Args:
        found, expected: of one shape.
        error: standard errors of the means.
        sees: the difference that the test claims to see 99 times in 100, in any of the means.
            AssertionError where it sees only larger ones.
    """
    error = torch.as_tensor(error, dtype=torch.float64)
    smallest = float((ERRORS + POWER) * error.max())
    assert smallest <= sees, smallest
    return float(((found - expected).abs() / (ERRORS * error)).max())
