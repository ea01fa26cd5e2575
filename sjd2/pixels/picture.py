"""From image tokens and pixels to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor


@torch.no_grad()
def picture_of(model: Any, processor: Any, tokens: Tensor) -> Image.Image:
    """Janus's picture of one row of tokens; alone, for pixels take more memory than tokens.

    Args:
        model: whose VQ decoder draws.
        processor: its processor.
        tokens: int64 [length].
    """
    pixels = model.decode_image_tokens(tokens[None])[0]
    # Not the processor's own postprocess: with torchvision it refuses to make PIL pictures, without
    # it mistakes rows for channels (transformers 5.23).
    scale = processor.image_processor
    return to_picture(pixels.movedim(-1, 0), scale.image_mean, scale.image_std)


def to_picture(
    pixels: Tensor, mean: Sequence[float] = (0.5,) * 3, std: Sequence[float] = (0.5,) * 3
) -> Image.Image:
    """Pixels as a picture, RGB.

    Args:
        pixels: float [3, H, W], any device.
        mean, std: that the channels were normalised by; the default is for -1 to 1.
    """
    levels = pixels.float().cpu().movedim(0, -1) * torch.tensor(std) + torch.tensor(mean)
    return Image.fromarray((levels * 255).round().clamp(0, 255).to(torch.uint8).numpy())
