"""Rotary embeddings that change with the length of a text: the same as upstream's, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sjd2
from sjd2 import models
from sjd2.models.decoder import DecoderOnly
from sjd2.models.layout import Layout

CODES, START, LAYOUT = range(2, 10), 1, Layout(3, 4)
BORDER = 24
PROMPTS = torch.tensor([[10, 11, 12, START], [13, 11, 10, START]])


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_REGISTERED", {})
    sjd2.register_family(LlamaForCausalLM, lambda one: DecoderOnly(one, CODES, START, LAYOUT))


def llama(positions: int, **rope: Any) -> LlamaForCausalLM:
    """A tiny model whose next token depends a lot on where the others stand."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=14,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        pad_token_id=0,
        rope_parameters={"rope_theta": 100.0, **rope},
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 8 if weight.ndim == 2 else 1
    return model


def longrope() -> LlamaForCausalLM:
    return llama(
        4 * BORDER,
        rope_type="longrope",
        short_factor=[1.0] * 8,
        long_factor=[1.0 + 2 * at for at in range(8)],
        original_max_position_embeddings=BORDER,
        factor=4.0,
    )


def prompts(width: int) -> torch.Tensor:
    """Two prompts of so many tokens."""
    return torch.cat((PROMPTS[:, :1].repeat(1, width - 4), PROMPTS), dim=1)


GREEDY = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def stock(model: Any, ids: torch.Tensor, **settings: Any) -> Any:
    """What upstream draws, and the logits that it draws by."""

    def allowed(_: int, prefix: torch.Tensor) -> list[int]:
        return list(CODES)

    return model.generate(
        ids,
        max_new_tokens=LAYOUT.length,
        prefix_allowed_tokens_fn=allowed,
        eos_token_id=None,
        **GREEDY,
        **settings,
    )


def agree(drawn: Any, expected: Any) -> bool:
    """Tokens are equal and logits close: those of tiny models show what their tokens may not."""
    ours, theirs = (torch.stack(one.logits)[..., CODES] for one in (drawn, expected))
    return torch.equal(drawn.sequences, expected.sequences) and torch.allclose(
        ours, theirs, atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize("window", [4, 7, 50])
@pytest.mark.parametrize("settings", [{}, {"guidance_scale": 2.0}])
def test_dynamic_scaling_does_not_begin_behind_a_picture(
    window: int, settings: dict[str, Any]
) -> None:
    """The picture ends where the model's positions do, and windows overrun it.

    Kills: frequencies scaled for slots that nothing is drawn from.
    """
    model = llama(BORDER, rope_type="dynamic", factor=4.0)
    ids = prompts(BORDER - LAYOUT.length)
    expected = stock(model, ids, **settings)
    sjd2.accelerate(model, window=window)
    assert agree(model.generate(ids, **GREEDY, **settings), expected)
    # It would have shown.
    scaled = llama(BORDER - 2, rope_type="dynamic", factor=4.0)
    assert not agree(stock(scaled, ids, **settings), expected)


@pytest.mark.parametrize("window", [4, 7, 50])
@pytest.mark.parametrize("width", [BORDER - LAYOUT.length + 1, BORDER + 2, BORDER + 5])
def test_longrope_on_one_side_of_its_border_is_upstreams(width: int, window: int) -> None:
    """Kills: a window that crosses the border ahead of the picture; a refusal for no reason."""
    model, ids = longrope(), prompts(width)
    expected = stock(model, ids)
    sjd2.accelerate(model, window=window)
    assert agree(model.generate(ids, **GREEDY), expected)


@pytest.mark.parametrize(
    ("width", "settings"),
    [
        (BORDER - LAYOUT.length + 2, {}),
        (BORDER - 3, {}),
        (BORDER + 1, {}),
        (BORDER + 5, {"guidance_scale": 2.0}),  # beside it stands the last token of the prompt
    ],
)
def test_longrope_across_its_border_is_refused(width: int, settings: dict[str, Any]) -> None:
    """Kills: other pictures than the model's own, silently."""
    model = sjd2.accelerate(longrope(), window=7)
    with pytest.raises(ValueError, match=rf"both sides of token {BORDER}.*longrope"):
        model.generate(prompts(width), do_sample=False, **settings)
