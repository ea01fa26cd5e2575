"""How the tokens of a picture follow each other, the grammar's among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Rows of image tokens with fixed tokens between and behind them.

    Ids are those of the model's vocabulary.

    Attributes:
        height: rows, at least 1.
        width: image tokens in a row, at least 1.
        end_of_row: what follows every row.
        after: what follows the last row.

    Raises:
        ValueError: a height or width below 1.
    """

    height: int
    width: int
    end_of_row: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a picture of {self.height}x{self.width} tokens: at least 1x1")

    @property
    def row_width(self) -> int:
        """Tokens of a row, with those that end it."""
        return self.width + len(self.end_of_row)

    @property
    def length(self) -> int:
        """Tokens of the whole picture."""
        return self.height * self.row_width + len(self.after)

    @property
    def forced_ids(self) -> tuple[int, ...]:
        """The fixed tokens, each once, in the order in which they first stand."""
        return tuple(dict.fromkeys(self.end_of_row + self.after))

    def forced(self) -> Tensor:
        """The fixed token of every position, -1 where one is drawn: int64 [length]."""
        row = (-1,) * self.width + self.end_of_row
        return torch.tensor(row * self.height + self.after)

    def put(self, codes: Tensor) -> Tensor:
        """Set image tokens [B, height * width] between the fixed ones: [B, length]."""
        forced = self.forced().to(codes.device)
        tokens = forced.to(codes.dtype).expand(len(codes), -1).clone()
        tokens[:, forced < 0] = codes
        return tokens

    def take(self, tokens: Tensor) -> Tensor:
        """The image tokens of pictures [B, length], as they lie: [B, height, width]."""
        rows = tokens[:, : self.height * self.row_width]
        return rows.reshape(len(tokens), self.height, self.row_width)[:, :, : self.width]


def one_size(image_sizes: Any) -> tuple[int, int]:
    """The (height, width) that all pictures of a call have.

    Args:
        image_sizes: a list or tensor of pairs.

    Raises:
        ValueError: no pairs, or several sizes.
    """
    try:
        sizes = {(int(height), int(width)) for height, width in image_sizes}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"image_sizes={image_sizes!r}: must be a (height, width) for every picture"
        ) from error
    if len(sizes) != 1:
        raise ValueError(f"image_sizes={image_sizes!r}: the pictures of a call have one size")
    return sizes.pop()
