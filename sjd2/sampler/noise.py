"""The drafts of a window as they are fed: embeddings on their way from noise to tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sjd2.config import Schedule
from sjd2.kernels import Verdict, Window, denoise_step, noisy_embed
from sjd2.kernels.reference.verify_window import grammar_at
from sjd2.sampler.schedule import noise_levels, steps_allowed


class TimeEmbedding(Protocol):
    """What tells a model how noisy its inputs are."""

    def time_embedding(self, timestep: Tensor) -> Tensor:
        """[B, W] in [0, 1] to [B, W, D]."""


@dataclass(frozen=True)
class Trajectory:
    """How drafts get from noise to tokens.

    Attributes:
        steps: denoising steps of a draft that enters, at least 1.
        schedule: how their levels are spaced.
        width: slots of a full window, which `steps_allowed` cuts into bands.
        adapter: tells the model how noisy its inputs are.
        staggered: whether bands bound the noise; without, every draft takes all its steps.
    """

    steps: int
    schedule: Schedule
    width: int
    adapter: TimeEmbedding
    staggered: bool = True


class Noise:
    """Embedding and remaining denoising steps of every draft, moving with the window.

    Args:
        trajectory: how drafts get from noise to tokens.
        table: [V, D], input embeddings of the image tokens.
        window: the first window, whose drafts enter here.
        seed: int64 [B].
        grammar: int64 [length] or None; a forced token is never noisy.

    RNG: counter-addressed Philox, stream EMBED: a position's noise is that of its seed, for good.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        table: Tensor,
        window: Window,
        seed: Tensor,
        grammar: Tensor | None,
    ) -> None:
        self.trajectory, self.table, self.grammar = trajectory, table, grammar
        self.levels = noise_levels(trajectory.steps, trajectory.schedule).to(table.device)
        self.mean, self.std = table_statistics(table)
        position = torch.zeros_like(seed)
        entering = torch.full_like(window.tokens, trajectory.steps)
        self.steps = self._bounded(entering, position)  # int64 [B, W]
        self.drafts = self._enter(window.tokens, seed, position)  # [B, W, D]

    def feed(self, window: Window, copies: int) -> tuple[Tensor, Tensor]:
        """What the slots are fed, [copies * B, W, D], and which of them are noisy, bool [B, W]."""
        clean = noisy_embed(window.slots[:, :1], self.table)
        # The last draft is fed in no slot yet.
        timestep = self.levels[self.steps[:, :-1]]
        drafts = self.drafts[:, :-1]
        told = (drafts + self.trajectory.adapter.time_embedding(timestep)).to(drafts.dtype)
        drafts = torch.where(timestep.unsqueeze(-1) > 0, told, drafts)
        noisy = torch.cat((torch.zeros_like(window.slots[:, :1]), self.steps[:, :-1]), dim=1) > 0
        return torch.cat((clean, drafts), dim=1).repeat(copies, 1, 1), noisy

    def advance(self, verdict: Verdict, seed: Tensor, position: Tensor) -> None:
        """Slide with the window, one denoising step on; what enters is noise.

        Args:
            verdict: with the next window.
            seed: int64 [B].
            position: int64 [B], of column 0 of the next window.
        """
        tokens = verdict.window.tokens
        last = self.steps.shape[1] - 1
        source = torch.arange(tokens.shape[1], device=tokens.device)
        source = source + verdict.accept_length[:, None]
        old, is_new = source.clamp(max=last), source > last
        steps = self.steps.gather(1, old)
        aged = torch.where(is_new, self.trajectory.steps, (steps - 1).clamp(min=0))
        self.steps = self._bounded(aged, position)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        # A draft takes a step from its own level towards the token that now stands there.
        refined = denoise_step(
            self.drafts[rows, old],
            self.table[tokens],
            self.levels[torch.where(is_new, 0, steps)],
            self.levels[torch.where(is_new, 0, self.steps)],
        )
        entering = self._enter(tokens, seed, position)
        self.drafts = torch.where(is_new.unsqueeze(-1), entering, refined)

    def narrow(self, width: int) -> None:
        """Keep the first `width` columns."""
        self.steps, self.drafts = self.steps[:, :width], self.drafts[:, :width]

    def keep_rows(self, rows: Tensor) -> None:
        """Keep the given rows, int64 [B']."""
        self.steps, self.drafts = self.steps[rows], self.drafts[rows]

    def _bounded(self, steps: Tensor, position: Tensor) -> Tensor:
        """Denoising steps [B, W] within what bands and grammar allow."""
        if self.trajectory.staggered:
            most = steps_allowed(
                steps.shape[1], self.trajectory.steps, self.trajectory.width, steps.device
            )
            steps = torch.minimum(steps, most)
        if self.grammar is not None:
            forced = grammar_at(self.grammar, position, steps.shape[1]) >= 0
            steps = steps.masked_fill(forced, 0)
        return steps

    def _enter(self, tokens: Tensor, seed: Tensor, position: Tensor) -> Tensor:
        """Embeddings of drafts that enter at their present levels: [B, W, D]."""
        return noisy_embed(
            tokens,
            self.table,
            timestep=self.levels[self.steps],
            mean=self.mean,
            std=self.std,
            seed=seed,
            position=position,
        )


def table_statistics(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every dimension of embeddings [V, D]: float32 [D] each."""
    values = table.detach().float()
    return values.mean(dim=0), values.std(dim=0, correction=0).clamp(min=1e-6)
