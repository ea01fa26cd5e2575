"""Forwards for fixed captions and seeds of the embedded model: speed that a change has cost."""

from __future__ import annotations

import json

from bench.count_forwards import KNOWN, count, differences


def test_forwards_of_the_embedded_model_are_the_known_ones() -> None:
    """Kills: the corrector reading its neighbours one place off, drafts that start where they need
    not, a pass left out: whatever is exact and slower.
    """
    known, found = json.loads(KNOWN.read_text()), count()
    assert not (moved := differences(known, found)), "\n".join(moved)
    assert {"independent", "gumbel", "maximal"} <= known["forwards"].keys()


def test_one_forward_more_is_a_difference() -> None:
    """Kills: a comparison that lets anything pass; other weights compared with numbers of these."""
    known = {"weights": "a", "counted_on": "here", "forwards": {"maximal": [20, 30]}}
    slower = {**known, "forwards": {"maximal": [20, 31]}}
    assert differences(known, known) == []
    assert differences(known, slower) == ["maximal: 51 forwards, 50 are known"]
    assert differences({**known, "counted_on": "there"}, slower) == []
    assert "--renew" in differences({**known, "weights": "b"}, known)[0]
    assert differences(known, {**known, "forwards": {}}) == ["maximal: 0 forwards, 50 are known"]
