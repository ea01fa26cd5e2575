"""Published decoders as presets of the same sampler, for comparison; not part of the package.

Each is a rule that decides windows in place of `verify_window`; the loop is the package's.
"""

from __future__ import annotations

from collections.abc import Mapping

from sjd2.sampler.method import Rule
from sjd2.sampler.presets import Preset

from .rules import grouping, gumbel_coupling, half_retention, retention, sjd


def _peer(label: str, rule: Rule, *, is_exact: bool) -> Preset:
    """As in all these papers, random tokens enter the window."""
    settings = {"method": "sjd", "start": "uniform", "coupling": "independent"}
    return Preset(label, settings, is_exact=is_exact, rule=rule)


PEERS: Mapping[str, Preset] = {
    "peer-sjd": _peer("SJD as released", sjd, is_exact=True),
    "peer-gumbel": _peer("Gumbel coupling, ratio", gumbel_coupling, is_exact=True),
    "peer-sjd++": _peer("SJD++ retention", retention, is_exact=False),
    "peer-gsd": _peer("GSD grouping", grouping, is_exact=False),
    "peer-sjd2": _peer("SJD2 retention", half_retention, is_exact=False),
}
