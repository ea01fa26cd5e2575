"""Settings: validated, immutable, and helpful about typing errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sjd2 import DecodingConfig
from sjd2.config import auto_window, seeds_for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window=1: must be 'auto' or an integer of at least 2"),
        ({"window": 2.5}, "window=2.5"),
        ({"window": True}, "window=True"),
        ({"window": "big"}, "window='big'"),
        ({"method": "sjd3"}, "method='sjd3': must be one of 'auto', 'sjd2', 'sjd', 'ar'"),
        ({"denoising_steps": 0}, "denoising_steps=0: must be an integer of at least 1"),
        ({"exact": False, "method": "ar"}, "exact=False: the published rules are those of"),
        ({"exact": False, "verify": "gumbel"}, "exact=False: the published rules are those of"),
        ({"exact": False, "backend": "triton"}, "exact=False: the published rules exist as"),
        ({"schedule": "cosine"}, "schedule='cosine': must be one of 'karras', 'linear'"),
        ({"verify": "greedy"}, "verify='greedy': must be one of 'ratio', 'gumbel'"),
        ({"coupling": "none"}, "coupling='none'"),
        ({"start": "left"}, "start='left'"),
        ({"backend": "cuda"}, "backend='cuda'"),
        ({"progress": 1}, "progress=1"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63}, "seed="),
        ({"seed": [1, "2"]}, "seed='2'"),
        ({"seed": True}, "seed=True"),
    ],
)
def test_a_value_out_of_range_is_refused_and_named(options: dict[str, Any], message: str) -> None:
    """Kills: a check left out; a message that does not say what is allowed."""
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        DecodingConfig(**options)


def test_an_unknown_option_names_the_nearest() -> None:
    """Kills: a typing error that is swallowed."""
    with pytest.raises(TypeError, match=r"'windw'.*did you mean 'window'"):
        DecodingConfig(windw=3)


def test_settings_cannot_be_changed_in_place() -> None:
    """Kills: settings changed under a model that uses them; a caller's list kept by reference."""
    seeds = [1, 2]
    config = DecodingConfig(seed=seeds)
    seeds.append(3)
    assert config.seed == (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.window = 3  # type: ignore[misc]


def test_the_window_never_exceeds_the_picture() -> None:
    """Kills: slots behind the end of the picture; more than one slot for method "ar"."""
    assert DecodingConfig(window=500).slots(64, "cuda") == 64
    assert DecodingConfig(window=500).slots(576, "cpu") == 500
    assert DecodingConfig().slots(576, "cuda") == 96
    assert DecodingConfig().slots(10, "cuda") == 10
    assert DecodingConfig(method="ar", window=32).slots(64, "cpu") == 1


def test_an_int_seed_means_consecutive_seeds() -> None:
    """Kills: the same seed for every image; a list of the wrong length recycled."""
    assert seeds_for(5, 3) == [5, 6, 7]
    assert seeds_for([9, 9], 2) == [9, 9]
    with pytest.raises(ValueError, match=r"2 entries.*3 images"):
        seeds_for([1, 2], 3)
    with pytest.raises(ValueError, match="seed"):
        seeds_for(2**63 - 1, 2)


def test_auto_is_a_function_of_the_device_and_the_rows() -> None:
    """Kills: a window that grows with the batch, or that knows nothing of it; no way down to ar."""
    rows = (1, 2, 4, 8, 16, 32, 64, 128, 200, 1000)
    assert [auto_window("cpu", one) for one in rows] == [32, 32, 32, 16, 8, 8, 8, 8, 8, 8]
    assert [auto_window("cuda", one) for one in rows] == [96, 96, 64, 32, 16, 8, 4, 2, 1, 1]
    assert [DecodingConfig().passes(device) for device in ("cpu", "cuda")] == [2, 8]
    assert [DecodingConfig(corrector_passes=3).passes(device) for device in ("cpu", "cuda")] == [
        3,
        3,
    ]
