"""Several threads draw with one model, each what it would draw alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

import sjd2
from sjd2.models import family_of
from tests.family_models import EMU3, tiny_emu3
from tests.janus_model import draw, tiny_janus


def together(calls: list[Callable[[], Tensor]]) -> list[Tensor]:
    """The results of calls that run in threads of their own, all begun at once."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], Tensor]) -> Tensor:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def slowed(backbone: Any, monkeypatch: pytest.MonkeyPatch, seen: Callable[[], Any]) -> list[Any]:
    """Let others have their turn before and after every layer; notes what a forward sees there."""
    notes: list[Any] = []

    def pause(*call: Any) -> None:
        time.sleep(0.0005)
        notes.append(seen())

    for layer in backbone.layers:
        monkeypatch.setattr(layer, "forward", _around(layer.forward, pause))
    return notes


def _around(forward: Callable[..., Any], pause: Callable[[], None]) -> Callable[..., Any]:
    def slow(*args: Any, **kwargs: Any) -> Any:
        pause()
        result = forward(*args, **kwargs)
        pause()
        return result

    return slow


def test_threads_with_an_adapter_draw_what_they_draw_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kills: an update that acts in the forward of another thread, at its clean tokens."""
    model = tiny_janus()
    adapter = sjd2.new_adapter(model, rank=4)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    slowed(family_of(model).backbone, monkeypatch, lambda: None)
    sjd2.accelerate(model, method="sjd2", adapter=adapter, verify="gumbel", window=9)
    calls = [
        lambda first=first: draw(model, slice(first, first + 2), seed=10 * first)
        for first in range(3)
    ]
    alone = [call() for call in calls]
    for _ in range(3):
        for drawn, expected in zip(together(calls), alone, strict=True):
            assert torch.equal(drawn, expected)


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention"])
def test_threads_do_not_take_each_others_attention_away(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: flash attention put back while another thread's window is in the layers, which ends
    the process on a GPU.
    """
    model = tiny_emu3()
    backbone = family_of(model).backbone
    sjd2.accelerate(model, window=7)
    calls = [
        lambda rows=rows: EMU3.draw(model, rows, guidance_scale=2.0, seed=rows)
        for rows in (1, 2, 3)
    ]
    alone = [call() for call in calls]
    monkeypatch.setattr(backbone.config, "_attn_implementation", name)
    seen = slowed(backbone, monkeypatch, lambda: backbone.config._attn_implementation)
    for drawn, expected in zip(together(calls), alone, strict=True):
        assert torch.equal(drawn, expected)
    assert set(seen) == {"sdpa"}
    assert backbone.config._attn_implementation == name


def test_text_beside_pictures_keeps_the_models_own_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kills: words read with SDPA because another thread draws; a lock that two threads die of."""
    model = tiny_emu3()
    backbone = family_of(model).backbone
    seen: list[str] = []

    def text(*args: Any, **kwargs: Any) -> Tensor:
        for _ in range(20):
            time.sleep(0.001)
            seen.append(backbone.config._attn_implementation)
        return torch.zeros(1)

    monkeypatch.setattr(model, "generate", text, raising=False)
    sjd2.accelerate(model, window=4)
    monkeypatch.setattr(backbone.config, "_attn_implementation", "flash_attention_2")
    words = torch.tensor([[1, 5, 6, 7]])
    drawn, _ = together([lambda: EMU3.draw(model, seed=1), lambda: model.generate(words)])
    assert drawn.shape[1] == EMU3.prompts()[0].shape[1] + EMU3.layout.length
    assert set(seen) == {"flash_attention_2"}
