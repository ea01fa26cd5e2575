"""The ranges of sampling settings, wherever a value comes from."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from sjd2.ranges import RANGES


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("guidance_scale", [1, 1.0, 7.5, np.float32(3)], [0.99, -1, float("inf"), float("nan")]),
        ("temperature", [1e-3, 1, 100.0], [0, -1.0, float("inf"), float("nan")]),
        ("top_k", [0, 1, 2000], [-1, 1.0, "1"]),
        ("top_p", [0.1, 1, 1.0], [0, 0.0, 1.01, float("nan")]),
    ],
)
def test_ranges_hold_their_ends(name: str, inside: list[Any], outside: list[Any]) -> None:
    """Kills: an end that is open instead of closed, and infinity taken for a number."""
    assert all(value in RANGES[name] for value in inside)
    assert all(value not in RANGES[name] for value in [*outside, None, "x"])


def test_an_error_names_argument_value_and_range() -> None:
    """Kills: a message that leaves out any of the three."""
    with pytest.raises(ValueError, match=re.escape("g=0.5: must be a number of at least 1 (1 = ")):
        RANGES["guidance_scale"].check("g", 0.5)
