"""The types that the operations share: draft kinds, windows, rules and verdicts.

A window has `W` slots, the tokens fed in one forward, and `W` columns, what that forward predicts:
column `j` is the picture position that slot `j`'s logits predict. Slot 0 holds the last committed
token and slot `j + 1` holds the draft of column `j`. No slot feeds the last column's draft; it can
still be verified, since its `p` depends only on the columns before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sjd2.choices import Coupling as Coupling
from sjd2.choices import Start as Start

Verify = Literal["ratio", "gumbel", "greedy"]


# Iterations are numbered below this and corrections in multiples of it, so that corrections share
# no random number with a forward.
CORRECTIONS = 2**20


class DraftKind(IntEnum):
    """Where a column's draft came from, and so its draft distribution `q`."""

    FULL = 0  # drawn from a stored distribution, `Window.draft_logits`
    UNIFORM = 1  # drawn uniformly from the vocabulary
    ONEHOT = 2  # copied, or forced by the grammar: `q` is one on that token


class Window(NamedTuple):
    """The drafts of a batch of windows and the distributions that they were drawn from.

    A draft distribution is the target distribution of the last iteration, kept where it was
    computed: that of column `j` of row `b` is `draft_logits[b, j + offset[b]]`, so sliding a window
    copies no distribution. The columns that entered share the last one. The eager twins keep
    log-probabilities; the Triton kernels keep that forward's logits as they came from the model,
    guidance rows included, and in `draft_stats` the numbers that turn them into log-probabilities.
    """

    slots: Tensor  # int64 [B, W + 1]: the last committed token, then the draft of every column
    kinds: Tensor  # uint8 [B, W], DraftKind of the drafts
    draft_logits: Tensor  # float [B or 2 B, W', V]; read where the kind is FULL only
    offset: Tensor  # int64 [B]
    draft_stats: Tensor | None = None  # float32 [B, W', 3]; None beside log-probabilities
    is_processed: bool = False  # whether guidance and temperature are in `draft_logits` already

    @property
    def tokens(self) -> Tensor:
        """The draft of every column, int64 [B, W]."""
        return self.slots[:, 1:]

    @property
    def fed(self) -> Tensor:
        """The tokens of the slots that are fed, int64 [B, W]."""
        return self.slots[:, :-1]

    @property
    def width(self) -> int:
        """Columns, W."""
        return self.kinds.shape[1]

    def narrow(self, width: int) -> Window:
        """The first `width` columns, for a picture that ends inside the window."""
        return self._replace(slots=self.slots[:, : width + 1], kinds=self.kinds[:, :width])

    def split(self) -> list[Window]:
        """The columns from left to right, each as a window of its own."""
        return [
            self._replace(
                slots=self.slots[:, column : column + 2],
                kinds=self.kinds[:, column : column + 1],
                offset=self.offset + column,
            )
            for column in range(self.width)
        ]

    @staticmethod
    def join(first_slot: Tensor, columns: list[Window]) -> Window:
        """One window of single columns, each with a distribution of its own, [B, 1, V]."""
        stats = [column.draft_stats for column in columns if column.draft_stats is not None]
        return columns[0]._replace(
            slots=torch.cat((first_slot, *(column.tokens for column in columns)), dim=1),
            kinds=torch.cat([column.kinds for column in columns], dim=1),
            draft_logits=torch.cat([column.draft_logits for column in columns], dim=1),
            draft_stats=torch.cat(stats, dim=1) if stats else None,
        )

    def keep_rows(self, rows: Tensor) -> Window:
        """The given rows, int64 [B'], of every tensor; guidance rows go with their own."""
        copies = len(self.draft_logits) // len(self.slots)
        all_rows = torch.cat([rows + copy * len(self.slots) for copy in range(copies)])
        stats = None if self.draft_stats is None else self.draft_stats[rows]
        return self._replace(
            slots=self.slots[rows],
            kinds=self.kinds[rows],
            draft_logits=self.draft_logits[all_rows],
            offset=self.offset[rows],
            draft_stats=stats,
        )

    def put_rows(self, rows: Tensor, other: Window) -> Window:
        """This window with the given rows, int64 [B'], replaced by those of `other` [B'].

        Both have as many columns. Their distributions may have been kept of another number, for the
        last one stands for all behind it.
        """
        kept = max(self.draft_logits.shape[1], other.draft_logits.shape[1])
        images, copies = len(self.slots), len(self.draft_logits) // len(self.slots)
        logits, new = (_stretched(one.draft_logits, kept) for one in (self, other))
        all_rows = torch.cat([rows + copy * images for copy in range(copies)])
        stats = None
        if self.draft_stats is not None and other.draft_stats is not None:
            stats = _stretched(self.draft_stats, kept)
            stats = stats.index_copy(0, rows, _stretched(other.draft_stats, kept))
        return self._replace(
            slots=self.slots.index_copy(0, rows, other.slots),
            kinds=self.kinds.index_copy(0, rows, other.kinds),
            draft_logits=logits.index_copy(0, all_rows, new),
            offset=self.offset.index_copy(0, rows, other.offset),
            draft_stats=stats,
        )


def _stretched(kept: Tensor, width: int) -> Tensor:
    """[B, W', V] as [B, width, V], with the last column in place of those that are missing."""
    columns = torch.arange(width, device=kept.device).clamp(max=kept.shape[1] - 1)
    return kept if kept.shape[1] == width else kept[:, columns]


class Shifts(NamedTuple):
    """The weights of a corrector, by which neighbours shift the distribution of a column."""

    features: Tensor  # float32 [O * (V + 1), r]: for each offset a row per token and one for none
    offsets: Tensor  # int64 [O], how far back in the picture the neighbours are
    output: Tensor  # float32 [V, r]


class Noise(NamedTuple):
    """What a method makes of tokens that are fed as noise first; the same for all its windows."""

    levels: Tensor  # float32 [K + 1], the timestep of a draft with 0, 1, ... K steps to go
    most: Tensor  # int64 [W], the most steps that the draft of a column may have to go
    mean: Tensor  # float32 [D], of the table's rows
    std: Tensor  # float32 [D], of the table's rows
    times: Tensor  # [K + 1, D], what is added to the input of a draft, by its steps to go


@dataclass(frozen=True)
class Rules:
    """What turns logits into the target distribution `p`, and drafts into committed tokens.

    Attributes:
        guidance_scale: classifier-free guidance `u + s (c - u)`; 1 means that no unconditional
            rows are fed.
        temperature: divides the logits, > 0.
        top_k: keep the `k` largest logits, ties kept; 0 keeps all.
        top_p: keep the smallest set of tokens with this much probability, ties kept; 1 keeps all.
        verify: "ratio" (accept with `min(1, p / q)`), "gumbel" (noise fixed per seed, position and
            token: the draw of token-by-token decoding) or "greedy".
        coupling: how unaccepted drafts are re-drawn under "ratio": "maximal" or "independent".
        start: the draft of a column that enters the window: drawn from the distribution of the
            window's last column ("neighbour"), drawn uniformly, or a copy of the last token
            ("repeat").
    """

    guidance_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    verify: Verify = "ratio"
    coupling: Coupling = "maximal"
    start: Start = "neighbour"


class Verdict(NamedTuple):
    """What one iteration decided."""

    accept_length: Tensor  # int64 [B], tokens committed: the accepted drafts and one recovered
    accepted: Tensor  # int64 [B], drafts kept among those
    tokens: Tensor  # int64 [B, W], every column's token; the first `accept_length` are committed
    window: Window  # the window of the next iteration
