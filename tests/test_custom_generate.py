"""Pictures without a hook: a callable for transformers, and a folder laid out for its Hub."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import sjd2
from tests.family_models import EMU3, LUMINA, tiny_chameleon, tiny_emu3
from tests.janus_model import draw, tiny_janus

HUB = str(Path(__file__).parents[1] / "hub")


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_callable_draws_what_an_accelerated_model_draws(guidance: float) -> None:
    """Kills: an argument lost between upstream and the loop; a hook left on the model."""
    model = tiny_emu3()
    before = dict(vars(model))
    settings = {"guidance_scale": guidance, "seed": 3, "num_return_sequences": 2}
    config = sjd2.DecodingConfig(window=7)
    drawn = EMU3.draw(
        model, custom_generate=sjd2.generate, decoding=config, max_new_tokens=50, **settings
    )
    assert vars(model) == before
    assert sjd2.decoding_stats(model).images == 6
    assert torch.equal(EMU3.draw(sjd2.accelerate(model, config), **settings), drawn)


def test_the_callable_takes_the_mode_and_the_size() -> None:
    """Kills: arguments of ours that upstream calls unused."""
    model = tiny_emu3()
    options = {"custom_generate": sjd2.generate, "max_new_tokens": 50, "seed": 1}
    drawn = EMU3.draw(model, generation_mode="image", image_sizes=[[4, 5]] * 3, **options)
    assert torch.equal(EMU3.draw(model, **options), drawn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "do_sample": False}, "beam search is not accelerated"),
        ({"generation_mode": "text"}, "generation_mode='text'"),
        ({"decoding": sjd2.DecodingConfig(method="sjd2")}, "adapter"),
        ({"max_new_tokens": 4}, "max_new_tokens=4"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_the_callable_refuses_what_it_cannot_honour(options: dict[str, Any], message: str) -> None:
    """Kills: a beam search that is silently none."""
    with pytest.raises(ValueError, match=message):
        EMU3.draw(tiny_emu3(), custom_generate=sjd2.generate, **{"max_new_tokens": 50, **options})


def test_the_callable_goes_on_from_a_cache_and_refuses_a_text_prompt() -> None:
    """Kills: a continuation that reads the prompt twice; words drawn as pixels."""
    model = tiny_emu3()
    ids, _ = EMU3.prompts(1)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :-1], use_cache=True, past_key_values=cache)
    options = {"custom_generate": sjd2.generate, "max_new_tokens": 50}
    expected = model.generate(ids, seed=1, **options)
    assert torch.equal(model.generate(ids, past_key_values=cache, seed=1, **options), expected)
    assert sjd2.decoding_stats(model).prefill_passes == 0
    with pytest.raises(ValueError, match="image-start token"):
        model.generate(ids[:, :3], **options)
    with pytest.raises(TypeError, match="DecodingConfig"):
        model.generate(ids, decoding={"window": 3}, **options)


def test_a_repository_in_a_folder_works() -> None:
    """Kills: a layout that transformers' loader does not find; options it swallows."""
    config = sjd2.DecodingConfig(window=7)
    options = {"custom_generate": HUB, "trust_remote_code": True, "decoding": config}
    model = tiny_chameleon()
    drawn = LUMINA.draw(model, seed=3, guidance_scale=2.0, **options)
    assert "generate" not in vars(model)
    expected = LUMINA.draw(sjd2.accelerate(model, config), seed=3, guidance_scale=2.0)
    assert torch.equal(drawn, expected)


def test_the_repositorys_function_serves_janus_too() -> None:
    """Kills: a function for families that use upstream's generate only."""
    scope: dict[str, Any] = {}
    exec((Path(HUB) / "custom_generate" / "generate.py").read_text(), scope)
    model = tiny_janus()
    config = sjd2.DecodingConfig(window=7)

    class Caller:
        def generate(self, **kwargs: Any) -> Any:
            return scope["generate"](model, decoding=config, **kwargs)

    assert torch.equal(draw(Caller(), seed=1), draw(sjd2.accelerate(model, config), seed=1))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_of_an_accelerated_family_drives_the_copy(how: str) -> None:
    """Kills: a hook bound to the original, which would draw with the original's weights."""
    model = sjd2.accelerate(tiny_emu3(), window=8, seed=3)
    twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    expected = EMU3.draw(model)
    assert torch.equal(EMU3.draw(twin), expected)
    with torch.no_grad():
        twin.lm_head.weight += torch.randn(95, 32)
    assert not torch.equal(EMU3.draw(twin), expected)
    assert torch.equal(EMU3.draw(model), expected)


LORA = {"r": 4, "lora_alpha": 64, "init_lora_weights": False}


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["o_proj", "lm_head"]])
@pytest.mark.parametrize("order", ["peft first", "sjd2 first"])
def test_peft_and_sjd2_go_together_in_both_orders(order: str, targets: list[str]) -> None:
    """Kills: adapters of peft's left out, by a call past its wrapper or by a slice of the head."""
    peft = pytest.importorskip("peft")
    settings = {"do_sample": False, "guidance_scale": 2.0}
    bare = EMU3.draw_stock(tiny_emu3(), **settings)
    torch.manual_seed(1)
    lora = peft.LoraConfig(target_modules=targets, **LORA)
    model = tiny_emu3() if order == "peft first" else sjd2.accelerate(tiny_emu3(), window=7)
    wrapped = peft.get_peft_model(model, lora).eval()
    if order == "peft first":
        expected = EMU3.draw_stock(wrapped, **settings)
        sjd2.accelerate(wrapped, window=7)
    else:
        sjd2.restore(model)
        expected = EMU3.draw_stock(wrapped, **settings)
        sjd2.accelerate(model, window=7)
    assert not torch.equal(expected, bare)
    assert torch.equal(EMU3.draw(wrapped, **settings), expected)
    assert sjd2.decoding_stats(wrapped).tokens == 3 * EMU3.layout.length
    sjd2.restore(wrapped)
    assert "generate" not in {**vars(wrapped), **vars(model)}
    assert torch.equal(EMU3.draw_stock(wrapped, **settings), expected)


def test_learned_prompts_of_pefts_are_refused() -> None:
    """Kills: a prefix-tuned model drawn without its prefix."""
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, num_layers=2, token_dim=32
    )
    wrapped = peft.get_peft_model(tiny_chameleon(), config)
    with pytest.raises(TypeError, match="learned prompt"):
        sjd2.accelerate(wrapped)
