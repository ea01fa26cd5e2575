"""A genuine Janus of a few thousand weights, random, with logits sharp enough to be interesting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig

LENGTH, VOCAB = 64, 50
PAD, BOS, BOI = 0, 1, 2

# Three prompts of different lengths, padded on the left.
PROMPTS = torch.tensor(
    [[0, 0, 1, 5, 6, 2], [1, 9, 8, 7, 5, 2], [0, 1, 4, 3, 3, 2], [0, 0, 0, 0, 1, 2]]
    + [[0, 0, 1, 5 + i, 6 + i, 2] for i in range(4)]
)
MASK = (PROMPTS != PAD).long()


def tiny_janus(attention: str = "sdpa", length: int = LENGTH) -> JanusForConditionalGeneration:
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=99,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    config = JanusConfig(
        text_config=text.to_dict(),
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "num_image_tokens": length,
            "projection_dim": 64,
            "depth": 1,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": VOCAB,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 64,
            "image_token_embed_dim": 64,
        },
        attn_implementation=attention,
    )
    model = JanusForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Fresh weights say next to nothing: louder, they give distributions worth sampling from.
        for weight in (*model.model.generation_head.parameters(),):
            weight *= 10
        for weight in (*model.model.generation_aligner.parameters(),):
            weight *= 5
    model.generation_config.bos_token_id = BOS
    model.generation_config.pad_token_id = PAD
    model.generation_config.generation_kwargs = {"boi_token_id": BOI}
    return model


def draw(model: Any, rows: slice | None = None, **kwargs: Any) -> Tensor:
    """`generate` on the prompts above."""
    rows = rows or slice(0, 3)
    options = {"generation_mode": "image", "do_sample": True, "guidance_scale": 3.0, **kwargs}
    return model.generate(input_ids=PROMPTS[rows], attention_mask=MASK[rows], **options)
