"""The published configurations, without weights: sizes and ids as the papers state them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
)

from sjd2.models import family_of
from sjd2.models.decoder import DecoderOnly
from sjd2.protocol import Geometry

LETTERS = "ABCDEFGHIJ"


def without_weights(model_class: Any, config: Any) -> Any:
    with torch.device("meta"):
        return model_class(config)


def known(family: Any) -> DecoderOnly:
    assert isinstance(family, DecoderOnly)
    return family


def chameleon() -> DecoderOnly:
    names = {f"IMGIMG{''.join(LETTERS[int(d)] for d in str(c))}Z": 4 + c for c in range(8192)}
    config = ChameleonConfig(vocabulary_map={"<image>": 8711, **names}, num_hidden_layers=1)
    return known(family_of(without_weights(ChameleonForConditionalGeneration, config)))


@pytest.mark.parametrize(("layers", "hidden", "heads"), [(24, 2048, 16), (30, 4096, 32)])
def test_janus_pro_draws_576_tokens(layers: int, hidden: int, heads: int) -> None:
    """Kills: a size read from the wrong part of the configuration."""
    config = JanusConfig(
        text_config={
            "vocab_size": 102400,
            "hidden_size": hidden,
            "intermediate_size": 64,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
        },
        vision_config={"num_hidden_layers": 1, "num_image_tokens": 576},
        vq_config={"num_embeddings": 16384, "num_patches": 24},
    )
    family = family_of(without_weights(JanusForConditionalGeneration, config))
    assert (family.vocab_size, family.geometry) == (16384, Geometry(576, 24))


def test_emu3_draws_8193_tokens() -> None:
    """Kills: a token of the grammar left out, or another id for it than the published one."""
    names = {f"<|visual token {code:06d}|>": 151854 + code for code in range(32768)}
    config = Emu3Config(
        text_config={"num_hidden_layers": 1},
        vocabulary_map={"<image>": 151851, "<|extra_200|>": 151846, **names},
    )
    family = known(family_of(without_weights(Emu3ForConditionalGeneration, config)))
    assert (family.geometry.length, family.geometry.row_width) == (8193, 91)
    assert family.vocab_size == 32772
    forced = family.layout.forced()
    assert (forced[90 : 90 * 91 : 91] == 151846).all()
    assert forced[-3:].tolist() == [151847, 151853, 151850]
    assert family.image_start_id == 151851


def test_lumina_mgpt_draws_2357_tokens() -> None:
    """Of which three end the prompt here: the start of the image and its size.

    Kills: size tokens that count tokens, not blocks of 32 pixels.
    """
    family = chameleon()
    prompt = torch.tensor([[0, 8710, 8197, 8804 + 24, 8804 + 24]])
    assert family.asks_for_picture(prompt).all()
    layout = family.layout_of(prompt, None)
    assert 3 + layout.length == 2357
    forced = layout.forced()
    assert (forced[48 : 48 * 49 : 49] == 8803).all()
    assert forced[-2:].tolist() == [8196, 8710]
    assert family.unconditional_ids(prompt).tolist() == [[8197, 8828, 8828]]


def test_anole_draws_1024_tokens_and_the_end() -> None:
    """Kills: a grid read from another part of the configuration."""
    family = chameleon()
    layout = family.layout_of(torch.tensor([[0, 8710, 8197]]), None)
    assert (layout.height, layout.width, layout.after) == (32, 32, (8196,))
    assert family.image_ids == list(range(4, 8196))
