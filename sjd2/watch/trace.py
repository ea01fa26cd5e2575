"""What is known of a picture that was decoded: its pixels, and the forward of every token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sjd2.pictures.drawing import Drawing

_VEIL = (226, 230, 235)
# Early to late, as in the colour map "viridis" of matplotlib: readable in grey and by everyone.
_EARLY_TO_LATE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


@dataclass(frozen=True)
class Trace:
    """One picture and its making.

    Attributes:
        label: the method.
        picture: as it came out, RGB.
        committed_at: int64 [rows, columns], the forward (from 1) that committed each token.
        accept_lengths: tokens that each forward committed.
    """

    label: str
    picture: Image.Image
    committed_at: NDArray[np.int64]
    accept_lengths: tuple[int, ...]

    @property
    def forwards(self) -> int:
        """Forwards that the picture took."""
        return len(self.accept_lengths)

    def committed(self, forward: int) -> int:
        """Tokens committed by then."""
        return sum(self.accept_lengths[:forward])

    def picture_at(self, forward: int) -> Image.Image:
        """The picture with a veil over what was not committed by then."""
        return reveal(self.picture, self.committed_at <= forward)

    def heat_map(self, forward: int | None = None) -> Image.Image:
        """When each token was committed, one pixel a token, dark is early.

        Args:
            forward: later ones are veiled; None shows all.
        """
        shown = self.forwards if forward is None else forward
        colours = heat(self.committed_at / self.forwards)
        veil = (self.committed_at > shown)[..., None]
        return Image.fromarray(np.where(veil, np.array(_VEIL, dtype=np.uint8), colours))


def traces_of(drawing: Drawing, label: str, grid: Callable[[Tensor], Tensor]) -> list[Trace]:
    """The traces of all pictures of a drawing.

    Args:
        drawing: made with `trace=True`.
        label: the method.
        grid: lays what is known of every token as it lies in the picture, see `Pipeline`.

    Raises:
        ValueError: it was made without.
    """
    stats = drawing.stats
    if stats.committed_at is None:
        raise ValueError("trace=False: the forwards of the tokens were not recorded")
    forwards = grid(torch.tensor(stats.committed_at)).numpy()
    made = zip(drawing.pictures, forwards, stats.accept_lengths, strict=True)
    return [Trace(label, *one) for one in made]


def reveal(picture: Image.Image, is_there: NDArray[np.bool_]) -> Image.Image:
    """The picture where tokens are there, a veil elsewhere.

    Args:
        picture: RGB.
        is_there: bool [rows, columns], by token.
    """
    mask = Image.fromarray(np.where(is_there, np.uint8(255), np.uint8(0)))
    mask = mask.resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(picture, Image.new("RGB", picture.size, _VEIL), mask)


def heat(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours [*S, 3] of numbers in 0..1, any shape S: dark is 0."""
    anchors = np.linspace(0, 1, len(_EARLY_TO_LATE))
    channels = [np.interp(share, anchors, channel) for channel in zip(*_EARLY_TO_LATE, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
