"""Chameleon, which reads pictures, and the models trained from it that draw: Lumina-mGPT, Anole.

All three are `ChameleonForConditionalGeneration`, whose forward forbids every image token. Here its
decoder and its head are called directly, so nothing is forbidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import ChameleonForConditionalGeneration

from sjd2.models.decoder import DecoderOnly
from sjd2.models.layout import Layout, one_size
from sjd2.protocol import Geometry

# Special tokens: what they are called, and the ids of the published checkpoints.
_START = ("<racm3:break>", 8197)
_END = ("<eoss>", 8196)
_END_OF_ROW = ("<reserved08799>", 8803)
_END_OF_TURN = ("<reserved08706>", 8710)
_SIZES = range(1, 129)  # a size token counts blocks of two by two tokens, 32 pixels wide
_FIRST_SIZE = 8804  # id of size n is this plus n, its name <reserved08800+n>


class Chameleon(DecoderOnly):
    """`ChameleonForConditionalGeneration` as an `ImageModel`.

    The end of the prompt says who draws:

    - the image-start token: Anole, a square of the size that its tokenizer of pictures was made
      for, and the end of the image;
    - the image-start token and two size tokens, height and width: Lumina-mGPT, rows that each end
      with a token, the end of the image and the end of the turn.

    Args:
        model: the transformers model; it is used as it is and never changed.

    Raises:
        ValueError: the norms of its queries and keys are fresh beside loaded weights, as
            `ignore_mismatched_sizes=True` leaves them for Lumina-mGPT's published checkpoints.
    """

    def __init__(self, model: ChameleonForConditionalGeneration) -> None:
        _check_norms(model)
        names: dict[str, int] = model.config.vocabulary_map or {}
        self._sizes = {names.get(f"<reserved{8800 + n:05d}>", _FIRST_SIZE + n): n for n in _SIZES}
        self._end = names.get(*_END)
        self._end_of_row = names.get(*_END_OF_ROW)
        self._end_of_turn = names.get(*_END_OF_TURN)
        vq = model.config.vq_config
        self._pixels = 2 ** (len(vq.channel_multiplier) - 1)  # that a token is wide
        side = vq.resolution // self._pixels
        mapping = model.model.vocabulary_mapping
        square = Layout(side, side, after=(self._end,))
        super().__init__(
            model,
            list(mapping.bpe2img),
            names.get(*_START),
            square,
            model.model,
            (self._end, self._end_of_row, self._end_of_turn),
        )
        self._square = square

    def picture_prompt(self, size: tuple[int, int] | None = None) -> list[int]:
        """Ids that ask for a picture, behind those of the caption.

        Args:
            size: (height, width) in pixels asks Lumina-mGPT; None asks Anole.

        Raises:
            ValueError: a size that no size tokens say.
        """
        asked = [self._end_of_turn, self.image_start_id]
        if size is None:
            return asked
        tokens = {n: token for token, n in self._sizes.items()}
        step = 2 * self._pixels
        for pixels in size:
            if pixels % step or pixels // step not in tokens:
                raise ValueError(
                    f"size {size[1]}x{size[0]}: must be multiples of {step} pixels, up to "
                    f"{max(_SIZES) * step}"
                )
        return asked + [tokens[pixels // step] for pixels in size]

    def asks_for_picture(self, input_ids: Tensor) -> Tensor:
        """See `DecoderOnly`."""
        return (input_ids[:, -1] == self.image_start_id) | self._has_size(input_ids)

    def layout_of(self, input_ids: Tensor, image_sizes: Any) -> Layout:
        """See `DecoderOnly`."""
        has_size = self._has_size(input_ids)
        if has_size.any() and not has_size.all():
            raise ValueError("input_ids: either all prompts end with size tokens, or none")
        if not has_size.any():
            layout = self._square
        else:
            pairs = {(self._sizes[h], self._sizes[w]) for h, w in input_ids[:, -2:].tolist()}
            height, width = one_size(pairs)
            layout = Layout(
                2 * height, 2 * width, (self._end_of_row,), (self._end, self._end_of_turn)
            )
        if image_sizes is not None and one_size(image_sizes) != (layout.height, layout.width):
            raise ValueError(
                f"image_sizes: {one_size(image_sizes)} tokens, but the prompt asks for "
                f"{(layout.height, layout.width)}; Lumina-mGPT reads it from two size tokens "
                "behind the image-start token"
            )
        return layout

    def unconditional_ids(self, input_ids: Tensor) -> Tensor:
        """See `DecoderOnly`. The context starts at the image-start token."""
        return input_ids[:, -3:] if self._has_size(input_ids).all() else input_ids[:, -1:]

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image], processor: Any, geometry: Geometry) -> Tensor:
        """See `ImageModel`."""
        encoder = self.model.model.vqmodel.encoder.conv_in.weight
        if _is_loaded(self.model.model.norm.weight) and not _is_loaded(encoder):
            raise ValueError(
                "model: its weights came without an encoder of pictures (model.vqmodel), as "
                "Lumina-mGPT's do; it draws, but cannot read pictures"
            )
        made = processor.image_processor(images=list(pictures), return_tensors="pt")
        pixels = made["pixel_values"].to(self.device, self.model.dtype)
        ids = self.model.model.get_image_tokens(pixels).long()
        return self.between_fixed(ids, geometry)

    def codes(self, sequences: Tensor) -> Tensor:
        """What of generated sequences is picture, as codes of the tokenizer of pictures.

        Args:
            sequences: int [B, L], as `generate` returns them: prompts and pictures of one size.

        Returns:
            int64 [B, height, width].

        Raises:
            ValueError: a sequence that does not hold one whole picture at its end.
        """
        starts = (sequences == self.image_start_id).long()
        behind = (sequences.shape[1] - starts.flip(1).argmax(dim=1)).tolist()
        if not starts.any(dim=1).all() or len(set(behind)) != 1:
            raise ValueError("sequences: their last image-start tokens must stand in one column")
        at = behind[0]
        if self._has_size(sequences[:, at - 1 : at + 2]).all():
            at += 2  # the size tokens
        layout = self.layout_of(sequences[:, :at], None)
        by_id = torch.full((self.vocabulary,), -1, device=sequences.device)
        for token, code in self.model.model.vocabulary_mapping.bpe2img.items():
            by_id[token] = code
        is_whole = sequences.shape[1] >= at + layout.height * layout.row_width
        codes = by_id[layout.take(sequences[:, at:])] if is_whole else by_id[:0]
        if not is_whole or (codes < 0).any():
            raise ValueError("sequences: the picture is cut short, or has other tokens in it")
        return codes

    def _has_size(self, input_ids: Tensor) -> Tensor:
        """Which prompts [B, L] end with the image-start token and two size tokens: bool [B]."""
        if input_ids.shape[1] < 3:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        sizes = torch.tensor(list(self._sizes), device=input_ids.device)
        are_sizes = torch.isin(input_ids[:, -2:], sizes).all(dim=1)
        return (input_ids[:, -3] == self.image_start_id) & are_sizes


def _check_norms(model: ChameleonForConditionalGeneration) -> None:
    """Refuse norms of queries and keys that are fresh in a model that is not.

    Upstream only warns of them, and draws something else.
    """
    layer = model.model.layers[0]
    beside = layer.input_layernorm.weight
    for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
        if "meta" in (norm.weight.device.type, beside.device.type) or _is_loaded(norm.weight):
            continue
        # Copies of a model lose the marks, and in a model that was never loaded all norms are ones.
        others_are_real = _is_loaded(beside) or _is_trained(beside)
        if others_are_real and not _is_trained(norm.weight) and not norm.bias.any():
            raise ValueError(
                "model: its q_norm and k_norm are not those of the checkpoint, whose sizes "
                "transformers could not match; `sjd2 convert CHECKPOINT FOLDER` makes a folder "
                "that loads without ignore_mismatched_sizes"
            )


def _is_loaded(weight: Tensor) -> bool:
    """Whether transformers has marked a parameter as read from a checkpoint."""
    return bool(getattr(weight, "_is_hf_initialized", False))


def _is_trained(weight: Tensor) -> bool:
    """Whether a norm's weight is another than it begins with."""
    return bool((weight != 1).any())
