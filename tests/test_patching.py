"""`accelerate` leaves nothing behind, travels with its model, and lies in one layer."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sjd2
from tests.janus_model import draw


def test_restore_leaves_the_model_as_it_was(janus: Any) -> None:
    """Kills: an attribute left behind, a class exchanged, a method patched for everybody."""
    before, model_class = dict(vars(janus)), type(janus)
    class_attributes = dict(vars(model_class))
    state = {name: tensor.clone() for name, tensor in janus.state_dict().items()}
    assert sjd2.accelerate(janus, window=8) is janus
    draw(janus)
    assert sjd2.restore(janus) is janus
    assert vars(janus) == before
    assert list(vars(janus)) == list(before)
    assert type(janus) is model_class
    assert dict(vars(model_class)) == class_attributes
    assert all(torch.equal(state[name], tensor) for name, tensor in janus.state_dict().items())


def test_restore_of_an_unaccelerated_model_does_nothing(janus: Any) -> None:
    """Kills: an AttributeError, or somebody else's `generate` removed."""
    before = dict(vars(janus))
    assert vars(sjd2.restore(janus)) == before


def test_accelerating_twice_is_one_layer(janus: Any) -> None:
    """Kills: hooks that wrap hooks, so that one restore is not enough."""
    before = dict(vars(janus))
    sjd2.accelerate(janus, window=8)
    sjd2.accelerate(janus, window=16)
    assert janus.generate.config.window == 16
    assert vars(sjd2.restore(janus)) == before


def test_a_generate_of_somebody_else_is_called_and_comes_back(janus: Any) -> None:
    """Kills: falling back to the class, or deleting what another library had put there."""
    theirs = lambda *args, **kwargs: "theirs"  # noqa: E731
    janus.generate = theirs
    try:
        sjd2.accelerate(sjd2.accelerate(janus))
        assert janus.generate(generation_mode="text") == "theirs"
        assert sjd2.restore(janus).generate is theirs
    finally:
        sjd2.restore(janus)
        del janus.generate


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_drives_the_copy(janus: Any, how: str) -> None:
    """Kills: a hook bound to the original, which would draw with the original's weights."""
    sjd2.accelerate(janus, window=8, seed=3)
    twin = copy.deepcopy(janus) if how == "deepcopy" else pickle.loads(pickle.dumps(janus))
    expected = draw(janus)
    assert twin.generate.model is twin
    assert torch.equal(draw(twin), expected)
    with torch.no_grad():
        twin.model.generation_head.vision_head.bias += torch.randn(50) * 5
    assert not torch.equal(draw(twin), expected)
    assert torch.equal(draw(janus), expected)


def test_saving_an_accelerated_model_saves_the_model(janus: Any, tmp_path: Any) -> None:
    """Kills: a class name in `architectures` that nobody can load."""
    sjd2.accelerate(janus).save_pretrained(tmp_path)
    assert '"JanusForConditionalGeneration"' in (tmp_path / "config.json").read_text()


def test_the_context_manager_undoes_itself_and_nests(janus: Any) -> None:
    """Kills: settings lost after an inner block, or kept after an exception."""
    before = dict(vars(janus))
    with sjd2.accelerated(janus, window=8):
        with pytest.raises(ZeroDivisionError), sjd2.accelerated(janus, window=16) as inner:
            1 / (inner.generate.config.window - 16)
        assert janus.generate.config.window == 8
    assert vars(janus) == before


def test_options_overrule_the_config(janus: Any) -> None:
    """Kills: a config that hides the options beside it."""
    config = sjd2.DecodingConfig(window=8, coupling="independent")
    sjd2.accelerate(janus, config, window=16)
    assert janus.generate.config == sjd2.DecodingConfig(window=16, coupling="independent")


def test_an_unknown_option_names_the_nearest(janus: Any) -> None:
    """Kills: a typing error that is swallowed; a model half accelerated by a failing call."""
    before = dict(vars(janus))
    with pytest.raises(TypeError, match="did you mean 'coupling'"):
        sjd2.accelerate(janus, couplng="maximal")
    with pytest.raises(ValueError, match="window=1"):
        sjd2.accelerate(janus, window=1)
    with pytest.raises(TypeError, match="DecodingConfig"):
        sjd2.accelerate(janus, {"window": 3})
    assert vars(janus) == before


def test_an_unknown_model_class_is_refused() -> None:
    """Kills: a hook on a model that can draw nothing."""
    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    with pytest.raises(TypeError, match=r"LlamaForCausalLM.*JanusForConditionalGeneration"):
        sjd2.accelerate(model)
    assert "generate" not in vars(model)


def test_backend_is_chosen_openly(janus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a wish for Triton quietly answered by something else."""
    monkeypatch.setattr("sjd2.kernels._dispatch._obstacle", lambda kind: "Triton is not for here")
    with pytest.raises(ValueError, match="Triton"):
        sjd2.accelerate(janus, backend="triton")
    monkeypatch.setenv("SJD2_KERNELS", "nonsense")
    with pytest.raises(ValueError, match="SJD2_KERNELS='nonsense'"):
        sjd2.accelerate(janus)
    monkeypatch.setenv("SJD2_KERNELS", "eager")
    sjd2.accelerate(janus, window=8)
    draw(janus)
    assert sjd2.decoding_stats(janus).backend == "eager"


def test_stats_need_a_picture(janus: Any) -> None:
    """Kills: stats of nothing, or of another model."""
    with pytest.raises(ValueError, match="not accelerated"):
        sjd2.decoding_stats(janus)
    sjd2.accelerate(janus)
    with pytest.raises(ValueError, match="no picture"):
        sjd2.decoding_stats(janus)
