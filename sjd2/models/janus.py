"""Janus and Janus-Pro: an image codebook with an embedding and a head of its own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Cache, GenerationConfig, JanusForConditionalGeneration
from transformers.generation import GenerationMode

from sjd2.calls.checks import check_room, checked_ids, checked_sampling, unpadded
from sjd2.calls.lockstep import Lockstep
from sjd2.models.backbone import check_attention, run_backbone
from sjd2.protocol import Geometry, LogitsProcessor, Prompt, Request, Sampling
from sjd2.ranges import COUNT

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
    "output_logits",
    "output_scores",
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

    own_generation_mode = True

    def __init__(self, model: JanusForConditionalGeneration) -> None:
        self.model = model
        self.vocab_size: int = model.config.vq_config.num_embeddings
        self.geometry = Geometry(
            length=model.config.vision_config.num_image_tokens,
            row_width=model.config.vq_config.num_patches,
        )
        self.backbone = model.model.language_model
        check_attention(self.backbone, self.backbone.config)

    def embedding_table(self) -> Tensor:
        """See `ImageModel`."""
        codes = torch.arange(self.vocab_size, device=self.model.device)
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
        pixels = made["pixel_values"].to(self.model.device, self.model.dtype)
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
        logits_processor: list[LogitsProcessor] | None = None,
        stopping_criteria: Sequence[Any] | None = None,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Request | None:
        """See `ImageModel`. The signature is that of upstream's `generate`, and two things more.

        A streamer and stopping criteria get the prompts, and behind them image tokens.
        """
        if kwargs.pop("generation_mode", "text") != "image":
            return None
        given = kwargs.pop("generation_config", None)
        asked = {**(given.to_diff_dict() if given is not None else {}), **kwargs}
        if asked.get("num_return_sequences") is not None:
            COUNT.check("num_return_sequences", asked["num_return_sequences"])
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
        _refuse_unsupported({**asked, **rest}, self.geometry.length)
        sampling = _sampling(config, tuple(logits_processor or ()))
        text = self.model.config.text_config
        input_ids, attention_mask = checked_ids(
            input_ids, attention_mask, self.model.device, text.vocab_size
        )
        check_room(input_ids.shape[1], self.geometry.length, text.max_position_embeddings)
        repeats = config.num_return_sequences or 1
        input_ids = input_ids.repeat_interleave(repeats, dim=0)
        attention_mask = attention_mask.repeat_interleave(repeats, dim=0)
        prompt = self._prompt(input_ids, attention_mask, config, sampling.guidance_scale)
        lockstep = Lockstep(input_ids, self.geometry, config, streamer, stopping_criteria or ())
        return lockstep.request(prompt, sampling)

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
    return checked_sampling(
        do_sample=bool(config.do_sample),
        guidance_scale=scale,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        processors=processors,
    )
