"""Janus and Janus-Pro: an image codebook with an embedding and a head of its own."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    Cache,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    GenerationMixin,
    InfNanRemoveLogitsProcessor,
    JanusForConditionalGeneration,
    LogitNormalization,
    LogitsProcessorList,
    MinPLogitsWarper,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation import EosTokenCriteria

from sjd2.calls.arguments import (
    OtherGenerationError,
    check_limit,
    refuse_arguments,
    refuse_settings,
    sets_length,
)
from sjd2.calls.checks import check_room, check_rope, checked_ids, checked_sampling, unpadded
from sjd2.calls.lockstep import Lockstep
from sjd2.calls.processors import split_processors
from sjd2.models.backbone import check_attention, run_backbone
from sjd2.placement import device_of
from sjd2.protocol import Geometry, LogitsProcessor, Prompt, Request

# What settings may do to the logits. Anything else that one asks for is meant for words, whose ids
# image codes share and do not mean.
_WARPERS = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
_DEFAULT_GUIDANCE = 5.0  # upstream's, for a call that names none


class Janus:
    """`JanusForConditionalGeneration` as an `ImageModel`.

    Args:
        model: the transformers model; it is used as it is and never changed.
    """

    own_generation_mode = True

    def __init__(self, model: JanusForConditionalGeneration) -> None:
        self.model, self.device = model, device_of(model)
        self.vocab_size: int = model.config.vq_config.num_embeddings
        self.geometry = Geometry(
            length=model.config.vision_config.num_image_tokens,
            row_width=model.config.vq_config.num_patches,
        )
        self.backbone = model.model.language_model
        check_attention(self.backbone, self.backbone.config)

    def embedding_table(self) -> Tensor:
        """See `ImageModel`."""
        codes = torch.arange(self.vocab_size, device=self.device)
        table: Tensor = self.model.prepare_embeddings_for_image_generation(codes)
        return table

    def hidden(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """See `ImageModel`."""
        return run_backbone(self.backbone, embeddings, positions, mask, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `ImageModel`."""
        logits: Tensor = self.model.model.generation_head(hidden)
        return logits

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image], processor: Any, geometry: Geometry) -> Tensor:
        """See `ImageModel`."""
        made = processor.image_processor(images=list(pictures), return_tensors="pt")
        pixels = made["pixel_values"].to(self.device, self.model.dtype)
        tokens: Tensor = self.model.model.vqmodel.encode(pixels).image_tokens
        tokens = tokens.view(len(pictures), -1)
        if tokens.shape[1] != geometry.length:
            raise ValueError(
                f"processor: its pictures have {tokens.shape[1]} tokens, the model's "
                f"{geometry.length}"
            )
        return tokens

    def request(
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        logits_processor: Sequence[LogitsProcessor] | None = None,
        stopping_criteria: Sequence[Any] | None = None,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Request | None:
        """See `ImageModel`. The signature is that of upstream's `generate`, and two things more.

        A streamer and stopping criteria get the prompts, and behind them image tokens.
        """
        if kwargs.pop("generation_mode", "text") != "image":
            return None
        refuse_arguments(kwargs)
        for name in ("past_key_values", "cache"):
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} cannot be honoured when a Janus draws: leave it out")
        given = kwargs.pop("input_ids", None)
        input_ids, _ = self._checked(given if inputs is None else inputs, attention_mask)
        length, own = self.geometry.length, list(logits_processor or ())
        check_limit("max_length", kwargs.get("max_length"), length, input_ids.shape[1])
        if not sets_length(kwargs):
            kwargs["max_new_tokens"] = length

        def capture(model: Any, *prepared: Any, **more: Any) -> Request:
            return self._prepared(own, streamer, *prepared, **more)

        try:
            # Not the model's own, which never calls a decoding loop for pictures.
            request: Request = GenerationMixin.generate(
                self.model,
                input_ids,
                attention_mask=attention_mask,
                logits_processor=LogitsProcessorList(own),
                stopping_criteria=StoppingCriteriaList(stopping_criteria or ()),
                custom_generate=capture,
                **kwargs,
            )
        except OtherGenerationError as other:
            warnings.warn(f"{other}: the model's own generate answers this call", stacklevel=4)
            return None
        return request

    def _prepared(
        self,
        own: Sequence[LogitsProcessor],
        streamer: Any,
        input_ids: Tensor,
        logits_processor: Sequence[Any],
        stopping_criteria: Sequence[Any],
        generation_config: GenerationConfig,
        *,
        attention_mask: Tensor | None = None,
        **rest: Any,
    ) -> Request:
        """The request that transformers has prepared; `own` are the caller's processors."""
        config = generation_config
        refuse_settings(config, rest)
        input_ids, mask = self._checked(input_ids, attention_mask)
        length = self.geometry.length
        check_limit("max_new_tokens", config.max_new_tokens, length)
        text = self.backbone.config
        check_room(input_ids.shape[1], length, text.max_position_embeddings)
        # Janus is guided by a context of its own, see `_unconditional`.
        kinds = UnbatchedClassifierFreeGuidanceLogitsProcessor
        steps = split_processors([one for one in logits_processor if type(one) is not kinds])
        for one in steps.others:
            if not isinstance(one, _WARPERS) and not any(one is other for other in own):
                raise ValueError(
                    f"{_setting_of(one)} cannot be honoured when a Janus draws: image codes are "
                    "none of the words that it is meant for; leave it out, set it back in "
                    "model.generation_config, or pass a logits_processor that does the same"
                )
        scale = config.guidance_scale
        if scale is None:
            warnings.warn(
                f"guidance_scale is not given: {_DEFAULT_GUIDANCE:g} is used, as upstream does",
                stacklevel=6,
            )
            scale = _DEFAULT_GUIDANCE
        sampling = checked_sampling(
            do_sample=bool(config.do_sample),
            guidance_scale=scale,
            temperature=steps.temperature,
            top_k=steps.top_k,
            top_p=steps.top_p,
            processors=steps.others,
        )
        prompt = self._prompt(input_ids, mask, config, sampling.guidance_scale)
        check_rope(text, prompt, length)
        # An end-of-text token among image codes is a code.
        criteria = [one for one in stopping_criteria if not isinstance(one, EosTokenCriteria)]
        return Lockstep(input_ids, self.geometry, config, streamer, criteria).request(
            prompt, sampling
        )

    def _checked(self, input_ids: Any, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return checked_ids(input_ids, mask, self.device, self.backbone.config.vocab_size)

    def _prompt(
        self, input_ids: Tensor, mask: Tensor, config: GenerationConfig, guidance_scale: float
    ) -> Prompt:
        """Embed the prompts, unpadded; with guidance append their unconditional twins."""
        aligned, lengths = unpadded(input_ids, mask)
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


def _setting_of(processor: Any) -> str:
    """What a processor's class calls what it does, as settings are written."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(processor).__name__).lower()
