"""A tiny random GLM-Image, and prompts for it as its processor makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GlmImageConfig, GlmImageForConditionalGeneration

CODES = 61
PICTURE, PREVIEW = (4, 6), (2, 3)
SOURCE = (3, 2)


def tiny_glm_image(
    codes: int = CODES, attention: str = "sdpa", patch: int = 8
) -> GlmImageForConditionalGeneration:
    """Random weights, loud enough for pictures that differ; begin and end stand behind the codes.

    Behind these are words: the placeholder of a picture and the padding last.
    """
    torch.manual_seed(0)
    words = codes + 40
    text = {
        "vocab_size": words,
        "vision_vocab_size": codes + 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": words - 1,
        "eos_token_id": codes + 1,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100.0,
            "mrope_section": [1, 2, 1],
            "partial_rotary_factor": 1.0,
        },
    }
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24}
    config = GlmImageConfig(
        text_config=text,
        vision_config={**vision, "image_size": 64, "patch_size": patch},
        vq_config={"embed_dim": 8, "num_embeddings": codes, "latent_channels": 16},
        image_token_id=words - 2,
        image_start_token_id=codes,
        image_end_token_id=codes + 1,
    )
    config._attn_implementation = attention
    model = GlmImageForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weights in model.model.language_model.parameters():
            if weights.ndim == 2:
                weights.mul_(8)
        model.lm_head.weight.mul_(25)
        # Only codes are ever likely, so that stock `generate` fills its grids.
        model.lm_head.weight[codes:] = 0
        for weights in (*model.model.visual.parameters(), *model.model.vqmodel.parameters()):
            weights.mul_(3)
    settings = model.generation_config
    settings.eos_token_id, settings.pad_token_id = codes + 1, words - 1
    return model


def asked(model: Any, images: int = 2, sources: int = 0) -> dict[str, Tensor]:
    """Arguments of `generate`: prompts of different lengths, with pictures in them or without."""
    config = model.config
    pad, start, end = config.text_config.pad_token_id, config.image_start_token_id, None
    end, word = config.image_end_token_id, start + 5
    shown = [start, *[config.image_token_id] * (SOURCE[0] * SOURCE[1]), end] * sources
    prompts = [
        [word + i + j for j in range(2 + i)] + shown + [word + 9, start] for i in range(images)
    ]
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in prompts])
    # The picture first, as in the processor's list; edits have no preview.
    targets = [PICTURE] if sources else [PICTURE, PREVIEW]
    grids = torch.tensor([[1, *grid] for grid in [*[SOURCE] * sources, *targets]] * images)
    made = {
        "input_ids": ids,
        "attention_mask": (ids != pad).long(),
        "image_grid_thw": grids,
        "images_per_sample": torch.tensor([sources + len(targets)] * images),
    }
    if sources:
        patches = images * sources * SOURCE[0] * SOURCE[1]
        generator = torch.Generator().manual_seed(1)
        made["pixel_values"] = torch.randn(patches, 3 * 8 * 8, generator=generator)
    return made
