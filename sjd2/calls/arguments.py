"""What of transformers' own `generate` can be honoured when a picture is drawn.

Nothing is silently dropped: what cannot be is named, before any forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.generation import GenerationMode

from sjd2.calls.checks import unpadded
from sjd2.protocol import Past
from sjd2.ranges import COUNT, RANGES

# Arguments that upstream does not hand on to a custom decoding loop, or that change what the model
# is fed; and what there is instead.
_REFUSED = {
    "pixel_values": "a prompt with a picture in it cannot be drawn from",
    "position_ids": "positions follow from attention_mask",
    "stop_strings": "a picture has no words to stop at",
    "synced_gpus": "every process draws pictures of its own",
}
# What `generate` itself prepares for a decoding loop, whatever the version calls the cache.
_CACHES = ("past_key_values", "cache")
_PREPARED = {*_CACHES, "logits_to_keep", "position_ids", "use_cache"}
# Windows compute these for drafts too, many tokens at a time.
_OUTPUTS = ("output_attentions", "output_hidden_states")


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
    _check_sampling(arguments)
    if (pictures := arguments.get("num_return_sequences")) is not None:
        COUNT.check("num_return_sequences", pictures)
    for name, instead in _REFUSED.items():
        if not _asks_nothing(arguments.get(name)):
            raise ValueError(f"{name} cannot be honoured when an image is drawn: {instead}")


def refuse_settings(config: GenerationConfig, model_kwargs: Mapping[str, Any]) -> None:
    """Check what `generate` has prepared for a custom decoding loop.

    Args:
        config: every setting.
        model_kwargs: what would be fed beside the tokens.

    Raises:
        OtherGenerationError: beam search and the like.
        ValueError: something that cannot be honoured.
    """
    _check_sampling(vars(config))
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
        raise OtherGenerationError(f"{mode.value.replace('_', ' ')} is not accelerated")
    for name in _OUTPUTS:
        if getattr(config, name, None):
            raise ValueError(
                f"{name}=True cannot be honoured when an image is drawn: a forward sees a window"
            )
    if config.cache_implementation not in (None, "dynamic", "static"):
        raise ValueError(
            f"cache_implementation={config.cache_implementation!r} cannot be honoured: pictures "
            "are drawn with a preallocated cache; leave it out"
        )
    for name, value in model_kwargs.items():
        if name not in _PREPARED and not _asks_nothing(value):
            instead = f": {_REFUSED[name]}" if name in _REFUSED else ""
            raise ValueError(f"{name} cannot be honoured when an image is drawn{instead}")


def _check_sampling(settings: Mapping[str, Any]) -> None:
    """Refuse values that upstream would stumble over, or drop without a word."""
    for name in ("temperature", "top_k", "top_p") if settings.get("do_sample") else ():
        if settings.get(name) is not None:
            hint = " (do_sample=False is greedy)" if name == "temperature" else ""
            RANGES[name].check(name, settings[name], hint)


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


def past_of(model_kwargs: Mapping[str, Any], mask: Tensor, layers: int) -> Past | None:
    """What a cache given to `generate` holds of the prompts, or None for nothing.

    The last token of a prompt is fed in any case, as it predicts the picture's first. The cache is
    read and left as it is.

    Args:
        model_kwargs: as `generate` hands them to its loop.
        mask: bool [B, L], the prompts', padded on the left.
        layers: of the model.

    Raises:
        ValueError: a cache of other prompts, or one whose entries cannot be read.
    """
    found = [model_kwargs[name] for name in _CACHES if model_kwargs.get(name) is not None]
    if not found or found[0].get_seq_length() == 0:
        return None
    cache, (rows, length) = found[0], mask.shape
    held = cache.get_seq_length()
    kinds = {type(layer) for layer in cache.layers}
    if not kinds <= {DynamicLayer, StaticLayer}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"past_key_values: made of {names}; must be a DynamicCache or StaticCache")
    if len(cache.layers) != layers:
        raise ValueError(f"past_key_values: {len(cache.layers)} layers, but the model has {layers}")
    if len(cache.layers[0].keys) != rows:
        raise ValueError(
            f"past_key_values: {len(cache.layers[0].keys)} rows for {rows} pictures; "
            "`batch_repeat_interleave` makes more of them"
        )
    if held > length:
        raise ValueError(f"past_key_values: {held} entries, but the prompts have {length} tokens")
    columns = min(held, length - 1)

    def aligned(states: Tensor) -> Tensor:
        entries = states[:, :, :columns].transpose(1, 2)
        return unpadded(entries, mask[:, :columns].to(states.device))[0].transpose(1, 2)

    return Past(
        tuple(aligned(layer.keys) for layer in cache.layers),
        tuple(aligned(layer.values) for layer in cache.layers),
        mask[:, :columns].sum(dim=1),
    )


def _asks_nothing(value: object) -> bool:
    return value is None or value is False or (isinstance(value, dict) and not value)
