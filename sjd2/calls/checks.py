"""Checks of prompts and sampling settings that all families share, made before any forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sjd2.protocol import LogitsProcessor, PlacedProcessor, Prompt, Sampling
from sjd2.ranges import RANGES


def checked_ids(
    input_ids: object,
    attention_mask: Tensor | None,
    device: torch.device,
    vocab_size: int,
    names: tuple[str, str] = ("input_ids", "attention_mask"),
) -> tuple[Tensor, Tensor]:
    """Prompt tokens and their mask, or an error that says what is wrong with them.

    Args:
        input_ids: what was given as int [B, L].
        attention_mask: what was given with it, [B, L], or None for all ones.
        device: where the model is.
        vocab_size: ids that the model has.
        names: of the two, as the caller knows them.

    Returns:
        The ids as they are, and the mask as bool [B, L].

    Raises:
        ValueError: no tensor, or one of another shape, dtype or device; ids that the model does not
            have; padding that is not on the left.
    """
    ids_name, mask_name = names
    if not isinstance(input_ids, Tensor):
        raise ValueError(f"{ids_name}: a tensor of prompt tokens is needed to draw an image")
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise ValueError(f"{ids_name}: shape {tuple(input_ids.shape)}, must be (batch, tokens)")
    if input_ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{ids_name}: dtype {input_ids.dtype}, must be torch.int64 or int32")
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    for name, tensor in ((ids_name, input_ids), (mask_name, attention_mask)):
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, the model on {device}: move it there")
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"{mask_name}: shape {tuple(attention_mask.shape)}, must be that of {ids_name}, "
            f"{tuple(input_ids.shape)}"
        )
    mask = attention_mask.bool()
    if not mask[:, -1].all() or (mask[:, :-1] & ~mask[:, 1:]).any():
        raise ValueError(f"{mask_name}: prompts must be padded on the left")
    if input_ids.min() < 0 or input_ids.max() >= vocab_size:
        raise ValueError(f"{ids_name}: tokens must be in 0..{vocab_size - 1}")
    return input_ids, mask


def check_room(prompt: int, length: int, positions: int) -> None:
    """See whether a prompt and a picture fit the positions that a model knows.

    Raises:
        ValueError: they do not.
    """
    if prompt > positions - length:
        raise ValueError(
            f"input_ids: the prompt has {prompt} tokens; with an image of {length} tokens this "
            f"model has room for {positions - length}"
        )


def check_rope(config: Any, prompt: Prompt, length: int) -> None:
    """See that rotary embeddings stay the same while pictures are drawn.

    Longrope changes its frequencies where the longest row of a forward crosses a border. Rows that
    advance each at their own pace, beside unconditional ones, would cross it at another time than
    upstream's. (Dynamic scaling begins behind the positions that `check_room` allows.)

    Args:
        config: of the model's decoder.
        prompt: what pictures are drawn under.
        length: tokens of a picture.

    Raises:
        ValueError: they cross the border, or lie on both sides of it.
    """
    known = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in known.values() if isinstance(kind, dict)] or [known]
    if not any(kind.get("rope_type") == "longrope" for kind in kinds):
        return
    name = "original_max_position_embeddings"
    border: Any = kinds[0].get(name) or getattr(config, name, 0)
    rows = prompt.lengths.clone()
    if prompt.past is not None:
        rows[: len(prompt.past.lengths)] += prompt.past.lengths
    shortest, longest = int(rows.min()), int(rows.max())
    # The prompts may be fed without their last token.
    if longest + length - 1 > border and shortest - 1 <= border:
        raise ValueError(
            f"input_ids: contexts of {shortest} to {longest} tokens, and pictures of {length}, lie "
            f"on both sides of token {border}, where this model's longrope changes its frequencies"
        )


def unpadded(prompts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move every row's own tokens to the front.

    Args:
        prompts: [B, L] or [B, L, ...], padded on the left.
        mask: bool [B, L].

    Returns:
        The rows, with anything behind their tokens, and how many they have, int64 [B].
    """
    lengths = mask.sum(dim=1)
    width = prompts.shape[1]
    shift = torch.arange(width, device=prompts.device) + (width - lengths)[:, None]
    rows = torch.arange(len(prompts), device=prompts.device)[:, None]
    return prompts[rows, shift.clamp(max=width - 1)], lengths


def checked_sampling(
    *,
    do_sample: bool,
    guidance_scale: float,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    processors: tuple[LogitsProcessor | PlacedProcessor, ...] = (),
) -> Sampling:
    """What is done to the logits; None is what transformers takes it for: nothing.

    Raises:
        ValueError: a value out of range.
    """
    RANGES["guidance_scale"].check("guidance_scale", guidance_scale)
    if not do_sample:
        return Sampling(False, guidance_scale=float(guidance_scale), processors=processors)
    temperature = 1.0 if temperature is None else temperature
    top_k, top_p = top_k or 0, 1.0 if top_p is None else top_p
    RANGES["temperature"].check("temperature", temperature, " (do_sample=False is greedy)")
    RANGES["top_k"].check("top_k", top_k)
    RANGES["top_p"].check("top_p", top_p)
    return Sampling(
        True, float(temperature), top_k, float(top_p), float(guidance_scale), processors
    )
