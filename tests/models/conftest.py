"""Models of all families that draw by transformers' own `generate`."""

from __future__ import annotations

from typing import Any

import pytest

import sjd2
from tests.family_models import FAMILIES, Family

_BUILT: dict[Any, Any] = {}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """What tests know of a family."""
    return FAMILIES[request.param]


@pytest.fixture
def model(family: Family) -> Any:
    """Its tiny model, unaccelerated at the start of every test."""
    if family.make not in _BUILT:
        _BUILT[family.make] = family.make()
    return sjd2.restore(_BUILT[family.make])
