"""Where drafts come from: what the slots of a window are fed, and how that moves with the window.

`TokenDrafts` feeds drafts as the tokens that they are; `sjd2/sampler/noise.py` feeds them as noise
first. The loop knows the protocol alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from torch import Tensor

from sjd2.kernels import Verdict, noisy_embed

if TYPE_CHECKING:
    from sjd2.protocol import ImageModel
    from sjd2.sampler.state import DecodingState


class Slots(NamedTuple):
    """What a forward is fed."""

    embeddings: Tensor  # [R, W, D]
    noisy: Tensor | None  # bool [B, W], slots that are noise; None for none


class Drafts(Protocol):
    """The drafts of a call, with whatever they carry beside their tokens.

    Attributes:
        READ_BY_ITERATIONS: names of the attributes that hold what `feed` and `advance` read, for
            recordings (`sjd2/sampler/graphs.py`).
    """

    READ_BY_ITERATIONS: ClassVar[tuple[str, ...]]

    def feed(self, state: DecodingState) -> Slots:
        """What the slots of the window are fed."""

    def advance(self, state: DecodingState, verdict: Verdict) -> None:
        """Slide with the window; `state` has moved on already."""

    def narrow(self, width: int) -> None:
        """Keep the first `width` columns."""

    def keep_rows(self, rows: Tensor) -> None:
        """Keep the given rows, int64 [B']."""

    def begin(self, state: DecodingState) -> Drafts:
        """The same for pictures that begin while these are drawn, in a state of their own."""

    def put_rows(self, rows: Tensor, other: Drafts) -> None:
        """Put what `begin` made, [B'], in the place of the given rows, int64 [B']."""


class TokenDrafts:
    """Drafts that are tokens all along."""

    READ_BY_ITERATIONS: ClassVar[tuple[str, ...]] = ()

    def feed(self, state: DecodingState) -> Slots:
        """See `Drafts`."""
        return Slots(noisy_embed(state.window.fed, state.table, copies=state.copies), None)

    def advance(self, state: DecodingState, verdict: Verdict) -> None:
        """See `Drafts`."""

    def narrow(self, width: int) -> None:
        """See `Drafts`."""

    def keep_rows(self, rows: Tensor) -> None:
        """See `Drafts`."""

    def begin(self, state: DecodingState) -> Drafts:
        """See `Drafts`."""
        return self

    def put_rows(self, rows: Tensor, other: Drafts) -> None:
        """See `Drafts`."""


@contextmanager
def token_drafts(model: ImageModel, state: DecodingState) -> Iterator[Drafts]:
    """The source of `TokenDrafts`."""
    yield TokenDrafts()
