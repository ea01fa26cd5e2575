"""A family of one's own: the page of the docs works as it stands, and refuses what it must."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import sjd2
from sjd2 import models
from sjd2.models.decoder import DecoderOnly
from sjd2.models.layout import Layout

PAGE = Path(__file__).parents[2] / "docs" / "own-family.md"


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_REGISTERED", dict(models._REGISTERED))


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the code of the page leaves behind."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) <= 60
    names: dict[str, Any] = {"__name__": "page"}
    known = dict(models._REGISTERED)
    exec(compile(code[1], str(PAGE), "exec"), names)
    models._REGISTERED.clear()
    models._REGISTERED.update(known)
    return names


def test_the_page_draws_a_picture(page: dict[str, Any]) -> None:
    """Kills: documentation that has drifted from the code."""
    assert page["codes"].shape == (1, 8, 8)
    assert ((page["codes"] >= 0) & (page["codes"] < page["CODES"])).all()
    rows = page["picture"][:, :-1].view(8, 9)
    assert (rows[:, -1] == page["END_OF_ROW"]).all()
    assert page["picture"][0, -1] == page["END"]


def test_the_page_equals_stock_generate(page: dict[str, Any]) -> None:
    """Kills: another backbone, head or guidance than the model's own."""
    sjd2.register_family(page["Painter"], page["PainterFamily"])
    model, prompt = page["model"], page["prompt"]
    forced = page["PainterFamily"](model).layout.forced().tolist()
    image = list(range(page["WORDS"], page["WORDS"] + page["CODES"]))

    def allowed(_: int, prefix: torch.Tensor) -> list[int]:
        token = forced[len(prefix) - prompt.shape[1]]
        return image if token < 0 else [token]

    greedy = {"do_sample": False, "guidance_scale": 3.0, "max_new_tokens": len(forced)}
    drawn = model.generate(prompt, **greedy)
    sjd2.restore(model)
    plain = {"prefix_allowed_tokens_fn": allowed, "eos_token_id": None}
    assert torch.equal(model.generate(prompt, **greedy, **plain), drawn)


def _family(model: Any) -> DecoderOnly:
    return DecoderOnly(model, range(2, 6), 1, Layout(2, 2))


TINY = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1}
HEADS = {"intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}


def test_windowed_and_recurrent_models_are_refused() -> None:
    """Kills: a window over entries that the model's own attention would not see."""
    sliding = MistralForCausalLM(MistralConfig(**TINY, **HEADS, sliding_window=4))
    recurrent = MambaForCausalLM(MambaConfig(**TINY, state_size=2, expand=1))
    for model, kind in ((sliding, "sliding_attention"), (recurrent, "recurrent")):
        sjd2.register_family(type(model), _family)
        with pytest.raises(ValueError, match=kind):
            sjd2.accelerate(model)
        assert "generate" not in vars(model)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (lambda model: DecoderOnly(model, [], 1, Layout(2, 2)), "no image token"),
        (lambda model: DecoderOnly(model, [8, 9], 1, Layout(2, 2)), "of 9 lacks token 9"),
        (lambda model: DecoderOnly(model, [2], 1, Layout(2, 2, after=(10,))), "lacks token 10"),
        (lambda model: DecoderOnly(model, [2], 1, Layout(0, 2)), "0x2 tokens"),
    ],
)
def test_a_family_that_does_not_fit_its_model_is_refused(family: Any, message: str) -> None:
    """Kills: an index error in the middle of the first picture."""
    sjd2.register_family(LlamaForCausalLM, family)
    model = LlamaForCausalLM(LlamaConfig(**TINY, **HEADS))
    with pytest.raises(ValueError, match=message):
        sjd2.accelerate(model)


def test_scaled_logits_are_refused() -> None:
    """Kills: a head whose scale is left out."""
    model = LlamaForCausalLM(LlamaConfig(**TINY, **HEADS))
    model.config.logit_scale = 0.5
    sjd2.register_family(LlamaForCausalLM, _family)
    with pytest.raises(ValueError, match=r"logit_scale=0\.5"):
        sjd2.accelerate(model)


def test_registering_takes_classes() -> None:
    """Kills: an instance registered, to which no model ever belongs."""
    with pytest.raises(TypeError, match="class of models"):
        sjd2.register_family("LlamaForCausalLM", _family)  # type: ignore[arg-type]


def test_pictures_that_have_no_room_are_refused() -> None:
    """Kills: positions beyond those that the model knows."""
    sjd2.register_family(LlamaForCausalLM, _family)
    config = LlamaConfig(**TINY, **HEADS, max_position_embeddings=6)
    model = sjd2.accelerate(LlamaForCausalLM(config))
    with pytest.raises(ValueError, match=r"3 tokens.*room for 2"):
        model.generate(torch.tensor([[7, 8, 1]]))
    with pytest.raises(ValueError, match="image_sizes: 3x2"):
        model.generate(torch.tensor([[8, 1]]), image_sizes=[[3, 2]])
    drawn = model.generate(torch.tensor([[8, 1]]), image_sizes=[[2, 2]], do_sample=False)
    assert drawn.shape == (1, 6)


def test_layouts_put_and_take_pictures() -> None:
    """Kills: rows and columns exchanged, ends of row in the wrong place."""
    layout = Layout(2, 3, end_of_row=(7,), after=(8, 9))
    codes = torch.arange(6)[None]
    tokens = layout.put(codes)
    assert tokens.tolist() == [[0, 1, 2, 7, 3, 4, 5, 7, 8, 9]]
    assert torch.equal(layout.take(tokens), codes.view(1, 2, 3))
    assert layout.forced().tolist() == [-1, -1, -1, 7, -1, -1, -1, 7, 8, 9]
    assert (layout.length, layout.row_width, layout.forced_ids) == (10, 4, (7, 8, 9))
