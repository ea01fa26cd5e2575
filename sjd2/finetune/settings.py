"""Settings that every training shares: steps, learning rate, amount of data."""

from __future__ import annotations

from dataclasses import dataclass

from sjd2.config import DecodingConfig, Schedule


@dataclass(frozen=True)
class TrainingSettings:
    """What all trainings have in common.

    Attributes:
        steps: of the optimiser.
        batch: pictures of a step, or of a drawing that several steps learn from, per process.
        learning_rate: at its peak; it warms up and falls, linearly.
        warm_up: steps of the first.
        window: slots; also of the evaluation.
        evaluate_every: steps between evaluations and checkpoints.
        evaluated: held-out captions that an evaluation draws.
        seed: of everything random.
    """

    steps: int = 1000
    batch: int = 16
    learning_rate: float = 2e-3
    warm_up: int = 20
    window: int = 64
    evaluate_every: int = 200
    evaluated: int = 16
    seed: int = 0

    def decoding(self) -> DecodingConfig:
        """How the model draws with what it learned."""
        raise NotImplementedError


@dataclass(frozen=True)
class FinetuneSettings(TrainingSettings):
    """How a model learns to denoise.

    Attributes:
        full: train all parameters, as the paper does, instead of a gated adapter.
        rank: of the adapter's updates.
        denoising_steps: from pure noise to a token.
        schedule: of their levels.
        windows: of every picture in a step of the adapter's training.
        reuse: steps that learn from the same pictures, each from other windows of them.
    """

    steps: int = 600
    batch: int = 8
    learning_rate: float = 5e-4
    full: bool = False
    rank: int = 16
    denoising_steps: int = 2
    schedule: Schedule = "linear"
    windows: int = 4
    reuse: int = 8

    def decoding(self) -> DecodingConfig:
        """See `TrainingSettings`."""
        return DecodingConfig(
            method="sjd2",
            window=self.window,
            denoising_steps=self.denoising_steps,
            schedule=self.schedule,
        )
