"""Adapters: what they may touch, and how long a model carries them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sjd2
from sjd2.companions import fingerprint
from sjd2.companions.adapter import Adapter
from sjd2.models import family_of
from tests.janus_model import draw, tiny_janus


@pytest.fixture
def adapter(janus: Any) -> Iterator[Adapter]:
    made = sjd2.new_adapter(janus, rank=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    yield made
    sjd2.restore(janus)


def hidden_of(janus: Any, adapter: Adapter, noisy: Tensor | None) -> Tensor:
    backbone = family_of(janus).backbone
    inputs = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    with adapter.attached(backbone) as gate, torch.no_grad():
        gate.noisy = noisy
        hidden: Tensor = backbone(inputs_embeds=inputs).last_hidden_state
    return hidden


def test_clean_positions_keep_their_bits(janus: Any, adapter: Adapter) -> None:
    """Kills: an update added before the gate, or scaled by zero instead of left out."""
    plain = hidden_of(janus, adapter, None)
    noisy = torch.zeros(2, 5, dtype=torch.bool)
    assert torch.equal(hidden_of(janus, adapter, noisy), plain)
    noisy[1, 3] = True
    changed = hidden_of(janus, adapter, noisy)
    assert torch.equal(changed[0], plain[0])
    assert torch.equal(changed[1, :3], plain[1, :3])
    assert not torch.allclose(changed[1, 3], plain[1, 3])


def test_nothing_stays_attached(janus: Any, adapter: Adapter) -> None:
    """Kills: hooks left on the model, by an error in the forward too."""
    backbone = family_of(janus).backbone
    with pytest.raises(InterruptedError), adapter.attached(backbone):
        raise InterruptedError
    assert not any(module._forward_hooks for module in backbone.modules())


def test_a_fresh_adapter_changes_nothing(janus: Any) -> None:
    """Kills: an update or a time embedding that starts above zero."""
    adapter = sjd2.new_adapter(janus)
    noisy = torch.ones(2, 5, dtype=torch.bool)
    assert torch.equal(hidden_of(janus, adapter, noisy), hidden_of(janus, adapter, None))
    assert not adapter.time_embedding(torch.linspace(0, 1, 5)[None]).any()


def test_a_model_in_half_precision_is_still_the_same(janus: Any, adapter: Adapter) -> None:
    """Kills: a fingerprint that asks for the precision an adapter was trained in."""
    half = tiny_janus().bfloat16()
    assert fingerprint(family_of(half).backbone) == adapter.base


def test_an_adapter_is_carried_until_it_is_taken_off(janus: Any, adapter: Adapter) -> None:
    """Kills: settings changed at the price of the adapter; one that outlives `adapter=None`."""
    sjd2.accelerate(janus, adapter=adapter)
    with sjd2.accelerated(janus, method="sjd2", window=8):
        draw(janus)
        assert sjd2.decoding_stats(janus).method == "sjd2"
    for method in ("sjd", "ar"):
        sjd2.accelerate(janus, method=method)
        draw(janus)
        assert sjd2.decoding_stats(janus).method == method
    sjd2.accelerate(janus, adapter=None)
    draw(janus)
    assert sjd2.decoding_stats(janus).method == "sjd"
    for options in ({"method": "sjd2"}, {"exact": False}):
        with pytest.raises(ValueError, match="needs a denoising adapter"):
            sjd2.accelerate(janus, **options)


@pytest.mark.parametrize(("with_noise", "auto"), [(5.0, "sjd"), (7.0, "sjd2")])
def test_auto_is_what_measured_faster(
    janus: Any, adapter: Adapter, tmp_path: Path, with_noise: float, auto: str
) -> None:
    """Kills: a measurement that is not kept, or the wrong way round; an adapter that was asked for
    by name and is not used, or beside a corrector that it was not measured with.
    """

    def method(model: Any, **options: Any) -> str:
        sjd2.accelerate(model, **options)
        draw(model)
        return sjd2.decoding_stats(model).method

    measured, adapter.measured = adapter.measured, {"sjd2": with_noise, "sjd": 6.0}
    janus.save_pretrained(tmp_path)
    sjd2.save_adapter(adapter, tmp_path / "adapter")
    adapter.measured = measured
    read = type(janus).from_pretrained(tmp_path)
    read.generation_config = janus.generation_config
    assert method(read) == auto
    assert method(read, method="sjd2") == "sjd2"
    assert method(read, exact=False) == "sjd2"
    # Noise and a corrector together were not measured, and are for who asks for both.
    both = {"corrector": sjd2.new_corrector(read)}
    assert method(read, **both) == "sjd"
    assert method(read, method="sjd2", **both) == "sjd2"
    read = sjd2.restore(read)
    assert method(read, adapter=tmp_path / "adapter") == "sjd2"
    assert method(read, adapter=tmp_path / "adapter", **both) == "sjd2"
