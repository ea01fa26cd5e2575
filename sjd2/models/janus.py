"""Janus and Janus-Pro: an image codebook with an embedding and a head of its own."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Cache, GenerationConfig, JanusForConditionalGeneration
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode

from sjd2.models.base import LogitsProcessor, Prompt, Request, Sampling, mask_for

# Settings of transformers' GenerationConfig that image generation reads here.
_HONOURED = {
    "bos_token_id",
    "do_sample",
    "eos_token_id",
    "generation_kwargs",
    "guidance_scale",
    "max_length",
    "max_new_tokens",
    "num_return_sequences",
    "pad_token_id",
    "return_dict_in_generate",
    "temperature",
    "top_k",
    "top_p",
    "transformers_version",
}
# Values that ask for nothing, or for what happens anyway: the window cache is preallocated.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "cache_implementation": ("static",),
    "diversity_penalty": (0.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "length_penalty": (1.0,),
    "min_length": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "repetition_penalty": (1.0,),
    "typical_p": (1.0,),
    "use_cache": (True,),
}
_DEFAULT_GUIDANCE = 5.0  # upstream's, for a call that names none


class Janus:
    """`JanusForConditionalGeneration` as an `ImageModel`.

    Args:
        model: the transformers model; it is used as it is and never changed.
    """

    grammar: Tensor | None = None

    def __init__(self, model: JanusForConditionalGeneration) -> None:
        self.model = model
        self.vocab_size: int = model.config.vq_config.num_embeddings
        self.row_width: int = model.config.vq_config.num_patches
        self.length: int = model.config.vision_config.num_image_tokens
        self.backbone = model.model.language_model
        # transformers 5.24 renamed the argument, and warns of the name it had before.
        known = inspect.signature(type(self.backbone).forward).parameters
        self._cache = "cache" if "cache" in known else "past_key_values"

    def embedding_table(self) -> Tensor:
        """See `ImageModel`."""
        codes = torch.arange(self.vocab_size, device=self.model.device)
        table: Tensor = self.model.prepare_embeddings_for_image_generation(codes)
        return table

    def hidden(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """See `ImageModel`."""
        hidden: Tensor = self.backbone(
            inputs_embeds=embeddings,
            attention_mask=mask_for(self.backbone.config, mask, embeddings.dtype),
            position_ids=positions,
            **{self._cache: cache},
            use_cache=True,
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """See `ImageModel`."""
        logits: Tensor = self.model.model.generation_head(hidden)
        return logits

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image], processor: Any) -> Tensor:
        """See `ImageModel`."""
        made = processor.image_processor(images=list(pictures), return_tensors="pt")
        pixels = made["pixel_values"].to(self.model.device, self.model.dtype)
        tokens: Tensor = self.model.model.vqmodel.encode(pixels).image_tokens
        tokens = tokens.view(len(pictures), -1)
        if tokens.shape[1] != self.length:
            raise ValueError(
                f"processor: its pictures have {tokens.shape[1]} tokens, the model's {self.length}"
            )
        return tokens

    def request(
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        logits_processor: list[LogitsProcessor] | None = None,
        **kwargs: Any,
    ) -> Request | None:
        """See `ImageModel`. The signature is that of upstream's `generate`."""
        if kwargs.pop("generation_mode", "text") != "image":
            return None
        given = kwargs.pop("generation_config", None)
        asked = {**(given.to_diff_dict() if given is not None else {}), **kwargs}
        config, rest = self.model._prepare_generation_config(given, **kwargs)
        if config.get_generation_mode() not in (
            GenerationMode.SAMPLE,
            GenerationMode.GREEDY_SEARCH,
        ):
            warnings.warn(
                f"{config.get_generation_mode().value} is not accelerated: the model's own "
                "generate answers this call",
                stacklevel=4,
            )
            return None
        input_ids = rest.pop("input_ids", None) if inputs is None else inputs
        _refuse_unsupported({**asked, **rest}, self.length)
        sampling = _sampling(config, tuple(logits_processor or ()))
        input_ids, attention_mask = self._checked_prompt(input_ids, attention_mask)
        repeats = config.num_return_sequences or 1
        input_ids = input_ids.repeat_interleave(repeats, dim=0)
        attention_mask = attention_mask.repeat_interleave(repeats, dim=0)
        prompt = self._prompt(input_ids, attention_mask, config, sampling.guidance_scale)

        def finish(tokens: Tensor) -> Tensor | GenerateDecoderOnlyOutput:
            tokens = tokens.to(input_ids.dtype)
            if config.return_dict_in_generate:
                return GenerateDecoderOnlyOutput(sequences=tokens)
            return tokens

        return Request(prompt, sampling, finish)

    def _checked_prompt(
        self, input_ids: Tensor | None, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The prompt and its mask, or an error that says what is wrong with them."""
        if not isinstance(input_ids, Tensor):
            raise ValueError("input_ids: a tensor of prompt tokens is needed to draw an image")
        if input_ids.ndim != 2 or 0 in input_ids.shape:
            raise ValueError(f"input_ids: shape {tuple(input_ids.shape)}, must be (batch, tokens)")
        if input_ids.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"input_ids: dtype {input_ids.dtype}, must be torch.int64 or int32")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        for name, tensor in (("input_ids", input_ids), ("attention_mask", attention_mask)):
            if tensor.device != self.model.device:
                raise ValueError(
                    f"{name} is on {tensor.device}, the model on {self.model.device}: move it there"
                )
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask: shape {tuple(attention_mask.shape)}, must be that of input_ids, "
                f"{tuple(input_ids.shape)}"
            )
        mask = attention_mask.bool()
        if not mask[:, -1].all() or (mask[:, :-1] & ~mask[:, 1:]).any():
            raise ValueError("attention_mask: prompts must be padded on the left")
        text_vocabulary = self.model.config.text_config.vocab_size
        if input_ids.min() < 0 or input_ids.max() >= text_vocabulary:
            raise ValueError(f"input_ids: tokens must be in 0..{text_vocabulary - 1}")
        longest = self.model.config.text_config.max_position_embeddings - self.length
        if input_ids.shape[1] > longest:
            raise ValueError(
                f"input_ids: the prompt has {input_ids.shape[1]} tokens; with an image of "
                f"{self.length} tokens this model has room for {longest}"
            )
        return input_ids, mask

    def _prompt(
        self, input_ids: Tensor, mask: Tensor, config: GenerationConfig, guidance_scale: float
    ) -> Prompt:
        """Embed the prompts, unpadded; with guidance append their unconditional twins."""
        lengths = mask.sum(dim=1)
        width = input_ids.shape[1]
        shift = torch.arange(width, device=input_ids.device) + (width - lengths)[:, None]
        aligned = input_ids.gather(1, shift.clamp(max=width - 1))
        if guidance_scale != 1.0:
            aligned = torch.cat((aligned, _unconditional(aligned, config)))
            lengths = lengths.repeat(2)
        embeddings = self.model.get_input_embeddings()(aligned)
        return Prompt(embeddings, lengths, input_ids, config.pad_token_id or 0)


def _unconditional(input_ids: Tensor, config: GenerationConfig) -> Tensor:
    """As upstream: everything but begin-of-sentence and begin-of-image becomes padding."""
    needed = {
        "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id,
        "boi_token_id": (getattr(config, "generation_kwargs", None) or {}).get("boi_token_id"),
    }
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise ValueError(
            f"guidance_scale={config.guidance_scale}: the model's generation_config lacks "
            f"{', '.join(missing)} (boi_token_id belongs into generation_kwargs); set it, or use "
            "guidance_scale=1"
        )
    is_kept = (input_ids == needed["bos_token_id"]) | (input_ids == needed["boi_token_id"])
    return torch.where(is_kept, input_ids, needed["pad_token_id"])


def _refuse_unsupported(asked: dict[str, Any], length: int) -> None:
    """Nothing is silently dropped: what cannot be honoured is named."""
    for name, value in asked.items():
        if name == "input_ids" or value is None or value is False:
            continue
        if name == "max_new_tokens" and value != length:
            raise ValueError(f"max_new_tokens={value}: a picture always has {length} tokens")
        if name not in _HONOURED and value not in _NEUTRAL.get(name, ()):
            raise ValueError(
                f"{name}={value!r} cannot be honoured when an accelerated model draws an image; "
                "leave it out, pass a logits_processor that does the same, or call "
                "sjd2.restore(model) first"
            )


def _sampling(config: GenerationConfig, processors: tuple[LogitsProcessor, ...]) -> Sampling:
    """Read and check what is done to the logits."""
    scale = config.guidance_scale
    if scale is None:
        warnings.warn(
            f"guidance_scale is not given: {_DEFAULT_GUIDANCE:g} is used, as upstream does",
            stacklevel=5,
        )
        scale = _DEFAULT_GUIDANCE
    if not (math.isfinite(scale) and scale >= 1):
        raise ValueError(f"guidance_scale={scale}: must be a number of at least 1 (1 = off)")
    if not config.do_sample:
        return Sampling(False, guidance_scale=float(scale), processors=processors)
    temperature = 1.0 if config.temperature is None else config.temperature
    top_k, top_p = config.top_k or 0, 1.0 if config.top_p is None else config.top_p
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"temperature={temperature}: must be a number above 0 (do_sample=False is greedy)"
        )
    if not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k={top_k}: must be an integer of at least 0 (0 = off)")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: must be above 0 and at most 1 (1 = off)")
    return Sampling(True, float(temperature), top_k, float(top_p), float(scale), processors)
