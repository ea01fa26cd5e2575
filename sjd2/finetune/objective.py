"""What is learned: to predict from noisy inputs what the model would predict from clean ones.

`WindowObjective` trains a gated adapter on windows met while decoding, towards the model's own
distribution behind the true tokens, which is what acceptance compares drafts with. Its loss is the
total variation: what is left to one is how often a draft is accepted. (A divergence wants all that
may come covered, so drafts get vague, and the model that learns to read them makes vaguer ones.)
`NextCleanToken`
is the paradigm of the paper: pictures under noise that rises and falls, and the cross entropy to
the clean next token at every position.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sjd2.companions.adapter import Adapter
from sjd2.finetune.packing import Windows, hidden_behind, packed_log_probs
from sjd2.kernels import noisy_embed
from sjd2.protocol import ImageModel, Prompt, Request
from sjd2.sampler.noise import table_statistics

_DROPPED = 10  # one caption in so many is left out, where guidance is used


class WindowObjective(nn.Module):
    """How often drafts of noisy slots are rejected: a module whose output is the loss.

    Args:
        family: the frozen model.
        adapter: what is trained.
        sampling: keyword arguments of `generate` beside a caption's own.
    """

    def __init__(self, family: ImageModel, adapter: Adapter, sampling: dict[str, Any]) -> None:
        super().__init__()
        self.adapter = adapter
        # In a tuple, so that the frozen model is no submodule and nobody trains or saves it.
        self.frozen = (family,)
        self.sampling = sampling

    def forward(
        self, inputs: dict[str, Tensor], tokens: Tensor, windows: Windows
    ) -> dict[str, Tensor]:
        """The loss of a batch of `Rollouts` (0-dim). Clean slots have nothing to learn."""
        (family,) = self.frozen
        request = drawing_request(family, inputs, self.sampling)
        predicted, truth = packed_log_probs(
            family,
            self.adapter,
            request.prompt,
            tokens,
            windows,
            request.sampling.guidance_scale,
        )
        variation = 0.5 * (truth.exp() - predicted.exp()).abs().sum(dim=-1)
        noisy = variation[windows.valid & (windows.timestep > 0)]
        return {"loss": noisy.sum() / _mean_count(noisy)}


def _mean_count(some: Tensor) -> Tensor:
    """How many entries a process has on average: sums divided by it average to the mean of all.

    Sync: with several processes, waits for the others.
    """
    count = torch.tensor(float(max(1, len(some))), device=some.device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count /= dist.get_world_size()
    return count


class NextCleanToken(nn.Module):
    """Cross entropy to the clean next token, whatever noise the inputs carry.

    Args:
        family: the model; `backbone` and heads are its own modules.
        adapter: acts where inputs are noisy, and tells the model how noisy.
        model: the transformers model where all of it is trained, else None.
        levels: float32 [K + 1], noise levels from clean to pure noise.
        sampling: keyword arguments of `generate` beside a caption's own.

    Source: arXiv 2510.08994, sections 4.1 and 4.3.
    """

    def __init__(
        self,
        family: ImageModel,
        adapter: Adapter,
        model: nn.Module | None,
        levels: Tensor,
        sampling: dict[str, Any],
    ) -> None:
        super().__init__()
        self.adapter, self.model = adapter, model
        self.family = (family,)
        self.register_buffer("levels", levels, persistent=False)
        self.sampling = sampling

    def forward(self, inputs: dict[str, Tensor], tokens: Tensor, seed: Tensor) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            inputs: of captions, batch first.
            tokens: int64 [B, N], their pictures.
            seed: int64 [B], of segments and noise.
        """
        (family,) = self.family
        levels = self.get_buffer("levels")
        prompt = self._prompt(family, inputs, seed)
        images, length = tokens.shape
        table = family.embedding_table()
        mean, std = table_statistics(table)
        steps = rising_noise(images, length - 1, len(levels) - 1, seed)
        timestep = levels[steps]
        fed = noisy_embed(
            tokens[:, :-1],
            table,
            timestep=timestep,
            mean=mean,
            std=std,
            time_embedding=self.adapter.time_embedding(timestep),
            seed=seed,
            position=torch.zeros_like(seed),
        )
        hidden = hidden_behind(family, self.adapter, prompt, fed, timestep > 0)
        logits = family.logits(hidden).float()
        return {"loss": cross_entropy(logits.flatten(0, 1), tokens.flatten())}

    def _prompt(self, family: ImageModel, inputs: dict[str, Tensor], seed: Tensor) -> Prompt:
        """Every caption, or for some of them what guidance knows of it: nothing."""
        both = drawing_request(family, inputs, self.sampling).prompt
        images = len(seed)
        if len(both.lengths) == images:
            return both
        dropped = (seed % _DROPPED == 0).long()
        rows = torch.arange(images, device=seed.device) + images * dropped
        return Prompt(both.embeddings[rows], both.lengths[rows], both.ids, both.pad_id)


def rising_noise(rows: int, length: int, steps: int, seed: Tensor) -> Tensor:
    """Steps to go of every token: segments of one level each, rising by one, at times reset to 0.

    Args:
        rows: pictures, B.
        length: tokens, N.
        steps: of pure noise, K.
        seed: int64 [B]; a row depends on its own alone.

    Returns:
        int64 [B, N] in 0..K, on the device of the seeds.
    """
    found = torch.empty(rows, length, dtype=torch.int64)
    for row, number in enumerate(seed.tolist()):
        generator = torch.Generator().manual_seed(number)
        draws = iter(torch.rand(2 * length + 2, generator=generator).tolist())
        # Teeth of all widths: a picture may hold one, or several.
        longest = max(1, round(2 * length / (steps + 1) * next(draws)))
        at = level = 0
        while at < length:
            size = 1 + int(longest * next(draws))
            found[row, at : at + size] = level
            at += size
            level = 0 if level == steps or next(draws) < 1 / (2 * steps) else level + 1
    return found.to(seed.device)


def drawing_request(
    family: ImageModel, inputs: dict[str, Tensor], sampling: dict[str, Any]
) -> Request:
    """The request that `generate` would make of these arguments.

    Raises:
        ValueError: they do not ask for a picture.
    """
    request = family.request(**inputs, **sampling)
    if request is None:
        raise ValueError("these arguments of generate draw no picture that sjd2 accelerates")
    return request
