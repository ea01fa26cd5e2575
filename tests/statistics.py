"""Thresholds that follow from how often a right program may fail."""

from __future__ import annotations

from statistics import NormalDist

import torch

# Of the whole suite, and of one of its some hundred statistical tests.
FALSE_ALARM = 1e-6
OF_ONE_TEST = FALSE_ALARM / 250


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


def smallest_bias(degrees: int, pictures: int) -> float:
    """The bias that a test of so many pictures sees nine times in ten.

    A distribution p drawn for q adds `pictures * sum((p - q)^2 / q)` to the statistic on average;
    returned is the root of that sum: the error relative to a probability, in the mean.
    """
    # The statistic is then about normal, of mean degrees + n b^2, variance 2 degrees + 4 n b^2.
    ninety = NormalDist().inv_cdf(0.9)
    added = 0.0
    while degrees + added - ninety * (2 * degrees + 4 * added) ** 0.5 < threshold(degrees):
        added += 0.5
    return (added / pictures) ** 0.5


# Standard errors that a right program's mean strays further than as rarely.
ERRORS = -NormalDist().inv_cdf(OF_ONE_TEST / 2)
