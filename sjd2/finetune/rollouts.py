"""Windows to learn from, as the model meets them: it draws captions, and is watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from sjd2.checkpoint import keyed_generator
from sjd2.companions import Companions
from sjd2.companions.adapter import Adapter
from sjd2.config import DecodingConfig
from sjd2.finetune.memory import Drawings
from sjd2.finetune.objective import drawing_request
from sjd2.finetune.packing import Windows
from sjd2.protocol import ImageModel
from sjd2.sampler import decode, resolve
from sjd2.sampler.noise import NoisyDrafts
from sjd2.sampler.watchers import Iteration, OnIteration

Inputs = dict[str, Tensor]  # what `generate` takes, one row of it


class Rollouts(IterableDataset[dict[str, Any]]):
    """An endless stream of batches: prompts, pictures drawn from them, windows fed on the way.

    Args:
        family: the model that draws.
        adapter: with which it draws; as it learns, its windows change.
        inputs: keyword arguments of `generate`, batch first, of every caption.
        sampling: further keyword arguments of `generate`.
        config: how to draw.
        batch: captions drawn together, the rows of a batch.
        windows: of each picture in a batch.
        reuse: batches made of the same pictures, each of other windows.
        seed: of the captions' order, the pictures and the choice of windows.
        rank: of this process; each draws captions of its own.

    Attributes:
        start: batches to leave out, for a run that goes on.
        drawings: that batches are made of.
    """

    def __init__(
        self,
        family: ImageModel,
        adapter: Adapter,
        inputs: Inputs,
        sampling: dict[str, Any],
        config: DecodingConfig,
        batch: int,
        windows: int,
        reuse: int,
        seed: int,
        rank: int = 0,
    ) -> None:
        self.family, self.adapter, self.config = family, adapter, config
        self.inputs, self.sampling = inputs, sampling
        self.batch, self.windows = batch, windows
        self.seed, self.rank, self.start = seed, rank, 0
        self.drawings = Drawings(adapter, self._draw, reuse)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Dicts of "inputs", "tokens" and "windows"."""
        number = self.start
        while True:
            ((inputs, tokens, fed),) = self.drawings.of_batch(number)
            generator = keyed_generator(self.seed, "windows", self.rank, number)
            yield {"inputs": inputs, "tokens": tokens, "windows": self._choose(fed, generator)}
            number += 1

    def _draw(self, number: int) -> tuple[Inputs, Tensor, list[list[_FedWindow]]]:
        """Draw a batch of captions; the windows of each picture in the order they were fed."""
        generator = keyed_generator(self.seed, "captions", self.rank, number)
        total, wanted = len(next(iter(self.inputs.values()))), self.batch
        rows = torch.randint(total, (wanted,), generator=generator)
        seeds = torch.randint(2**62, (wanted,), generator=generator).tolist()
        inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
        request = drawing_request(self.family, inputs, self.sampling)
        fed: list[list[_FedWindow]] = [[] for _ in range(wanted)]

        def watch(iteration: Iteration) -> None:
            state, noise = iteration.state, iteration.state.drafts
            assert isinstance(noise, NoisyDrafts)
            for at, row in enumerate(state.rows.tolist()):
                # The last draft is fed in no slot, and behind the last token nothing is predicted.
                start = int(state.position[at])
                count = min(state.width - 1, request.geometry.length - 1 - start)
                if count > 0:
                    slots = (at, slice(count))
                    fed[row].append(
                        _FedWindow(start, noise.embeddings[slots], noise.timestep[slots])
                    )

        method = resolve(self.config, Companions(adapter=self.adapter))
        tokens, _ = decode(self.family, request, method, seeds, [OnIteration(watch)])
        return inputs, tokens, fed

    def _choose(self, fed: Sequence[Sequence[_FedWindow]], generator: torch.Generator) -> Windows:
        """`windows` of each picture, at random."""
        count = self.windows
        chosen = [
            [some[int(i)] for i in torch.randint(len(some), (count,), generator=generator)]
            for some in fed
        ]
        width = max(len(one.timestep) for some in chosen for one in some)
        like = chosen[0][0].drafts
        drafts = like.new_zeros(len(fed), count, width, like.shape[-1])
        timestep = torch.zeros(len(fed), count, width, device=like.device)
        valid = torch.zeros_like(timestep, dtype=torch.bool)
        start = torch.zeros(len(fed), count, dtype=torch.int64, device=like.device)
        for row, some in enumerate(chosen):
            for at, one in enumerate(some):
                end = len(one.timestep)
                start[row, at] = one.start
                drafts[row, at, :end], timestep[row, at, :end] = one.drafts, one.timestep
                valid[row, at, :end] = True
        return Windows(start, drafts, timestep, valid)


@dataclass(frozen=True)
class _FedWindow:
    """A window as it was fed."""

    start: int
    drafts: Tensor  # [w, D]
    timestep: Tensor  # [w]
