"""The loop of transformers' `generate`, seen from pictures that get ahead of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput, MaxLengthCriteria

from sjd2.protocol import Geometry, Prompt, Request, Sampling

_NEVER = -1e30  # no model gives so small a log-probability or logit


class Lockstep:
    """What `generate` does at every step beside drawing, for pictures that keep no step.

    It goes through the tokens that all pictures have, one of each at a time: a streamer is fed,
    stopping criteria are asked, scores are put into tuples, as upstream's own loop would. Drawing
    ends where all pictures are stopped.

    Args:
        prompts: int [B, L].
        geometry: of the pictures.
        config: says what `generate` returns.
        streamer: of transformers, or None.
        criteria: of transformers.
        words: int64 [V] and an int, the ids of the tokens drawn in a vocabulary of so many; None
            where images have ids of their own, and are returned without their prompts.
        pad_id: what a stopped picture goes on with while others are drawn; None: with its own.
    """

    def __init__(
        self,
        prompts: Tensor,
        geometry: Geometry,
        config: GenerationConfig,
        streamer: Any,
        criteria: Sequence[Any],
        words: tuple[Tensor, int] | None = None,
        pad_id: int | None = None,
    ) -> None:
        self.prompts, self.geometry, self.length = prompts, geometry, geometry.length
        self.streamer, self.words, self.pad_id = streamer, words, pad_id
        self.returns_dict = bool(config.return_dict_in_generate)
        wanted = [
            name
            for name in ("scores", "logits")
            if self.returns_dict and getattr(config, f"output_{name}", None)
        ]
        end = prompts.shape[1] + self.length
        # `generate` always sends the limit on a text's length along; asking it would cost.
        self.criteria = StoppingCriteriaList(
            one
            for one in criteria
            if not (isinstance(one, MaxLengthCriteria) and one.max_length >= end)
        )
        self.stopped = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
        self.texts = torch.cat((prompts, prompts.new_zeros(len(prompts), self.length)), dim=1)
        self.outputs: dict[str, tuple[Tensor, ...]] = dict.fromkeys(wanted, ())
        self.steps = 0

    def request(self, prompt: Prompt, sampling: Sampling) -> Request:
        """A request that this follows, if there is anything to follow it for."""
        is_idle = self.streamer is None and not self.criteria and not self.outputs
        follow = None if is_idle else self
        outputs = tuple(self.outputs)
        return Request(prompt, sampling, self.geometry, self.finish, follow, outputs)

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

    def __call__(self, tokens: Tensor, kept: Mapping[str, Tensor]) -> bool:
        """Go through what is new of the tokens [B, n] that all pictures have; whether to go on.

        Args:
            tokens: int64 [B, n].
            kept: scores or logits of them, float32 [B, length, V], as the request asks for.
        """
        if self.streamer is not None and self.steps == 0 and tokens.shape[1]:
            self.streamer.put(self.prompts.cpu())
        for column in tokens[:, self.steps :].unbind(dim=1):
            at = {name: values[:, self.steps] for name, values in kept.items()}
            self._step(self._named(column), at)
            if self.steps == self.length or (self.criteria and bool(self.stopped.all())):
                if self.streamer is not None:
                    self.streamer.end()
                return False
        return True

    def _step(self, column: Tensor, kept: Mapping[str, Tensor]) -> None:
        if self.pad_id is not None:
            column = torch.where(self.stopped, self.pad_id, column)
        self.texts[:, self.prompts.shape[1] + self.steps] = column
        for name, values in kept.items():
            self.outputs[name] += (self._widened(values),)
        self.steps += 1
        if self.streamer is not None:
            self.streamer.put(column.cpu())
        if self.criteria:
            self.stopped |= self.criteria(self.text, self.outputs.get("scores"))

    def _named(self, tokens: Tensor) -> Tensor:
        return self.words[0][tokens] if self.words else tokens

    def _widened(self, scores: Tensor) -> Tensor:
        """Scores [B, V] of the tokens drawn over the model's whole vocabulary."""
        if not self.words:
            return scores
        ids, size = self.words
        full = scores.new_full((len(scores), size), -torch.inf)
        # Tokens of the grammar are as good as minus infinity where they cannot be drawn.
        return full.index_copy(1, ids, scores.masked_fill(scores < _NEVER, -torch.inf))
