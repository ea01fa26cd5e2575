"""The corrector: a small network that re-drafts a window from its new neighbours between forwards.

A draft was drawn from a distribution conditioned on its neighbours as they were fed. Once they have
changed, it is out of date, most of all near the front. The corrector predicts what it has become,

    q'_i = softmax(log p_i + G(h_i, new neighbours) - G(h_i, old neighbours)),

with `p_i` and `h_i`, distribution and hidden state, from the last forward. Equal neighbours give
`q' = p`. As `q'_i` depends on columns before i only, and drafts are moved to it by maximal
coupling, no error of `G` changes what is committed: `G` is judged by speed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sjd2.kernels.types import Shifts


def neighbour_offsets(row_width: int) -> tuple[int, ...]:
    """How far back in reading order the neighbours are that a column is corrected from.

    Three to the left; above, from two to the left to one to the right; and one two rows up.
    """
    w = row_width
    offsets = {1, 2, 3, w - 1, w, w + 1, w + 2, 2 * w}
    return tuple(sorted(offset for offset in offsets if offset > 0))


class Corrector(nn.Module):
    """`G`: linear maps of neighbours and of the hidden state, SiLU, a linear map to the tokens.

    Fresh, it corrects nothing.

    Args:
        offsets: of the neighbours, O of them.
        dimensions: of the input embeddings, D.
        states: of the hidden states, conditional and unconditional ones side by side.
        vocab_size: image tokens, V.
        rank: inner width, r.
        base: `fingerprint` of the model that it belongs to.
    """

    def __init__(
        self,
        offsets: Sequence[int],
        dimensions: int,
        states: int,
        vocab_size: int,
        rank: int,
        base: str,
    ) -> None:
        super().__init__()
        self.offsets, self.rank, self.base = tuple(offsets), rank, base
        self._made: tuple[Any, Shifts] | None = None
        spread = (dimensions * len(self.offsets)) ** -0.5
        self.beside = nn.Parameter(torch.randn(len(self.offsets), dimensions, rank) * spread)
        self.state = nn.Linear(states, rank)
        self.shift = nn.Linear(rank, vocab_size, bias=False)
        nn.init.zeros_(self.shift.weight)

    def config(self) -> dict[str, Any]:
        """What `from_config` makes a fresh one of the same shape of."""
        return {
            "offsets": self.offsets,
            "dimensions": self.beside.shape[1],
            "states": self.state.in_features,
            "vocab_size": self.shift.out_features,
            "rank": self.rank,
            "base": self.base,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Corrector:
        """A fresh one; raises KeyError, TypeError or ValueError where the config is no such."""
        return cls(
            [int(offset) for offset in config["offsets"]],
            int(config["dimensions"]),
            int(config["states"]),
            int(config["vocab_size"]),
            int(config["rank"]),
            str(config["base"]),
        )

    def features(self, table: Tensor) -> Tensor:
        """What tokens add by where they stand: float32 [O * (V + 1), r].

        The V + 1 rows of an offset are those of every token, and zeros for where there is none.

        Args:
            table: [V, D], the model's input embeddings.
        """
        codes = F.layer_norm(table.detach().float(), table.shape[1:])
        codes = torch.cat((codes, torch.zeros_like(codes[:1])))
        return torch.einsum("vd,odr->ovr", codes, self.beside).flatten(0, 1)

    @torch.no_grad()
    def shifts(self, table: Tensor) -> Shifts:
        """The weights as the operations read them, for embeddings [V, D] of the image tokens.

        They are made once and kept: for large vocabularies they take as long as a forward.

        Sync: on a GPU, reads sums of the embeddings and the weights.
        """
        # By what is in them: a fused optimiser changes weights and not their versions.
        sums = [float(weights.sum(dtype=torch.float64)) for weights in (table, self.beside)]
        made_of = (table.device, self.shift.weight.data_ptr(), *sums)
        made = self._made  # another thread may put its own there
        if made is None or made[0] != made_of:
            offsets = torch.tensor(self.offsets, device=table.device)
            made = self._made = made_of, Shifts(self.features(table), offsets, self.shift.weight)
        return made[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without what `shifts` can make again."""
        return {**self.__dict__, "_made": None}

    def read(self, hidden: Tensor, images: int) -> Tensor:
        """What hidden states [R, W, D'] add: float32 [images, W, r]. R is `images`, or twice."""
        # Without guidance the conditional states stand in both places.
        states = torch.cat((hidden[:images], hidden[-images:]), dim=-1)
        added: Tensor = self.state(states.float())
        return added
