"""Forwards for fixed captions and seeds of the embedded model: speed that a change has cost."""

from __future__ import annotations

import json

import pytest

from bench.count_forwards import KNOWN, count, differences


@pytest.mark.slow
def test_forwards_of_the_embedded_model_are_the_known_ones() -> None:
    """Kills: the corrector reading its neighbours one place off, drafts that start where they need
    not, a pass left out: whatever is exact and slower.
    """
    known, found = json.loads(KNOWN.read_text()), count()
    assert not (moved := differences(known, found)), "\n".join(moved)
    assert {"independent", "gumbel", "maximal"} <= known["forwards"].keys()


def test_one_forward_more_is_a_difference() -> None:
    """Kills: a comparison that lets anything pass; other weights compared with numbers of these."""
    known = {
        "weights": "a",
        "counted_on": "here",
        "forwards": {"gumbel": [100], "maximal": [20, 30]},
    }

    def moved(counted_on: str, **forwards: list[int]) -> list[str]:
        found = {**known, "counted_on": counted_on, "forwards": known["forwards"] | forwards}
        return [line.partition(":")[0] for line in differences(known, found)]

    assert moved("here") == []
    assert moved("here", maximal=[20, 31]) == ["maximal", "in all"]
    assert moved("there", maximal=[20, 31]) == []
    assert moved("there", maximal=[20, 34]) == ["in all"]
    assert moved("there", maximal=[20, 38]) == ["maximal", "in all"]
    assert moved("here", maximal=[]) == ["maximal", "in all"]
    assert "--renew" in differences({**known, "weights": "b"}, known)[0]
