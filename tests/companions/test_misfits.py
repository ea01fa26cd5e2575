"""Companions that do not fit a model's weights: left out, never in the way of a picture."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sjd2
from sjd2.companions import fingerprint
from sjd2.models import family_of
from tests.janus_model import draw, tiny_janus

KINDS = {
    "adapter": (sjd2.new_adapter, sjd2.save_adapter),
    "corrector": (sjd2.new_corrector, sjd2.save_corrector),
}


@pytest.fixture(params=list(KINDS))
def kind(request: Any) -> str:
    found: str = request.param
    return found


@pytest.fixture
def carrying(kind: str, tmp_path: Path) -> Any:
    """A model with a companion beside its weights."""
    model = tiny_janus()
    model.save_pretrained(tmp_path)
    new, save = KINDS[kind]
    companion = new(model, rank=3)
    with torch.no_grad():
        for parameter in companion.parameters():
            parameter.normal_()
    save(companion, tmp_path / kind)
    return model


def read(folder: Path, **options: Any) -> Any:
    model = type(tiny_janus()).from_pretrained(folder, **options)
    model.generation_config = tiny_janus().generation_config
    return model


class Packed(Tensor):
    """Values that cannot be picked out one by one, as those of packed weights."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.flatten, Tensor.__getitem__):
            raise NotImplementedError(f"{func} of a packed tensor")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        return result.as_subclass(Packed) if func is Tensor.detach else result


def packed(model: Any) -> Any:
    layer = model.model.language_model.layers[0].mlp.up_proj
    weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Packed), requires_grad=False)
    layer._parameters["weight"] = weight
    return model


def changed(model: Any) -> Any:
    """As after a merge: same names and sizes, other values."""
    with torch.no_grad():
        model.model.language_model.layers[1].self_attn.v_proj.weight.mul_(1.5)
    return model


def damaged(folder: Path, kind: str) -> None:
    (folder / kind / f"{kind}.safetensors").write_bytes(b"nothing")


MISFITS = {
    "float16": lambda folder, kind: read(folder).to(torch.float16),
    "packed": lambda folder, kind: packed(read(folder)),
    "merged": lambda folder, kind: changed(read(folder)),
    "damaged": lambda folder, kind: damaged(folder, kind) or read(folder),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_a_model_carries_never_stops_a_call(
    carrying: Any, kind: str, misfit: str, tmp_path: Path
) -> None:
    """Kills: an error of a network that would have changed speed alone, or silence about it."""
    model = MISFITS[misfit](tmp_path, kind)
    options = {"verify": "gumbel", "window": 8, "seed": 2}
    with pytest.warns(UserWarning, match=rf"{kind} is left out: .*\({kind}=None"):
        sjd2.accelerate(model, **options)
    assert getattr(model.generate.companions, kind) is None
    drawn = draw(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sjd2.accelerate(model, **{kind: None}, **options)
    assert torch.equal(draw(model), drawn)


@pytest.mark.parametrize("misfit", ["float16", "packed", "merged"])
def test_one_that_is_named_may_be_forced_and_changes_no_token(
    carrying: Any, kind: str, misfit: str, tmp_path: Path
) -> None:
    """Kills: a fingerprint that cannot be overruled, or is without being asked to."""
    model, folder = MISFITS[misfit](tmp_path, kind), tmp_path / kind
    options = {"verify": "gumbel", "window": 8, "seed": 2, "adapter": None, "corrector": None}
    sjd2.accelerate(model, **options)
    expected = draw(model)
    options[kind] = folder
    with pytest.raises(ValueError, match=f"{kind}: trained on .* force=True"):
        sjd2.accelerate(model, **options)
    sjd2.accelerate(model, **options, force=True)
    assert getattr(model.generate.companions, kind) is not None
    drawn = draw(model)
    # In float16 a forward of other width rounds otherwise, which may turn a near tie.
    assert torch.equal(drawn, expected) or misfit == "float16"
    with sjd2.accelerated(model, **options, force=True):
        assert getattr(model.generate.companions, kind) is not None


def test_force_does_not_make_other_sizes_fit(carrying: Any, kind: str, tmp_path: Path) -> None:
    """Kills: an error from the middle of the first picture."""
    config = tmp_path / kind / f"{kind}.json"
    said = json.loads(config.read_text())
    other = KINDS[kind][0](carrying, rank=3)
    if kind == "corrector":
        other.shift = torch.nn.Linear(3, said["vocab_size"] + 1, bias=False)
    else:
        other.layers = {name: sizes for name, sizes in other.layers.items() if "mlp" not in name}
    with pytest.raises(ValueError, match=f"{kind}: made for a model with .* other sizes"):
        sjd2.accelerate(carrying, **{kind: other}, force=True)


def test_a_lora_keeps_the_companions_of_its_base(carrying: Any, kind: str, tmp_path: Path) -> None:
    """It is one model more to verify by, and the networks beside it still guess well.

    Kills: names that peft changes taken for another model, an update that misses wrapped layers.
    """
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    model = read(tmp_path)
    base = fingerprint(family_of(model).backbone)
    wrapped = peft.get_peft_model(model, lora).eval()
    assert fingerprint(family_of(wrapped).backbone) == base
    options = {"verify": "gumbel", "window": 8, "seed": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sjd2.accelerate(wrapped, method="ar", **options)
        expected = draw(wrapped)
        sjd2.accelerate(wrapped, method="sjd2" if kind == "adapter" else "sjd", **options)
    assert torch.equal(draw(wrapped), expected)
    assert getattr(wrapped.generate.companions, kind) is not None
    merged = wrapped.merge_and_unload()
    sjd2.restore(merged)
    with pytest.warns(UserWarning, match=f"{kind} is left out"):
        sjd2.accelerate(merged, **options)
    draw(merged)
