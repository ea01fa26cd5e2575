"""`compile=True`: windows' forwards as one program each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import sjd2
from tests.family_models import FAMILIES
from tests.janus_model import draw, tiny_janus

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("options", [{}, {"verify": "gumbel"}], ids=str)
def test_a_compiled_forward_draws_the_same_in_few_programs(options: dict[str, Any]) -> None:
    """Kills: a program for every length of the cache; a break in the graph; another picture."""
    janus = tiny_janus()
    options = {"window": 8, "corrector": None, **options}
    sjd2.accelerate(janus, **options)
    expected = [draw(janus, seed=seed) for seed in (5, 6)]
    sjd2.accelerate(janus, compile=True, **options)
    compiled = [draw(janus, seed=seed) for seed in (5, 6)]
    assert sjd2.decoding_stats(janus).total_forward_passes > 8
    assert counters["stats"]["unique_graphs"] <= 4
    assert counters["stats"]["calls_captured"] > 0
    assert not counters["graph_break"]
    for one, other in zip(compiled, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_compiles(name: str) -> None:
    """Kills: a family whose forward breaks the graph."""
    family = FAMILIES[name]
    model = family.make()
    sjd2.accelerate(model, window=8)
    expected = family.draw(model, seed=5)
    sjd2.accelerate(model, window=8, compile=True)
    assert torch.equal(family.draw(model, seed=5), expected)
    assert counters["stats"]["unique_graphs"] <= 4


def test_what_cannot_be_compiled_says_so() -> None:
    """Kills: a setting that is ignored in silence."""
    janus = tiny_janus()
    sjd2.accelerate(janus, window=8, method="sjd2", adapter=sjd2.new_adapter(janus), compile=True)
    with pytest.warns(UserWarning, match="compile=True: an adapter acts on the layers"):
        draw(janus, slice(0, 1), seed=1)
