"""The randomness of a decision, behind a protocol: tests replace it to enumerate all branches."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sjd2.kernels import philox
from sjd2.kernels.philox import GROUP, GROUPS_FROM, Stream
from sjd2.kernels.target.cpu import log


class Draws(Protocol):
    """The randomness of one iteration. Tests replace it to enumerate every branch."""

    def accept(self, log_ratio: Tensor) -> Tensor:
        """True with probability `min(1, exp(log_ratio))`, per entry of a [B, W] tensor."""

    def choose(self, weights: Tensor, rows: Tensor, columns: Tensor, stream: Stream) -> Tensor:
        """One token for each row of weights [M, V], of the columns at (rows, columns): [M]."""

    def choose_again(self, log_p: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """As `choose`, from log-probabilities and with noise that is the same in all iterations."""

    def fresh(self, columns: Tensor, vocab_size: int) -> Tensor:
        """One uniform token for each of the columns [B, W]: [B, W]."""


class PhiloxDraws:
    """The draws of the library: addressed by seed, position and iteration.

    Args:
        seed: int64 [B].
        position: int64 [B], picture position of column 0.
        iteration: number of this forward.
        begun: int64 [B] or None, iterations that do not count, as they were over when the row's
            picture began.
    """

    def __init__(
        self, seed: Tensor, position: Tensor, iteration: int, begun: Tensor | None = None
    ) -> None:
        self.seed, self.position = seed, position
        self.iteration = iteration if begun is None else iteration - begun

    def accept(self, log_ratio: Tensor) -> Tensor:
        """See `Draws`. Strict, with uniforms in (0, 1): probability zero is never accepted."""
        columns = torch.arange(log_ratio.shape[1], device=log_ratio.device)
        positions = self.position[:, None] + columns
        seeds = self.seed[:, None].expand_as(positions)
        u = philox.uniform(seeds, positions, self._when(positions), Stream.ACCEPT).squeeze(-1)
        return u.log() < log_ratio

    def choose(self, weights: Tensor, rows: Tensor, columns: Tensor, stream: Stream) -> Tensor:
        """See `Draws`. Two exponential races, which need a fraction of the noise of one.

        Groups of tokens race with the sums of their weights, then the tokens of the winner.
        """
        when = self.iteration if isinstance(self.iteration, int) else self.iteration[rows]
        at = (self.seed[rows], self.position[rows] + columns, when, stream)
        if missing := -weights.shape[1] % GROUP:
            weights = F.pad(weights, (0, missing))
        groups = weights.view(len(weights), weights.shape[1] // GROUP, GROUP)
        noise = philox.gumbel(*at, groups.shape[1], GROUPS_FROM)
        group = (log(groups.sum(dim=-1)) + noise).argmax(dim=-1)
        members = log(groups[torch.arange(len(group), device=group.device), group])
        first = group * GROUP
        return first + (members + philox.gumbel(*at, GROUP, first)).argmax(dim=-1)

    def choose_again(self, log_p: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """See `Draws`. One race with noise for every token, so that drafts tend to win again."""
        seeds, positions = self.seed[rows], self.position[rows] + columns
        noise = philox.fixed_gumbel(seeds, positions, Stream.DRAFT, log_p.shape[-1])
        return (log_p + noise).argmax(dim=-1)

    def fresh(self, columns: Tensor, vocab_size: int) -> Tensor:
        """See `Draws`."""
        positions = self.position[:, None] + columns
        seeds = self.seed[:, None].expand_as(positions)
        when = self._when(positions)
        return philox.uniform_token(seeds, positions, when, Stream.DRAFT, vocab_size)

    def _when(self, positions: Tensor) -> int | Tensor:
        """The iteration of every position [B, W]."""
        if isinstance(self.iteration, int):
            return self.iteration
        return self.iteration[:, None].expand_as(positions)
