"""What of transformers' own `generate` can be honoured when a picture is drawn.

Nothing is silently dropped: what cannot be is named, before any forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import EosTokenCriteria, GenerationMode, MaxLengthCriteria

# Arguments that upstream does not hand on to a custom decoding loop, or that change what the model
# is fed; and what there is instead.
_REFUSED = {
    "past_key_values": "the prompt is read anew",
    "pixel_values": "a prompt with a picture in it cannot be drawn from",
    "position_ids": "positions follow from attention_mask",
    "stop_strings": "a picture has no words to stop at",
    "synced_gpus": "every process draws pictures of its own",
}
# What `generate` itself prepares for a decoding loop, whatever the version calls the cache.
_CACHES = ("past_key_values", "cache")
_PREPARED = {*_CACHES, "logits_to_keep", "position_ids", "use_cache"}
_OUTPUTS = ("output_attentions", "output_hidden_states", "output_logits", "output_scores")


class OtherGenerationError(ValueError):
    """Beam search and the like: no picture is drawn speculatively that way."""


def refuse_arguments(arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a call of `generate` before upstream sees them.

    Raises:
        OtherGenerationError: one that asks for another way to draw.
        ValueError: one that cannot be honoured.
    """
    if arguments.get("assistant_model") is not None:
        raise OtherGenerationError("assisted generation is not accelerated")
    for name, instead in _REFUSED.items():
        if not _asks_nothing(arguments.get(name)):
            raise ValueError(f"{name} cannot be honoured when an image is drawn: {instead}")


def refuse_settings(
    config: GenerationConfig, criteria: Sequence[Any], model_kwargs: Mapping[str, Any]
) -> None:
    """Check what `generate` has prepared for a custom decoding loop.

    Args:
        config: every setting.
        criteria: what would end the text.
        model_kwargs: what would be fed beside the tokens.

    Raises:
        OtherGenerationError: beam search and the like.
        ValueError: something that cannot be honoured.
    """
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
        raise OtherGenerationError(f"{mode.value.replace('_', ' ')} is not accelerated")
    for criterion in criteria:
        if not isinstance(criterion, (EosTokenCriteria, MaxLengthCriteria)):
            raise ValueError(
                f"stopping_criteria: {type(criterion).__name__} cannot be honoured: a picture is "
                "drawn to its end"
            )
    for name in _OUTPUTS:
        if getattr(config, name, None):
            raise ValueError(f"{name}=True cannot be honoured when an image is drawn")
    if config.cache_implementation not in (None, "dynamic", "static"):
        raise ValueError(
            f"cache_implementation={config.cache_implementation!r} cannot be honoured: pictures "
            "are drawn with a preallocated cache; leave it out"
        )
    for name, value in model_kwargs.items():
        is_filled = name in _CACHES and value is not None and value.get_seq_length() > 0
        if is_filled or (name not in _PREPARED and not _asks_nothing(value)):
            instead = f": {_REFUSED[name]}" if name in _REFUSED else ""
            raise ValueError(f"{name} cannot be honoured when an image is drawn{instead}")


def check_limit(name: str, limit: int | None, length: int, prompt: int = 0) -> None:
    """See that a picture behind a prompt of so many tokens stays within a limit.

    Raises:
        ValueError: it does not.
    """
    if limit is not None and limit < prompt + length:
        raise ValueError(f"{name}={limit}: a picture always has {length} tokens")


def sets_length(arguments: Mapping[str, Any]) -> bool:
    """Whether a call of `generate` says how long its text may get; else upstream warns."""
    given = [arguments.get("max_new_tokens"), arguments.get("max_length")]
    config = arguments.get("generation_config")
    if config is not None:
        given += [config.max_new_tokens, config.max_length]
    return any(limit is not None for limit in given)


class Streaming:
    """Feeds a streamer as `generate` does: the prompts, then a token of every picture at a time.

    Args:
        streamer: of transformers.
        prompts: int [B, L].
        ids: int64 [V], the vocabulary's ids of the tokens drawn.
        length: tokens of a picture.
    """

    def __init__(self, streamer: Any, prompts: Tensor, ids: Tensor, length: int) -> None:
        self.streamer, self.prompts, self.ids, self.length = streamer, prompts, ids, length
        self.told = 0

    def __call__(self, tokens: Tensor) -> None:
        """Hand on what is new of the tokens [B, n] that all pictures have."""
        if self.told == 0 and tokens.shape[1]:
            self.streamer.put(self.prompts.cpu())
        for column in self.ids[tokens[:, self.told :]].cpu().unbind(dim=1):
            self.streamer.put(column)
        if self.told < tokens.shape[1] == self.length:
            self.streamer.end()
        self.told = tokens.shape[1]


def _asks_nothing(value: object) -> bool:
    return value is None or value is False or (isinstance(value, dict) and not value)
