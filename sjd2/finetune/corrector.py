"""The corrector's training: on windows that the accelerated model meets, from captions alone.

While the model draws, every column is predicted again and again. Two predictions in a row, and the
neighbours that the column had at both, are an example: given the first and the neighbours that
changed, guess the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from sjd2.checkpoint import keyed_generator
from sjd2.companions import Companions
from sjd2.companions.corrector import Corrector
from sjd2.config import DecodingConfig
from sjd2.finetune.memory import Drawings
from sjd2.finetune.objective import drawing_request
from sjd2.finetune.rollouts import Inputs
from sjd2.finetune.settings import TrainingSettings
from sjd2.kernels.correct_window.eager import activation, neighbours
from sjd2.kernels.target.eager import target_log_probs
from sjd2.protocol import ImageModel
from sjd2.sampler import decode, resolve
from sjd2.sampler.watchers import Iteration, OnIteration

_LEAST = -30.0  # log-probabilities below it count as this; of no token is it worth being surer


@dataclass(frozen=True)
class CorrectorSettings(TrainingSettings):
    """How a corrector is trained.

    Attributes:
        rank: its inner width.
        columns: of a step, per process.
        passes: while drawing, and in the evaluation.
        reuse: steps that follow a drawing.
        remembered: drawings that steps learn from, the last ones.
        kept: columns of a drawing that are remembered; at random where there are more.
        dropout: of the inner width.
    """

    steps: int = 3000
    rank: int = 192
    columns: int = 2048
    passes: int | Literal["sweep"] = 2
    reuse: int = 20
    remembered: int = 4
    kept: int = 32768
    dropout: float = 0.1

    def decoding(self) -> DecodingConfig:
        """How the model draws with what it learned."""
        # The eager twin keeps every draft distribution as log-probabilities: the training targets.
        return DecodingConfig(
            method="sjd", window=self.window, corrector_passes=self.passes, backend="eager"
        )


class Moves(IterableDataset[dict[str, Any]]):
    """An endless stream of columns that were predicted twice.

    A batch is "log_p" [n, V] and "hidden" [n, 2 D'] of the first prediction, "target" [n, V] of the
    second (log-probabilities), and "old" and "new", int64 [n, O], the neighbours at both as rows of
    `Corrector.features`.

    Args:
        family: the model that draws.
        corrector: with which it draws.
        inputs: keyword arguments of `generate`, batch first, of every caption.
        sampling: further keyword arguments of `generate`.
        settings: the recipe.
        rank: of this process; each draws captions of its own.

    Attributes:
        start: batches to leave out, for a run that goes on.
        drawings: that batches are made of.
    """

    def __init__(
        self,
        family: ImageModel,
        corrector: Corrector,
        inputs: Inputs,
        sampling: dict[str, Any],
        settings: CorrectorSettings,
        rank: int = 0,
    ) -> None:
        self.family, self.corrector, self.settings = family, corrector, settings
        self.inputs, self.sampling = inputs, sampling
        self.rank, self.start = rank, 0
        self.offsets = torch.tensor(corrector.offsets, device=family.embedding_table().device)
        self.drawings = Drawings(corrector, self._draw, settings.reuse, settings.remembered)
        self.features = len(corrector.offsets) * (family.vocab_size + 1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches, see the class."""
        number = self.start
        while True:
            memory = self.drawings.of_batch(number)
            generator = keyed_generator(self.settings.seed, "columns", self.rank, number)
            yield _choose(memory, self.settings.columns, generator)
            number += 1

    def _draw(self, number: int) -> dict[str, Tensor]:
        """Draw a batch of captions; the columns that were predicted twice."""
        settings = self.settings
        generator = keyed_generator(settings.seed, "captions", self.rank, number)
        total, wanted = len(next(iter(self.inputs.values()))), settings.batch
        rows = torch.randint(total, (wanted,), generator=generator)
        seeds = torch.randint(2**62, (wanted,), generator=generator).tolist()
        inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
        request = drawing_request(self.family, inputs, self.sampling)
        method = resolve(settings.decoding(), Companions(corrector=self.corrector))
        before: dict[int, _Predicted] = {}
        moves: list[dict[str, Tensor]] = []

        def watch(iteration: Iteration) -> None:
            state = iteration.state
            images = len(state.rows)
            log_p = target_log_probs(iteration.logits, state.rules)
            beside = neighbours(
                state.standing(),
                self.offsets,
                self.features,
                state.position,
                state.width,
                request.geometry.grammar,
            )
            hidden = iteration.hidden
            both = torch.cat((hidden[:images], hidden[-images:]), dim=-1)
            for at, row in enumerate(state.rows.tolist()):
                start = int(state.position[at])
                inside = min(state.width, request.geometry.length - start)
                now = _Predicted(start, log_p[at], both[at], beside[at])
                if row in before and inside > 0:
                    moves.append(before[row].moved_to(now, inside))
                before[row] = now

        decode(self.family, request, method, seeds, [OnIteration(watch)])
        found = {name: torch.cat([move[name] for move in moves]) for name in moves[0]}
        count = len(found["old"])
        if count > settings.kept:
            chosen = torch.randperm(count, generator=generator)[: settings.kept]
            found = {name: tensor[chosen] for name, tensor in found.items()}
        return found


@dataclass(frozen=True)
class _Predicted:
    """What a forward said of the columns of one row."""

    start: int  # picture position of the first
    log_p: Tensor  # [W, V]
    hidden: Tensor  # [W, 2 D']
    beside: Tensor  # int64 [W, O]

    def moved_to(self, later: _Predicted, columns: int) -> dict[str, Tensor]:
        """The first `columns` of a later forward whose neighbours are others than here."""
        source = torch.arange(columns, device=self.beside.device) + (later.start - self.start)
        # A column that has entered is drafted from the last one there was.
        source = source.clamp(max=len(self.log_p) - 1)
        old, new = self.beside[source], later.beside[:columns]
        changed = (old != new).any(dim=-1)
        return {
            "log_p": self.log_p[source][changed].half(),
            "hidden": self.hidden[source][changed],
            "target": later.log_p[:columns][changed].half(),
            "old": old[changed],
            "new": new[changed],
        }


def _choose(
    memory: Sequence[dict[str, Tensor]], columns: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """So many columns of all that are remembered, at random."""
    counts = [len(drawing["old"]) for drawing in memory]
    chosen = torch.randint(sum(counts), (columns,), generator=generator)
    parts = []
    for drawing, count in zip(memory, counts, strict=True):
        mine = chosen[(chosen >= 0) & (chosen < count)]
        parts.append({name: tensor[mine] for name, tensor in drawing.items()})
        chosen = chosen - count
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class MoveObjective(nn.Module):
    """The distance of corrected distributions from those of the next forward, as a loss.

    Args:
        family: the frozen model.
        corrector: what is trained.
        dropout: of the inner width; neighbours old and new lose the same.
    """

    def __init__(self, family: ImageModel, corrector: Corrector, dropout: float) -> None:
        super().__init__()
        self.corrector, self.dropout = corrector, dropout
        self.register_buffer("table", family.embedding_table().detach(), persistent=False)

    def forward(
        self, log_p: Tensor, hidden: Tensor, target: Tensor, old: Tensor, new: Tensor
    ) -> dict[str, Tensor]:
        """The loss of a batch of `Moves`, with the total variation before and after (0-dim)."""
        corrector = self.corrector
        features = corrector.features(self.get_buffer("table"))
        state = corrector.state(hidden.float())
        was, becomes = (activation(state, beside, features) for beside in (old, new))
        moved = F.dropout(becomes - was, self.dropout, self.training)
        log_q = torch.log_softmax(log_p.float() + corrector.shift(moved), dim=-1)
        target = target.float()
        p = target.exp()
        # Acceptance is one less the total variation; the divergence keeps gradients alive.
        variation = 0.5 * (p - log_q.exp()).abs().sum(dim=-1).mean()
        apart = p * (target.clamp(min=_LEAST) - log_q.clamp(min=_LEAST))
        return {
            "loss": 2 * variation + 0.5 * apart.sum(dim=-1).mean(),
            "total_variation": variation.detach(),
            "uncorrected": 0.5 * (p - log_p.float().exp()).abs().sum(dim=-1).mean(),
        }
