"""What transformers' `generate` does to logits, split between the sampler and the processors.

`generate` hands a custom decoding loop one list of logits processors. Guidance and the warpers that
end the list are taken off it: the sampler has them built in. What is left runs as it would there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    EncoderRepetitionPenaltyLogitsProcessor,
    ExponentialDecayLengthPenalty,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from sjd2.protocol import LogitsProcessor

# They scale scores, so they mean one thing for logits and another for log-probabilities. Upstream
# guides log-probabilities over the whole vocabulary, which are never computed here.
_SCALING = (
    EncoderRepetitionPenaltyLogitsProcessor,
    ExponentialDecayLengthPenalty,
    RepetitionPenaltyLogitsProcessor,
)


class Steps(NamedTuple):
    """A list of processors, split in order."""

    guidance: Any  # transformers' guidance processor, or None
    others: tuple[LogitsProcessor, ...]
    temperature: float | None
    top_k: int | None
    top_p: float | None


def split_processors(processors: Sequence[LogitsProcessor]) -> Steps:
    """Split a list of processors into what the sampler has built in and what it has not.

    Args:
        processors: as `generate` gives them to a custom decoding loop.

    Raises:
        ValueError: guidance that is not the first of them, or a processor that means something
            else under guidance than it does upstream.
    """
    rest: list[Any] = list(processors)
    guidance = None
    if rest and type(rest[0]) is UnbatchedClassifierFreeGuidanceLogitsProcessor:
        guidance = rest.pop(0)
    if any(isinstance(one, UnbatchedClassifierFreeGuidanceLogitsProcessor) for one in rest):
        raise ValueError(
            "logits_processor: guidance has to come first; pass guidance_scale and "
            "negative_prompt_ids to generate instead"
        )
    if guidance is not None and any(isinstance(one, _SCALING) for one in rest):
        raise ValueError(
            "repetition_penalty and the like cannot be honoured together with guidance_scale: they "
            "scale scores, and upstream's are normalised over words that are not computed here"
        )
    # Only the end of the list can be left to the sampler: it does these last, in this order.
    top_p = rest.pop().top_p if rest and _is_plain(rest[-1], TopPLogitsWarper) else None
    top_k = rest.pop().top_k if rest and _is_plain(rest[-1], TopKLogitsWarper) else None
    temperature = None
    if rest and type(rest[-1]) is TemperatureLogitsWarper:
        temperature = rest.pop().temperature
    return Steps(guidance, tuple(rest), temperature, top_k, top_p)


def _is_plain(processor: Any, kind: type) -> bool:
    """Whether a warper does what the sampler's own does, and nothing else."""
    is_derived = type(processor) is not kind
    if is_derived or processor.filter_value != -float("inf"):
        return False
    return kind is TopKLogitsWarper or processor.min_tokens_to_keep == 1


class WholeVocabulary:
    """Processors that know the model's whole vocabulary, for scores of image tokens alone.

    They are called as `generate` calls them: once for every token of the picture, with the whole
    batch behind its left-padded prompts, and with scores over the whole vocabulary. Tokens that are
    none of the picture's score minus infinity.

    Args:
        processors: what is called, in order.
        ids: int64 [V], the vocabulary's ids of the tokens that are scored.
        codes: how many of them can be drawn; the others are the grammar's, behind them.
        vocab_size: of the model.
        prompt_width: tokens of a padded prompt.
        images: rows of the batch.
        length: tokens of a picture.
    """

    def __init__(
        self,
        processors: Sequence[LogitsProcessor],
        *,
        ids: Tensor,
        codes: int,
        vocab_size: int,
        prompt_width: int,
        images: int,
        length: int,
    ) -> None:
        self.processors, self.ids, self.codes = tuple(processors), ids, codes
        self.vocab_size, self.prompt_width = vocab_size, prompt_width
        self.images, self.length = images, length

    def placed(self, input_ids: Tensor, scores: Tensor, images: Tensor, drawn: Tensor) -> Tensor:
        """See `PlacedProcessor`.

        Sync: reads where the rows stand; processors are host code anyway.
        """
        processed = scores.clone()
        for step in sorted(set(drawn.tolist())):
            if step < self.length:  # behind the picture there is nothing to be processed for
                at = (drawn == step).nonzero().squeeze(1)
                prefixes = input_ids[at, -(self.prompt_width + step) :]
                processed[at] = self._step(prefixes, scores[at], images[at])
        processed[:, self.codes :] = -torch.inf
        return processed

    def _step(self, prefixes: Tensor, scores: Tensor, images: Tensor) -> Tensor:
        """Process the rows of one step of `generate`; pictures that are not at it stand in."""
        prefix = prefixes[:1].repeat(self.images, 1)
        prefix[images] = prefixes
        known = self.ids[: self.codes]
        full = scores.new_full((self.images, self.vocab_size), -torch.inf)
        full[:, known] = scores[:1, : self.codes]
        full[images[:, None], known] = scores[:, : self.codes]
        for processor in self.processors:
            full = processor(prefix, full)
        return full[images[:, None], self.ids]
