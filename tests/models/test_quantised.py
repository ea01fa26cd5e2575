"""Quantised weights: what is drawn is what upstream draws from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig, Emu3ForConditionalGeneration

import sjd2
from sjd2.companions import fingerprint
from sjd2.models import family_of
from tests.family_models import EMU3, LUMINA, Family, louder, tiny_chameleon, tiny_emu3

GREEDY = {"do_sample": False, "guidance_scale": 2.0}


def check_equals_stock(family: Family, model: Any) -> None:
    """Greedily upstream's tokens; with a seed the same as token by token, a corrector beside it."""
    expected = family.draw_stock(model, **GREEDY)
    for window in (2, 7, 50):
        sjd2.accelerate(model, window=window)
        assert torch.equal(family.draw(model, **GREEDY), expected)
    sjd2.accelerate(model, method="ar", seed=1)
    expected = family.draw(model)
    corrector = sjd2.new_corrector(model, rank=2)
    torch.nn.init.normal_(corrector.shift.weight)
    sjd2.accelerate(model, corrector=corrector, verify="gumbel", window=9, seed=1, force=True)
    assert torch.equal(family.draw(model), expected)


@pytest.mark.parametrize("family", [EMU3, LUMINA], ids=lambda family: family.name)
@pytest.mark.parametrize("kind", ["Int8", "Float8", "Intx"])
def test_torchaos_weights_draw_as_upstream(family: Family, kind: str) -> None:
    """Kills: rows picked out of a head whose tensor cannot be indexed; a fingerprint that dies."""
    quantization = pytest.importorskip("torchao.quantization")
    model = tiny_emu3() if family is EMU3 else tiny_chameleon()
    quantization.quantize_(model, getattr(quantization, f"{kind}WeightOnlyConfig")())
    assert type(model.lm_head) is torch.nn.Linear
    assert type(model.lm_head.weight.data) is not torch.Tensor
    check_equals_stock(family, model)


def test_quantised_inputs_depend_on_the_window() -> None:
    """A reason that docs/exactness.md gives: a scale is taken over all that a layer reads.

    Kills: the claim, should torchao come to scale every token by itself.
    """
    quantization = pytest.importorskip("torchao.quantization")
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64))
    config = quantization.Int8DynamicActivationInt8WeightConfig(
        granularity=quantization.PerTensor()
    )
    quantization.quantize_(layer, config)
    rows = torch.randn(4, 64) * torch.tensor([[1.0], [1.0], [1.0], [20.0]])
    assert (layer(rows)[:1] - layer(rows[:1])).abs().max() > 1e-2


BITSANDBYTES = {
    # A threshold above zero looks for outliers in all tokens of a forward.
    "8-bit": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
    "8-bit, head too": {
        "load_in_8bit": True,
        "llm_int8_threshold": 0.0,
        "llm_int8_skip_modules": ["vqmodel"],
    },
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.float32,
    },
}


@pytest.mark.parametrize("kind", BITSANDBYTES)
def test_bitsandbytes_weights_draw_as_upstream(kind: str, tmp_path: Path) -> None:
    """Kills: a packed head taken apart; packed weights that no fingerprint reads."""
    pytest.importorskip("bitsandbytes")
    config = tiny_emu3().config
    # nf4 packs 64 numbers at a time.
    config.text_config.hidden_size, config.text_config.intermediate_size = 128, 128
    torch.manual_seed(0)
    model = Emu3ForConditionalGeneration(config)
    louder(model, model.get_input_embeddings()).save_pretrained(tmp_path)
    quantised = Emu3ForConditionalGeneration.from_pretrained(
        tmp_path,
        quantization_config=BitsAndBytesConfig(**BITSANDBYTES[kind]),
        dtype=torch.float32,
    ).eval()
    # A forward packs weights for the CPU; to be asked whose they are must not change them.
    expected = EMU3.draw_stock(quantised, **GREEDY)
    fingerprint(family_of(quantised).backbone)
    assert torch.equal(EMU3.draw_stock(quantised, **GREEDY), expected)
    layers = {type(layer).__name__ for layer in quantised.model.text_model.modules()}
    assert layers & {"Linear8bitLt", "Linear4bit"}
    assert (type(quantised.lm_head).__name__ == "Linear8bitLt") == ("head" in kind)
    check_equals_stock(EMU3, quantised)
