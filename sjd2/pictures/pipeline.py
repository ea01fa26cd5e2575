"""What lies around a model: captions become what it is asked, what it answers becomes pictures.

`sjd2/models/` knows tokens only; this is where words and pixels are. A pipeline for every family
that sjd2 knows; `sjd2/pictures/loading.py` makes one of a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from sjd2.models import family_of
from sjd2.models.layout import Layout
from sjd2.pixels.picture import picture_of, to_picture
from sjd2.pixels.vqgan import VQDecoder


class Pipeline(Protocol):
    """A model and its processor, and what is between them and people."""

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """Of words."""

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """What `generate` takes of the captions: tensors, batch first, on the model's device."""

    def tokens(self, generated: Tensor) -> Tensor:
        """Of what `generate` returned for captions of one call, the pictures': int64 [B, L]."""

    def grid(self, values: Tensor) -> Tensor:
        """Something of every token [B, L], as the tokens lie in the picture: [B, rows, columns]."""

    def pictures(self, generated: Tensor) -> list[Image.Image]:
        """What `generate` returned as pictures, RGB; one at a time, for pixels take memory."""


class JanusPipeline:
    """Janus and Janus-Pro.

    Args:
        model: a `JanusForConditionalGeneration`.
        processor: its `JanusProcessor`.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.tokenizer = processor.tokenizer

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """See `Pipeline`; through the chat template, if there is one."""
        made = self.processor(
            text=[self._prompt(caption) for caption in captions],
            generation_mode="image",
            return_tensors="pt",
            padding=True,
        )
        return _on_device(made, self.model)

    def tokens(self, generated: Tensor) -> Tensor:
        """See `Pipeline`."""
        return generated

    def grid(self, values: Tensor) -> Tensor:
        """See `Pipeline`."""
        return values.reshape(len(values), -1, family_of(self.model).geometry.row_width)

    def pictures(self, generated: Tensor) -> list[Image.Image]:
        """See `Pipeline`."""
        return [picture_of(self.model, self.processor, row) for row in generated]

    def _prompt(self, caption: str) -> str:
        if not getattr(self.processor, "chat_template", None):
            return caption
        turn = {"role": "user", "content": [{"type": "text", "text": caption}]}
        prompt: str = self.processor.apply_chat_template([turn], add_generation_prompt=True)
        return prompt


class _InVocabulary:
    """What families of one vocabulary share: the prompt comes back in front of the picture."""

    layout: Layout  # of every picture

    def tokens(self, generated: Tensor) -> Tensor:
        """See `Pipeline`."""
        return generated[:, -self.layout.length :]

    def grid(self, values: Tensor) -> Tensor:
        """See `Pipeline`."""
        return self.layout.take(values)


class Emu3Pipeline(_InVocabulary):
    """Emu3.

    Args:
        model: an `Emu3ForConditionalGeneration`.
        processor: its `Emu3Processor`.
        size: (width, height) in pixels, about; None is that of the processor.
    """

    def __init__(self, model: Any, processor: Any, size: tuple[int, int] | None = None) -> None:
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self._size: dict[str, Any] = {}
        if size is not None:
            width, height = size
            self._size = {"ratio": f"{width}:{height}", "image_area": width * height}
        asked = self.inputs(["a"])
        family: Any = family_of(model)
        self.layout = family.layout_of(asked["input_ids"], asked["image_sizes"])

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """See `Pipeline`."""
        made = self.processor(
            text=list(captions),
            return_for_image_generation=True,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            **self._size,
        )
        return _on_device(made, self.model)

    @torch.no_grad()
    def pictures(self, generated: Tensor) -> list[Image.Image]:
        """See `Pipeline`."""
        scale = self.processor.image_processor
        height, width = self.layout.height, self.layout.width
        decoded = (
            self.model.decode_image_tokens(image_tokens=row[None], height=height, width=width)[0]
            for row in self.tokens(generated)
        )
        return [to_picture(pixels, scale.image_mean, scale.image_std) for pixels in decoded]


class ChameleonPipeline(_InVocabulary):
    """Lumina-mGPT where a size is asked for, else Anole.

    Args:
        model: a `ChameleonForConditionalGeneration`.
        processor: its `ChameleonProcessor`, or its tokenizer.
        decoder: of its pictures.
        size: (width, height) in pixels; None is Anole's square.

    Raises:
        ValueError: a size that no size tokens say.
    """

    def __init__(
        self, model: Any, processor: Any, decoder: VQDecoder, size: tuple[int, int] | None = None
    ) -> None:
        self.model, self.processor, self.decoder = model, processor, decoder
        self.tokenizer = getattr(processor, "tokenizer", processor)
        family: Any = family_of(model)
        self._said, asked = "", family.picture_prompt()
        if size is not None:
            width, height = size
            self._said = f"Generate an image of {width}x{height} according to the following "
            self._said += "prompt:\n"
            asked = family.picture_prompt((height, width))
        self._asked = torch.tensor(asked)
        self.layout = family.layout_of(self._asked[None], None)

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """See `Pipeline`."""
        words = self.tokenizer(
            [self._said + caption for caption in captions],
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        asked = self._asked.expand(len(captions), -1)
        ids = torch.cat((words["input_ids"], asked), dim=1)
        mask = torch.cat((words["attention_mask"], torch.ones_like(asked)), dim=1)
        return _on_device({"input_ids": ids, "attention_mask": mask}, self.model)

    def pictures(self, generated: Tensor) -> list[Image.Image]:
        """See `Pipeline`."""
        family: Any = family_of(self.model)
        return self.decoder.pictures(family.codes(generated))


def _on_device(made: Mapping[str, Any], model: Any) -> dict[str, Tensor]:
    """What a processor made, as tensors on the model's device."""
    return {name: torch.as_tensor(value).to(model.device) for name, value in made.items()}
