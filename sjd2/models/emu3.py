"""Emu3: image tokens in one vocabulary with words, rows that end, pictures of any size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Emu3ForConditionalGeneration

from sjd2.models.decoder import DecoderOnly
from sjd2.models.layout import Layout, one_size
from sjd2.protocol import Geometry

# Special tokens: what they are called, and the ids of the published checkpoints.
_TOKENS = {
    "<|extra_200|>": 151846,  # end of a row
    "<|extra_201|>": 151847,  # end of the rows
    "<|image token|>": 151851,  # between the size of a picture and its first row
    "<|image start|>": 151852,
    "<|image end|>": 151853,
}
_KNOWN_SIZE = 90  # rows and columns of tokens of the published checkpoints: 720 pixels


class Emu3(DecoderOnly):
    """`Emu3ForConditionalGeneration` as an `ImageModel`.

    A prompt ends with `<|image start|>`, the size as words ("90*90") and `<|image token|>`, as
    `Emu3Processor(..., return_for_image_generation=True)` makes it. The size is read from the
    prompt where the vocabulary map has the digits, and else from `image_sizes`.

    Args:
        model: the transformers model; it is used as it is and never changed.
    """

    def __init__(self, model: Emu3ForConditionalGeneration) -> None:
        names: dict[str, int] = model.config.vocabulary_map or {}
        ids = [names.get(name, published) for name, published in _TOKENS.items()]
        end_of_row, end_of_rows, wrapper, self.start_id, end = ids
        eos = model.config.text_config.eos_token_id
        eos = eos[0] if isinstance(eos, list) else eos
        self._end_of_row, self._after = (end_of_row,), (end_of_rows, end, eos)
        self._digits = {names[name]: name for name in "0123456789*" if name in names}
        super().__init__(
            model,
            model.vocabulary_mapping.image_tokens,
            wrapper,
            self._rows(_KNOWN_SIZE, _KNOWN_SIZE),
            model.model.text_model,
        )

    def layout_of(self, input_ids: Tensor, image_sizes: Any) -> Layout:
        """See `DecoderOnly`."""
        written = {self._written_size(row) for row in input_ids.tolist()}
        if len(written) != 1:
            raise ValueError("input_ids: the pictures of a call have one size")
        size = written.pop()
        if image_sizes is not None:
            asked = one_size(image_sizes)
            if size is not None and asked != size:
                raise ValueError(f"image_sizes: {asked}, but the prompt says {size}")
            size = asked
        if size is None:
            raise ValueError(
                "image_sizes: needed, (height, width) in tokens as the processor returns it; the "
                "model's vocabulary_map has no digits to read it from the prompt"
            )
        return self._rows(*size)

    def encode(self, pictures: Sequence[Image.Image], processor: Any, geometry: Geometry) -> Tensor:
        """See `ImageModel`."""
        made = processor.image_processor(images=list(pictures), return_tensors="pt")
        pixels = made["pixel_values"].to(self.device, self.model.dtype)
        with torch.no_grad():
            grids = self.model.model.vqmodel.encode(pixels, made["image_sizes"]).image_tokens
        rows = (geometry.length - len(self._after)) // geometry.row_width
        expected = (rows, geometry.row_width - len(self._end_of_row))
        for grid in grids:
            if tuple(grid.shape) != expected:
                raise ValueError(
                    f"processor: its pictures have {tuple(grid.shape)} tokens, the model's "
                    f"{expected}"
                )
        codes = self.model.vocabulary_mapping.img2bpe_mapping_tensor.long()
        ids = codes[torch.stack(list(grids)).flatten(1).cpu()].to(self.device)
        return self.between_fixed(ids, geometry)

    def _rows(self, height: int, width: int) -> Layout:
        return Layout(height, width, self._end_of_row, self._after)

    def _written_size(self, row: list[int]) -> tuple[int, int] | None:
        """The size that a prompt ends with, where it can be read."""
        if self.start_id not in row:
            return None
        behind = len(row) - row[::-1].index(self.start_id)
        words = "".join(self._digits.get(token, " ") for token in row[behind:-1])
        size = re.fullmatch(r"(\d+)\*(\d+)", words)
        return (int(size[1]), int(size[2])) if size else None
