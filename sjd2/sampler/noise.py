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
from sjd2.kernels import Noise, Verdict, denoise_window, embed_window
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

    @property
    def levels(self) -> Tensor:
        """The timestep of a draft with 0, 1, ... `steps` to go, float32 [steps + 1]."""
        return noise_levels(self.steps, self.schedule)


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
        *("steps", "embeddings", "noise", "table", "grammar"),
    )

    def __init__(
        self,
        trajectory: Trajectory,
        state: DecodingState,
        gate: Gate,
    ) -> None:
        self.trajectory, self.gate = trajectory, gate
        self.table, self.grammar = state.table, state.geometry.grammar
        self.noise = noise_of(trajectory, state)
        tokens = state.window.tokens
        self.steps = torch.zeros_like(tokens)  # int64 [B, W]
        self.embeddings = self.table[tokens]  # [B, W, D]
        # All of these drafts enter, as if the window had slid by all of its columns.
        self._denoise(tokens, torch.full_like(state.position, state.width), state)

    @property
    def timestep(self) -> Tensor:
        """The noise level of every draft, float32 [B, W] in [0, 1]."""
        return self.noise.levels[self.steps]

    def feed(self, state: DecodingState) -> Slots:
        """See `Drafts`."""
        fed, self.gate.noisy = embed_window(
            state.window.fed,
            self.embeddings,
            self.steps,
            self.noise,
            self.table,
            copies=state.copies,
        )
        return Slots(fed, self.gate.noisy[: len(state.rows)])

    def advance(self, state: DecodingState, verdict: Verdict) -> None:
        """See `Drafts`: one denoising step on; what enters is noise."""
        self._denoise(verdict.window.tokens, verdict.accept_length, state)

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

    def _denoise(self, tokens: Tensor, accept_length: Tensor, state: DecodingState) -> None:
        self.embeddings, self.steps = denoise_window(
            self.embeddings,
            self.steps,
            tokens,
            self.noise,
            self.table,
            accept_length=accept_length,
            seed=state.seed,
            position=state.position,
            grammar=self.grammar,
        )


def noise_of(trajectory: Trajectory, state: DecodingState) -> Noise:
    """The levels of a trajectory, for windows of a state's embeddings."""
    device = state.table.device
    levels = trajectory.levels.to(device)
    most = steps_allowed(trajectory.width, trajectory.steps, trajectory.width, device)
    if not trajectory.staggered:
        most = torch.full_like(most, trajectory.steps)
    mean, std = table_statistics(state.table)
    times = trajectory.adapter.time_embedding(levels[None])[0]
    return Noise(levels, most, mean, std, times)


def table_statistics(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every dimension of embeddings [V, D]: float32 [D] each."""
    values = table.detach().float()
    return values.mean(dim=0), values.std(dim=0, correction=0).clamp(min=1e-6)
