"""Captions to the inputs of `generate`, and its output to pictures: one pipeline per family.

`sjd2/models/` knows tokens only; words and pixels are here. `sjd2/pictures/registry.py` says which
model has which pipeline, and `sjd2/pictures/loading.py` loads one by name.
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
from sjd2.placement import device_of


class Pipeline(Protocol):
    """A model and its processor, from captions to pictures."""

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of captions."""

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The captions as arguments of `generate`: tensors, batch first, on the model's device."""

    def tokens(self, generated: Tensor) -> Tensor:
        """The pictures' tokens in what one call of `generate` returned: int64 [B, L]."""

    def grid(self, values: Tensor) -> Tensor:
        """One value per token [B, L], arranged as in the picture: [B, rows, columns]."""

    def pictures(self, generated: Tensor) -> list[Image.Image]:
        """RGB pictures of what `generate` returned; decoded one by one, to save memory."""


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


class SequencePipeline:
    """A model whose `generate` returns the prompt and, behind it, the picture's tokens.

    The base of a pipeline of your own (see docs/own-family.md): a subclass brings `pictures`, and
    `inputs` where the prompt is more than the caption and the token that starts a picture.

    Args:
        model: of a family that derives from `DecoderOnly`.
        processor: of the model, or its tokenizer.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        family: Any = family_of(model)
        self.layout: Layout = family.layout  # of every picture
        self.before, self.after = "", torch.tensor([family.image_start_id])

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """See `Pipeline`; `before` and the caption as words, then the token ids of `after`."""
        words = self.tokenizer(
            [self.before + caption for caption in captions],
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        after = self.after.expand(len(captions), -1)
        ids = torch.cat((words["input_ids"], after), dim=1)
        mask = torch.cat((words["attention_mask"], torch.ones_like(after)), dim=1)
        return _on_device({"input_ids": ids, "attention_mask": mask}, self.model)

    def pictures(self, generated: Tensor) -> list[Image.Image]:
        """See `Pipeline`."""
        raise NotImplementedError(f"{type(self).__name__} has no decoder of pictures")

    def tokens(self, generated: Tensor) -> Tensor:
        """See `Pipeline`."""
        return generated[:, -self.layout.length :]

    def grid(self, values: Tensor) -> Tensor:
        """See `Pipeline`."""
        return self.layout.take(values)


class Emu3Pipeline(SequencePipeline):
    """Emu3.

    Args:
        model: an `Emu3ForConditionalGeneration`.
        processor: its `Emu3Processor`.
        size: (width, height) in pixels, about; None is that of the processor.
    """

    def __init__(self, model: Any, processor: Any, size: tuple[int, int] | None = None) -> None:
        super().__init__(model, processor)
        self._size: dict[str, Any] = {}
        if size is not None:
            width, height = size
            self._size = {"ratio": f"{width}:{height}", "image_area": width * height}
        prompt = self.inputs(["a"])
        family: Any = family_of(model)
        self.layout = family.layout_of(prompt["input_ids"], prompt["image_sizes"])

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


class ChameleonPipeline(SequencePipeline):
    """Lumina-mGPT if a size is given, else Anole.

    Args:
        model: a `ChameleonForConditionalGeneration`.
        processor: its `ChameleonProcessor`, or its tokenizer.
        decoder: of its pictures.
        size: (width, height) in pixels; None is Anole's square.

    Raises:
        ValueError: a size for which there are no size tokens.
    """

    def __init__(
        self, model: Any, processor: Any, decoder: VQDecoder, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(model, processor)
        self.decoder = decoder
        family: Any = family_of(model)
        after = family.picture_prompt()
        if size is not None:
            width, height = size
            self.before = f"Generate an image of {width}x{height} according to the following "
            self.before += "prompt:\n"
            after = family.picture_prompt((height, width))
        self.after = torch.tensor(after)
        self.layout = family.layout_of(self.after[None], None)

    def pictures(self, generated: Tensor) -> list[Image.Image]:
        """See `Pipeline`."""
        family: Any = family_of(self.model)
        return self.decoder.pictures(family.codes(generated))


def _on_device(made: Mapping[str, Any], model: Any) -> dict[str, Tensor]:
    """The tensors of a processor on the model's device."""
    device = device_of(model)
    return {name: torch.as_tensor(value).to(device) for name, value in made.items()}
