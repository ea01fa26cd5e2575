"""From image tokens to pictures, by the model's own VQ decoder."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor


@torch.no_grad()
def picture_of(model: Any, processor: Any, tokens: Tensor) -> Image.Image:
    """The picture of one row of tokens; alone, because pixels take more memory than tokens.

    Args:
        model: whose VQ decoder draws.
        processor: its processor.
        tokens: int64 [length].
    """
    pixels = model.decode_image_tokens(tokens[None])[0].float().cpu()
    # Not the processor's own postprocess: with torchvision it refuses to make PIL pictures, without
    # it mistakes rows for channels (transformers 5.23).
    scale = processor.image_processor
    levels = (
        ((pixels * torch.tensor(scale.image_std) + torch.tensor(scale.image_mean)) * 255)
        .round()
        .clamp(0, 255)
    )
    return Image.fromarray(levels.to(torch.uint8).numpy())
