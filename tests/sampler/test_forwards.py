"""Tests of speed: forwards are counted, and a change of the code that costs some is seen."""

from __future__ import annotations

import json

import pytest

from bench.count_forwards import CAPTIONS, METHODS, STORED, count


def test_forwards_are_those_that_were_counted() -> None:
    """Equal, or within 2 %, where another machine's rounding flips a token.

    Kills: whatever costs speed and changes no distribution: a corrector that reads its neighbours
    one place off, noise that falls too fast or too slowly, drafts thrown away.
    """
    stored, found = json.loads(STORED.read_text()), count()
    assert found.keys() == stored.keys(), "renew them: python bench/count_forwards.py --renew"
    for name, forwards in found.items():
        assert sum(forwards) == pytest.approx(sum(stored[name]), rel=0.02), name


def test_every_way_to_draw_is_counted() -> None:
    """Kills: a method left out, or counts of which none tells methods apart."""
    stored = json.loads(STORED.read_text())
    assert set(METHODS) - {"sjd2"} <= stored.keys() <= set(METHODS)
    assert all(len(forwards) == CAPTIONS for forwards in stored.values())
    assert len(set(map(tuple, stored.values()))) == len(stored)
    total = {name: sum(forwards) for name, forwards in stored.items()}
    assert total["corrected in two passes"] < total["maximal"] < total["independent"]
