"""What of transformers' own `generate` can be honoured when a picture is drawn.

Nothing is silently dropped: what cannot be is named, before any forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.generation import (
    GenerateDecoderOnlyOutput,
    GenerationMode,
    MaxLengthCriteria,
)

from sjd2.models.base import Past, Prompt, Request, Sampling
from sjd2.models.checks import unpadded

# Arguments that upstream does not hand on to a custom decoding loop, or that change what the model
# is fed; and what there is instead.
_REFUSED = {
    "pixel_values": "a prompt with a picture in it cannot be drawn from",
    "position_ids": "positions follow from attention_mask",
    "stop_strings": "a picture has no words to stop at",
    "synced_gpus": "every process draws pictures of its own",
}
_NEVER = -1e30  # no law of a model's has so small a logarithm, and no logit is so small
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


class Lockstep:
    """What `generate` does at every step beside drawing, for pictures that keep no step.

    It goes through the tokens that all pictures have, one of each at a time: a streamer is told,
    stopping criteria are asked, scores are put into tuples, as upstream's own loop would. Drawing
    ends where all pictures are stopped.

    Args:
        prompts: int [B, L].
        length: tokens of a picture.
        config: says what `generate` returns.
        laws: as in `Request`, see `laws_for`.
        streamer: of transformers, or None.
        criteria: of transformers.
        words: int64 [V] and an int, the ids of the tokens drawn in a vocabulary of so many; None
            where images have ids of their own, and are returned without their prompts.
        pad_id: what a stopped picture goes on with while others are drawn; None: with its own.
    """

    def __init__(
        self,
        prompts: Tensor,
        length: int,
        config: GenerationConfig,
        laws: Mapping[str, Tensor],
        streamer: Any,
        criteria: Sequence[Any],
        words: tuple[Tensor, int] | None = None,
        pad_id: int | None = None,
    ) -> None:
        self.prompts, self.length, self.laws = prompts, length, laws
        self.streamer, self.words, self.pad_id = streamer, words, pad_id
        self.returns_dict = bool(config.return_dict_in_generate)
        end = prompts.shape[1] + length
        # `generate` always sends the limit on a text's length along; asking it would cost.
        self.criteria = StoppingCriteriaList(
            one
            for one in criteria
            if not (isinstance(one, MaxLengthCriteria) and one.max_length >= end)
        )
        self.stopped = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
        self.texts = torch.cat((prompts, prompts.new_zeros(len(prompts), length)), dim=1)
        self.outputs: dict[str, tuple[Tensor, ...]] = dict.fromkeys(laws, ())
        self.steps = 0

    def request(self, prompt: Prompt, sampling: Sampling) -> Request:
        """A request that this looks on at, if there is anything to look for."""
        is_idle = self.streamer is None and not self.criteria and not self.laws
        return Request(prompt, sampling, self.finish, None if is_idle else self, self.laws)

    def finish(self, tokens: Tensor) -> Tensor | GenerateDecoderOnlyOutput:
        """What `generate` returns for the tokens int64 [B, length]."""
        width = self.prompts.shape[1]
        # Nothing is noted where nobody looks on.
        drawn = self.text[:, width:] if self.steps else self._named(tokens).to(self.prompts.dtype)
        sequences = torch.cat((self.prompts, drawn), dim=1) if self.words else drawn
        if not self.returns_dict:
            return sequences
        return GenerateDecoderOnlyOutput(sequences=sequences, **self.outputs)

    @property
    def text(self) -> Tensor:
        """The prompts and what is drawn behind them: int [B, L + steps]."""
        return self.texts[:, : self.prompts.shape[1] + self.steps]

    def __call__(self, tokens: Tensor) -> bool:
        """Go through what is new of the tokens [B, n] that all pictures have; whether to go on."""
        if self.streamer is not None and self.steps == 0 and tokens.shape[1]:
            self.streamer.put(self.prompts.cpu())
        for column in tokens[:, self.steps :].unbind(dim=1):
            self._step(self._named(column))
            if self.steps == self.length or (self.criteria and bool(self.stopped.all())):
                if self.streamer is not None:
                    self.streamer.end()
                return False
        return True

    def _step(self, column: Tensor) -> None:
        if self.pad_id is not None:
            column = torch.where(self.stopped, self.pad_id, column)
        self.texts[:, self.prompts.shape[1] + self.steps] = column
        for name, law in self.laws.items():
            self.outputs[name] += (self._widened(law[:, self.steps]),)
        self.steps += 1
        if self.streamer is not None:
            self.streamer.put(column.cpu())
        if self.criteria:
            self.stopped |= self.criteria(self.text, self.outputs.get("scores"))

    def _named(self, tokens: Tensor) -> Tensor:
        return self.words[0][tokens] if self.words else tokens

    def _widened(self, law: Tensor) -> Tensor:
        """A law [B, V] of the tokens drawn over the model's whole vocabulary."""
        if not self.words:
            return law
        ids, size = self.words
        full = law.new_full((len(law), size), -torch.inf)
        # Tokens of the grammar are as good as minus infinity where they cannot be drawn.
        return full.index_copy(1, ids, law.masked_fill(law < _NEVER, -torch.inf))


def laws_for(
    config: GenerationConfig, images: int, length: int, vocab_size: int, device: torch.device
) -> dict[str, Tensor]:
    """Room for what `output_scores` and `output_logits` ask for, float32 [B, length, V] by name."""
    if not config.return_dict_in_generate:
        return {}
    asked = [name for name in ("scores", "logits") if getattr(config, f"output_{name}", None)]
    return {name: torch.zeros(images, length, vocab_size, device=device) for name in asked}


def _asks_nothing(value: object) -> bool:
    return value is None or value is False or (isinstance(value, dict) and not value)
