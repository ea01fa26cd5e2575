"""Published decoders as policies of the same sampler: for comparison, and outside the package."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from sjd2.evaluate import Method
from sjd2.sampler import decode

from .rules import Rule, grouping, gumbel_coupling, half_retention, retention, sjd

_LOOP = sys.modules[decode.__module__]


@dataclass(frozen=True)
class Peer:
    """One published decoder.

    Attributes:
        label: its name in tables.
        rule: what decides in the place of `verify_window`; eager operations only.
        is_exact: whether committed tokens follow the model's own law.
    """

    label: str
    rule: Rule
    is_exact: bool

    def method(self, total_variation: float | None = None) -> Method:
        """As `sjd2.evaluate` measures it, with random tokens entering, as in all these papers."""
        settings = {"method": "sjd", "start": "uniform", "coupling": "independent"}
        return Method(
            label=self.label,
            settings=settings,
            is_exact=self.is_exact,
            total_variation=total_variation,
            during=partial(playing, self.rule),
        )


PEERS: Mapping[str, Peer] = {
    "peer-sjd": Peer("SJD as released", sjd, is_exact=True),
    "peer-gumbel": Peer("Gumbel coupling, ratio", gumbel_coupling, is_exact=True),
    "peer-sjd++": Peer("SJD++ retention", retention, is_exact=False),
    "peer-gsd": Peer("GSD grouping", grouping, is_exact=False),
    "peer-sjd2": Peer("SJD2 retention", half_retention, is_exact=False),
}


@contextmanager
def playing(rule: Rule) -> Iterator[None]:
    """Let a rule decide for the sampler inside the block."""
    op = _LOOP.verify_window
    _LOOP.verify_window = lambda *args, **at: rule(op, *args, **at)
    try:
        yield
    finally:
        _LOOP.verify_window = op
