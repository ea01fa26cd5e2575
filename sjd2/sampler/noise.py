"""Drafts as method "sjd2" feeds them: embeddings on their way from noise to tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sjd2.companions.adapter import Adapter, Gate
from sjd2.config import Schedule
from sjd2.kernels import Verdict, denoise_step, noisy_embed
from sjd2.kernels.verify_window.eager import grammar_at
from sjd2.protocol import ImageModel
from sjd2.sampler.drafts import Drafts, Slots
from sjd2.sampler.schedule import noise_levels, steps_allowed
from sjd2.sampler.state import DecodingState


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


@contextmanager
def noisy_drafts(
    model: ImageModel,
    state: DecodingState,
    *,
    adapter: Adapter,
    steps: int,
    schedule: Schedule,
    staggered: bool,
) -> Iterator[NoisyDrafts]:
    """The source of `NoisyDrafts`: inside the block the adapter acts on the model's layers.

    Args:
        model: whose backbone the adapter acts on.
        state: of the call, its first window the one that drafts enter.
        adapter: lets the model read noise.
        steps, schedule, staggered: as in `Trajectory`.
    """
    trajectory = Trajectory(steps, schedule, state.next_width, adapter, staggered)
    with adapter.attached(model.backbone) as gate:
        gate.thread = get_ident()  # another thread may draw with the same model
        yield NoisyDrafts(trajectory, state, gate)


class NoisyDrafts:
    """Embedding and remaining denoising steps of every draft, moving with the window.

    A token that the grammar forces is never noisy.

    Args:
        trajectory: how drafts get from noise to tokens.
        state: of the call; the drafts of its window enter here.
        gate: tells the adapter which slots are noisy.

    RNG: counter-addressed Philox, stream EMBED: a position's noise is that of its seed, for good.
    """

    READ_BY_ITERATIONS: ClassVar[tuple[str, ...]] = (
        *("steps", "embeddings", "levels", "mean", "std", "table", "grammar"),
    )

    def __init__(
        self,
        trajectory: Trajectory,
        state: DecodingState,
        gate: Gate,
    ) -> None:
        self.trajectory, self.gate = trajectory, gate
        self.table, self.grammar = state.table, state.geometry.grammar
        self.levels = noise_levels(trajectory.steps, trajectory.schedule).to(self.table.device)
        self.mean, self.std = table_statistics(self.table)
        entering = torch.full_like(state.window.tokens, trajectory.steps)
        self.steps = self._bounded(entering, state.position)  # int64 [B, W]
        self.embeddings = self._enter(state.window.tokens, state)  # [B, W, D]

    @property
    def timestep(self) -> Tensor:
        """The noise level of every draft, float32 [B, W] in [0, 1]."""
        return self.levels[self.steps]

    def feed(self, state: DecodingState) -> Slots:
        """See `Drafts`."""
        window = state.window
        clean = noisy_embed(window.slots[:, :1], self.table)
        # The last draft is fed in no slot yet.
        timestep, drafts = self.timestep[:, :-1], self.embeddings[:, :-1]
        timed = (drafts + self.trajectory.adapter.time_embedding(timestep)).to(drafts.dtype)
        drafts = torch.where(timestep.unsqueeze(-1) > 0, timed, drafts)
        noisy = torch.cat((torch.zeros_like(window.slots[:, :1]), self.steps[:, :-1]), dim=1) > 0
        self.gate.noisy = noisy.repeat(state.copies, 1)
        return Slots(torch.cat((clean, drafts), dim=1).repeat(state.copies, 1, 1), noisy)

    def advance(self, state: DecodingState, verdict: Verdict) -> None:
        """See `Drafts`: one denoising step on; what enters is noise."""
        tokens = verdict.window.tokens
        last = self.steps.shape[1] - 1
        source = torch.arange(tokens.shape[1], device=tokens.device)
        source = source + verdict.accept_length[:, None]
        old, is_new = source.clamp(max=last), source > last
        steps = self.steps.gather(1, old)
        aged = torch.where(is_new, self.trajectory.steps, (steps - 1).clamp(min=0))
        self.steps = self._bounded(aged, state.position)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        # A draft takes a step from its own level towards the token that now stands there.
        refined = denoise_step(
            self.embeddings[rows, old],
            self.table[tokens],
            self.levels[torch.where(is_new, 0, steps)],
            self.levels[torch.where(is_new, 0, self.steps)],
        )
        entering = self._enter(tokens, state)
        self.embeddings = torch.where(is_new.unsqueeze(-1), entering, refined)

    def narrow(self, width: int) -> None:
        """See `Drafts`."""
        self.steps, self.embeddings = self.steps[:, :width], self.embeddings[:, :width]

    def keep_rows(self, rows: Tensor) -> None:
        """See `Drafts`."""
        self.steps, self.embeddings = self.steps[rows], self.embeddings[rows]

    def begin(self, state: DecodingState) -> NoisyDrafts:
        """See `Drafts`."""
        self.gate.noisy = None  # the forward of the prompts comes first, and they are no noise
        return NoisyDrafts(self.trajectory, state, self.gate)

    def put_rows(self, rows: Tensor, other: Drafts) -> None:
        """See `Drafts`."""
        assert isinstance(other, NoisyDrafts)
        self.steps = self.steps.index_copy(0, rows, other.steps)
        self.embeddings = self.embeddings.index_copy(0, rows, other.embeddings)

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

    def _enter(self, tokens: Tensor, state: DecodingState) -> Tensor:
        """Embeddings of drafts that enter at their present levels: [B, W, D]."""
        return noisy_embed(
            tokens,
            self.table,
            timestep=self.timestep,
            mean=self.mean,
            std=self.std,
            seed=state.seed,
            position=state.position,
        )


def table_statistics(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every dimension of embeddings [V, D]: float32 [D] each."""
    values = table.detach().float()
    return values.mean(dim=0), values.std(dim=0, correction=0).clamp(min=1e-6)
