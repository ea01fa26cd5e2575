"""What is measured, and in which order."""

import pytest

from sjd2.companions import Companions
from sjd2.config import DecodingConfig
from sjd2.evaluate import Plan
from sjd2.sampler.presets import PRESETS, choose_presets


def plan(**changes):
    options = {
        "model_name": "demo",
        "captions": ("a", "b", "c"),
        "seeds": (0, 1),
        "methods": {name: PRESETS[name] for name in ("ar", "gumbel", "maximal")},
        "windows": (8, 16),
        "guidance": 2.0,
        "temperature": 1.0,
        "batch": 2,
    }
    return Plan(**{**options, **changes})


def test_methods_take_turns_on_every_batch():
    """Kills: one method after another, a batch left out, and a baseline per window."""
    units = list(plan().units())
    assert len(units) == 2 * 2 * (1 + 2 * 2)
    assert [(u.setting.method, u.setting.window) for u in units[:5]] == [
        ("ar", 1),
        ("gumbel", 8),
        ("maximal", 8),
        ("gumbel", 16),
        ("maximal", 16),
    ]
    assert {unit.captions for unit in units} == {("a", "b"), ("c",)}
    assert {unit.first for unit in units if unit.captions == ("c",)} == {2}


def test_curves_are_measured_once_at_the_widest_window():
    """Kills: curves of all captions or windows, the table's own point drawn twice, and a curve
    without it.
    """
    units = list(plan(guidances=(1.0, 2.0), temperatures=(0.5,)).units())
    table = set(plan().table())
    alone = [unit for unit in units if unit.setting not in table]
    assert {(u.setting.guidance, u.setting.temperature) for u in alone} == {(1.0, 1.0), (2.0, 0.5)}
    assert {(u.setting.window, u.first, u.seed) for u in alone} == {(16, 0, 0)}
    assert len(alone) == 2 * 2
    curve = plan(guidances=(1.0,)).curve("guidance")
    assert [(p.method, p.guidance) for p in curve] == [
        ("gumbel", 1.0),
        ("gumbel", 2.0),
        ("maximal", 1.0),
        ("maximal", 2.0),
    ]
    assert plan().curve("guidance") == []


def test_a_setting_decodes_as_its_method_says():
    """Kills: settings of another method, and a window that is not passed on."""
    eager = plan(backend="eager")
    gumbel = next(setting for setting in eager.table() if setting.method == "gumbel")
    assert eager.method(gumbel).config == DecodingConfig(
        method="sjd", verify="gumbel", window=8, backend="eager"
    )
    assert eager.method(eager.table()[0]).name == "ar"


def test_methods_without_what_they_need_are_left_out_or_refused():
    """Kills: a corrected method without a corrector, which would be measured as another."""
    none = Companions()
    assert list(choose_presets(None, none)) == ["ar", "independent", "gumbel", "maximal"]
    assert "corrected" in choose_presets(None, Companions(corrector=object()))
    with pytest.raises(ValueError, match="'corrected': the model has no corrector"):
        choose_presets(("corrected",), none)
    with pytest.raises(ValueError, match="did you mean 'maximal'"):
        choose_presets(("maximum",), none)
