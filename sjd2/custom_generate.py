"""Pictures by transformers' `custom_generate`, without a hook on the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.utils import ModelOutput

from sjd2.config import DecodingConfig, seeds_for
from sjd2.models import ImageModel, family_of
from sjd2.placement import bring
from sjd2.protocol import Request
from sjd2.sampler import DecodingStats, Method, decode, resolve
from sjd2.sampler.logprobs import LogProbsChoice, checked_choice

Seed = int | Sequence[int] | None

# The account of the last call on every model that was drawn with but not accelerated.
_LAST: WeakKeyDictionary[Any, DecodingStats] = WeakKeyDictionary()


def answer(
    family: ImageModel,
    request: Request,
    method: Method,
    seed: Seed,
    output_logprobs: LogProbsChoice = False,
) -> tuple[Any, DecodingStats]:
    """Draw what a request asks for.

    Args:
        family: made the request.
        request: prompts and what is done to the logits.
        method: how to decode.
        seed: as in `DecodingConfig`; that of the method's settings is not looked at.
        output_logprobs: keep log-probabilities, see `generate`.

    Returns:
        What `generate` returns, and what it took.

    Raises:
        ValueError: a seed out of range, or a list of another length than there are pictures.

    RNG: counter-addressed by seed; without one, one draw from torch's default generator.
    """
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    seeds = seeds_for(seed, request.images)
    tokens, stats = decode(family, request, method, seeds, logprobs=output_logprobs)
    result = request.finish(tokens)
    if isinstance(result, ModelOutput):
        for name in ("logprobs", "model_logprobs"):
            if (found := getattr(stats, name)) is not None:
                result[name] = found
    return result, stats


def generate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Sequence[Any],
    stopping_criteria: Sequence[Any],
    generation_config: Any,
    *,
    decoding: DecodingConfig | None = None,
    seed: Seed = None,
    image_sizes: Any = None,
    generation_mode: str = "image",
    output_logprobs: LogProbsChoice = False,
    **model_kwargs: Any,
) -> Any:
    """A decoding loop for `model.generate(..., custom_generate=sjd2.generate)`.

    Only families that draw by transformers' own `generate` reach it: Emu3, Chameleon and those of
    one's own. `decoding_stats(model)` gives the account of the last call.

    Args:
        model: a supported transformers model; nothing is set on it.
        input_ids: int64 [B, L], and the next three: as transformers' `generate` prepares them.
        logits_processor: guidance, processors and warpers.
        stopping_criteria: asked at every step; a picture does not end by an end-of-text token.
        generation_config: every setting.
        decoding: how to decode; None is `DecodingConfig()`. Method "sjd2" needs an adapter, hence
            `accelerate`.
        seed: as in `DecodingConfig`.
        image_sizes: (height, width) of every picture in tokens, where the prompt does not say.
        generation_mode: "image".
        output_logprobs: True keeps the log-probability of every token that is drawn, under the
            distribution that it is drawn from; "both" also that under the model's own. They are in
            `decoding_stats(model)`, and in what is returned with `return_dict_in_generate=True`.
        **model_kwargs: the attention mask, and what `generate` adds.

    Returns:
        What `generate` returns: int64 [B, L + N], or a `GenerateDecoderOnlyOutput`.

    Raises:
        TypeError: no family is known for the model, or `decoding` is no `DecodingConfig`.
        ValueError: something that cannot be honoured, or a model that draws otherwise.

    RNG: counter-addressed by seed; without one, one draw from torch's default generator.
    """
    config = DecodingConfig() if decoding is None else decoding
    if not isinstance(config, DecodingConfig):
        raise TypeError(f"decoding is a {type(config).__name__}, must be a DecodingConfig")
    method = resolve(config)
    checked_choice(output_logprobs)
    if generation_mode != "image":
        raise ValueError(f"generation_mode={generation_mode!r}: sjd2.generate draws images only")
    family = family_of(model)
    prepared = getattr(family, "prepared", None)
    if prepared is None:
        raise ValueError(f"a {type(model).__name__} draws by its own generate: use accelerate")
    bring(model)
    request = prepared(
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        image_sizes=image_sizes,
        **model_kwargs,
    )
    seed = config.seed if seed is None else seed
    result, _LAST[model] = answer(family, request, method, seed, output_logprobs)
    return result


def last_stats(model: Any) -> DecodingStats | None:
    """The account of the last call of `generate` on a model, if there was one."""
    return _LAST.get(model)
