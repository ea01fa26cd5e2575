"""Weights that lie elsewhere than where the model computes: accelerate's hooks act as upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sjd2
from sjd2.placement import bring, device_of
from tests.family_models import FAMILIES, Family
from tests.janus_model import draw, tiny_janus

accelerate = pytest.importorskip("accelerate")
from accelerate.hooks import (  # noqa: E402
    AlignDevicesHook,
    CpuOffload,
    SequentialHook,
    add_hook_to_module,
)

WAYS = ["cpu_offload", "disk_offload"]


def offloaded(model: Any, way: str, folder: Path) -> Any:
    """The model with its weights elsewhere; what is left of them is on "meta"."""
    model = model.eval()
    if way == "disk_offload":
        accelerate.disk_offload(model, folder, execution_device=torch.device("cpu"))
    else:
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    return model


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_offloaded_model_draws_what_it_draws_at_home(
    name: str, way: str, tmp_path: Path
) -> None:
    """Kills: prompts asked to be on "meta", rows taken of a head whose weight is not there."""
    family: Family = FAMILIES[name]
    settings = {"do_sample": False, "guidance_scale": 2.0}
    expected = family.draw_stock(family.make(), **settings)
    model = sjd2.accelerate(offloaded(family.make(), way, tmp_path), window=7)
    assert torch.equal(family.draw(model, **settings), expected)
    # And it is as far away as before.
    assert all(weight.device.type == "meta" for weight in model.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_an_offloaded_janus_draws_what_it_draws_at_home(way: str, tmp_path: Path) -> None:
    """Kills: the same for a head and a table of its own."""
    expected = draw(sjd2.accelerate(tiny_janus(), window=7), do_sample=False)
    model = sjd2.accelerate(offloaded(tiny_janus(), way, tmp_path), window=7)
    assert torch.equal(draw(model, do_sample=False), expected)


def test_a_prompt_on_another_device_is_told_the_right_one(tmp_path: Path) -> None:
    """Kills: advice to move it to "meta", which no one can follow."""
    family = FAMILIES["emu3"]
    model = sjd2.accelerate(offloaded(family.make(), "cpu_offload", tmp_path))
    with pytest.raises(ValueError, match="input_ids is on meta, the model on cpu"):
        model.generate(family.prompts()[0].to("meta"), generation_mode="image")


class Counting(CpuOffload):
    """diffusers' `enable_model_cpu_offload`, which counts how often a model is brought."""

    calls = 0

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().pre_forward(module, *args, **kwargs)


@pytest.mark.parametrize("path", ["accelerate", "custom_generate"])
def test_a_model_that_is_brought_as_a_whole_is_brought(path: str) -> None:
    """Kills: a decoder called past the hook of its model, on weights left on the CPU."""
    family = FAMILIES["emu3"]
    model, hook = family.make(), Counting(torch.device("cpu"))
    add_hook_to_module(model, hook)
    if path == "accelerate":
        family.draw(sjd2.accelerate(model, window=7))
    else:
        family.draw(model, custom_generate=sjd2.generate, max_new_tokens=family.layout.length)
    assert hook.calls == 1


def test_hooks_say_where_a_model_computes() -> None:
    """Kills: a hook of a chain that is not asked, one that brings no model called for it."""
    model = FAMILIES["emu3"].make()
    assert device_of(model) == torch.device("cpu")
    hook = Counting(torch.device("cuda", 1))
    add_hook_to_module(model, SequentialHook(AlignDevicesHook(), hook))
    assert device_of(model) == torch.device("cuda", 1)
    hook.execution_device = torch.device("cpu", 0)  # as diffusers names it, and no tensor does
    assert device_of(model) == torch.device("cpu")
    other = FAMILIES["emu3"].make()
    add_hook_to_module(other, AlignDevicesHook(torch.device("cpu")))
    bring(other)
    assert device_of(other) == torch.device("cpu")
