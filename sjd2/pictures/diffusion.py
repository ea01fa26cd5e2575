"""GLM-Image as diffusers holds it: one half draws tokens, the other turns them into pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sjd2.extras import missing
from sjd2.models.glm_image import GlmImage, Grids

_SIDE = 32  # pixels of a token
_USUAL = (1024, 1024)


class GlmImagePictures:
    """A `Pipeline` around diffusers' `GlmImagePipeline`.

    Args:
        pipe: diffusers' pipeline.
        size: (width, height) of the pictures in pixels, multiples of 32; None is 1024 x 1024.

    Attributes:
        options: keyword arguments of the half that makes pixels, such as `num_inference_steps`. Its
            noise is always that of one seed: what differs between pictures are their tokens.
    """

    def __init__(self, pipe: Any, size: tuple[int, int] | None = None) -> None:
        self.pipe, self.model = pipe, pipe.vision_language_encoder
        self.processor, self.tokenizer = pipe.processor, pipe.processor.tokenizer
        self.width, self.height = size or _USUAL
        if self.width % _SIDE or self.height % _SIDE:
            raise ValueError(
                f"size: {self.width}x{self.height}, but sides are multiples of {_SIDE}"
            )
        self.options: dict[str, Any] = {}
        self.captions: list[str] = []
        self.layout = Grids((), 0)  # of the captions that were asked for last

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """See `Pipeline`; through the chat template, as diffusers does."""
        self.captions = list(captions)
        turns = [
            [{"role": "user", "content": [{"type": "text", "text": caption}]}]
            for caption in captions
        ]
        made = self.processor.apply_chat_template(
            turns,
            tokenize=True,
            padding=True,
            target_h=self.height,
            target_w=self.width,
            return_dict=True,
            return_tensors="pt",
        )
        self.layout = GlmImage(self.model).asked_by(**made).layout
        return {name: value.to(self.model.device) for name, value in made.items()}

    def tokens(self, generated: Tensor) -> Tensor:
        """See `Pipeline`; the preview's, the picture's and the end."""
        return generated[:, -self.layout.length :]

    def grid(self, values: Tensor) -> Tensor:
        """See `Pipeline`; of the picture, the preview left out."""
        return self.layout.take(values)

    def pictures(self, generated: Tensor) -> list[Image.Image]:
        """See `Pipeline`."""
        repeats = len(generated) // len(self.captions)
        captions = [caption for caption in self.captions for _ in range(repeats)]
        drawn = []
        for caption, grid in zip(captions, self.grid(self.tokens(generated)), strict=True):
            # The other half knows tokens of 16 pixels.
            prior = grid.repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()[None]
            drawn += self.pipe(
                caption,
                prior_token_ids=prior,
                height=self.height,
                width=self.width,
                generator=torch.Generator().manual_seed(0),
                **self.options,
            ).images
        return drawn


def load_pipeline(
    source: str,
    device: torch.device,
    size: tuple[int, int] | None,
    is_local: bool,
    dtype: torch.dtype | None = None,
) -> GlmImagePictures:
    """A saved pipeline of diffusers.

    Args:
        source: a folder or hub id with a model_index.json.
        device: where to put it.
        size: as in `GlmImagePictures`.
        is_local: whether it is a folder.
        dtype: of the weights; None is bfloat16 on a GPU, else float32.

    Raises:
        ValueError: diffusers is missing, or the pipeline is another one.
    """
    try:
        from diffusers import DiffusionPipeline
        from diffusers.utils import logging
    except ImportError as error:
        raise missing("it", "diffusers", error) from error
    # A bar for each of seven parts would hide what is printed.
    logging.disable_progress_bar()
    name = DiffusionPipeline.load_config(source, local_files_only=is_local)["_class_name"]
    if name != "GlmImagePipeline":
        raise ValueError(
            f"a {name} of diffusers; of its pipelines sjd2 draws with GlmImagePipeline"
        )
    pipe = DiffusionPipeline.from_pretrained(
        source,
        dtype=dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32),
        use_safetensors=True,
        local_files_only=is_local,
    )
    pipe.set_progress_bar_config(disable=True)
    return GlmImagePictures(pipe.to(device), size)
