"""What the sampler needs of a model: the protocol that every family implements.

A family turns a Hugging Face model into an embedding table, a forward, an image head and a grammar.
It knows nothing of windows or verification; the sampler knows no family by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Cache

# (input_ids int64 [N, L], scores float [N, V]) -> scores, as transformers' logits processors.
LogitsProcessor = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class PlacedProcessor(Protocol):
    """A logits processor that has to know where in the batch and in the picture its rows stand."""

    def placed(self, input_ids: Tensor, scores: Tensor, images: Tensor, drawn: Tensor) -> Tensor:
        """Process one row per column of a batch of windows.

        Args:
            input_ids: int64 [N, L], prompts and what is drawn behind them, padded on the left.
            scores: float [N, V], guided logits of the image tokens.
            images: int64 [N], the picture of every row.
            drawn: int64 [N], tokens of the picture before the row's column.

        Returns:
            [N, V], the scores afterwards.
        """


class Past(NamedTuple):
    """What of the conditional prompts is cached already; every row's own entries first."""

    keys: tuple[Tensor, ...]  # of every layer, [B, H, P, D]
    values: tuple[Tensor, ...]
    lengths: Tensor  # int64 [B], entries of every row

    @property
    def width(self) -> int:
        """Entries of the longest row at most, P."""
        return self.keys[0].shape[2]


@dataclass(frozen=True)
class Prompt:
    """The contexts that pictures are drawn under, one row per image.

    With guidance there are twice as many rows: all conditional ones, then all unconditional ones.
    """

    embeddings: Tensor  # float [R, L, D], every row's own tokens first, padding behind
    lengths: Tensor  # int64 [R], tokens of every row, at least 1
    ids: Tensor  # int64 [B, L], conditional rows left-padded, as logits processors see prompts
    pad_id: int  # what they are padded with
    # int64 [V], what processors know the image tokens as; None where images have ids of their own.
    vocabulary: Tensor | None = None
    past: Past | None = None  # what stands before `embeddings`
    # int64 [P, R, S], the P positions that the model gives to every entry of a row, the picture's
    # among them; None where an entry's position is its number.
    positions: Tensor | None = None


def positions_of(known: Tensor | None, entries: Tensor) -> Tensor:
    """The model's positions of entries [R, W]: [R, W], or [P, R, W] where [P, R, S] are known."""
    if known is None:
        return entries
    # A window may overrun the picture; what it holds there is never committed.
    at = entries.clamp(max=known.shape[2] - 1)
    return known.gather(2, at.expand(len(known), -1, -1))


def extended(known: Tensor, entries: int) -> Tensor:
    """Positions [P, R, S] of more entries: the last one goes on."""
    last = known[:, :, -1:].expand(-1, -1, entries - known.shape[2])
    return torch.cat((known, last), dim=2)


@dataclass(frozen=True)
class Sampling:
    """What `generate` was asked to do to the logits."""

    do_sample: bool
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 1.0
    processors: tuple[LogitsProcessor | PlacedProcessor, ...] = ()


@dataclass(frozen=True)
class Geometry:
    """How the tokens of a picture follow each other; every picture of a call has the same."""

    length: int  # tokens in a picture
    row_width: int  # tokens in a row of the picture
    grammar: Tensor | None = None  # int64 [length], forced token of every position, -1 where free


@dataclass(frozen=True)
class Request:
    """A call of `generate`, understood and checked."""

    prompt: Prompt
    sampling: Sampling
    geometry: Geometry
    finish: Callable[[Tensor], Any]  # tokens int64 [B, N] -> what `generate` returns
    # Called with int64 [B, n], the tokens that all pictures have so far, as they become more, and
    # with `outputs` of them by name; says whether to go on.
    follow: Callable[[Tensor, Mapping[str, Tensor]], bool] | None = None
    # What `follow` is to be shown, float32 [B, length, V]: "scores", the log-probabilities that
    # every token is drawn by, and "logits", the model's own for the conditional rows.
    outputs: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Pictures that the call draws."""
        return len(self.prompt.ids)


class ImageModel(Protocol):
    """A family: one model class of transformers, seen as a drawer of image tokens."""

    vocab_size: int  # image tokens and the grammar's; ids here run from 0 to vocab_size - 1
    geometry: Geometry  # of the size that the model is known for; a request may ask for another
    backbone: nn.Module  # the layers that `hidden` runs; adapters act on its linear ones
    own_generation_mode: bool  # whether the model's own `generate` takes `generation_mode`

    def request(self, *args: Any, **kwargs: Any) -> Request | None:
        """Understand the arguments of `generate`; None where the model's own must answer.

        Raises:
            ValueError: an argument that cannot be honoured, before any forward.
        """

    def embedding_table(self) -> Tensor:
        """Input embedding of every image token, [V, D]."""

    def hidden(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """One causal forward of the backbone.

        Args:
            embeddings: [R, W, D].
            positions: int64 [R, W], or [P, R, W] of a prompt that has such.
            mask: bool [R, 1, W, S], True where a slot sees a cache entry.
            cache: takes the window's keys and values.

        Returns:
            [R, W, D'], last hidden states.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """The image head, over image tokens only: [R, W, V]."""

    def encode(self, pictures: Sequence[Image.Image], processor: Any, geometry: Geometry) -> Tensor:
        """Tokens of pictures, by the model's own tokenizer of them: int64 [B, geometry.length].

        Raises:
            ValueError: the processor makes pictures of another number of tokens.
        """
