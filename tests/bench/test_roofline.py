"""The roofline: its shapes are the models', and windows of "auto" follow from it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from sjd2.config import auto_window

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def roofline(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("roofline")


@pytest.mark.parametrize("name", ["janus-pro-1b", "glm-image", "emu3"])
def test_weights_are_those_of_the_layers(roofline: Any, name: str) -> None:
    """Kills: a projection left out, keys and values counted with the heads of queries."""
    shape = roofline.MODELS[name]
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.cached_heads,
        head_dim=shape.head_size,
    )
    with torch.device("meta"):
        layers = LlamaModel(config).layers
    products = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
    assert shape.weights == products + shape.hidden * shape.codes


def test_a_window_costs_a_token_up_to_the_knee_and_more_beyond(roofline: Any) -> None:
    """Kills: a peak in other units, bytes of one row, arithmetic of a single slot."""
    model, gpu = roofline.MODELS["janus-pro-7b"], roofline.GPUS["h100"]
    assert 250 < gpu.knee < 320
    below, above = (roofline.predict(model, gpu, 1, width) for width in (64, 512))
    assert below.window == pytest.approx(below.token)
    assert above.window > 2 * above.token
    assert below.iteration > below.window
    # 7 G weights in 16 bits at 3.35 TB/s, and some cache.
    assert 3.6 < below.token < 4.5


def test_auto_windows_stay_near_the_knee(roofline: Any) -> None:
    """Kills: a window of "auto" that costs a GPU much more than a token does."""
    for rows in (1, 2, 4, 8, 16, 32, 64):
        for name, gpu in roofline.GPUS.items():
            fed = rows * auto_window("cuda", rows)
            assert fed <= 1.7 * gpu.knee, name
            assert fed >= min(rows * 96, 256, gpu.knee) * 0.85, name


def test_the_table_is_what_is_predicted(roofline: Any) -> None:
    """Kills: a figure changed by hand, shapes or results that moved since."""
    text = roofline.PAGE.read_text()
    shown = text.split("<!-- roofline: start -->\n")[1].split("\n<!-- roofline: end -->")[0]
    assert shown == roofline.report()
