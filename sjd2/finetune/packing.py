"""Many windows of one picture in one forward: each behind its own prefix, all against one truth.

A row of the batch is [prompt | picture | window | window | ...]. A window sees the prompt, the part
of the picture in front of it, and itself; the picture sees no window. So the clean positions give
the distribution that every window should have predicted, and prefixes are computed once for all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache

from sjd2.companions.adapter import Adapter
from sjd2.kernels.target.eager import guide
from sjd2.protocol import ImageModel, Prompt, positions_of


class Windows(NamedTuple):
    """Drafts as they were fed while decoding, `n` windows of `w` slots to a picture."""

    start: Tensor  # int64 [B, n], tokens committed before the window; slot s holds column start + s
    drafts: Tensor  # float [B, n, w, D], embeddings, noise included, time embedding not
    timestep: Tensor  # float32 [B, n, w], 0 where a draft is a token
    valid: Tensor  # bool [B, n, w], False behind the end of a picture


class _NoCache(Cache):
    """Attention sees what the forward at hand computes, and nothing is kept."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def packed_log_probs(
    family: ImageModel,
    adapter: Adapter,
    prompt: Prompt,
    tokens: Tensor,
    windows: Windows,
    guidance_scale: float,
) -> tuple[Tensor, Tensor]:
    """What windows predict, and what they should have predicted.

    Args:
        family: the model.
        adapter: acts where the windows' timestep is above zero.
        prompt: R = B rows, or 2 B with guidance.
        tokens: int64 [B, N], the pictures that the windows ended in.
        windows: of these pictures.
        guidance_scale: 1 where the prompt has no unconditional rows.

    Returns:
        Log-probabilities of the next column after every slot, [B, n, w, V] each: of the windows,
        and of the clean model behind the true tokens (without gradient). Where a window is not
        valid they mean nothing.
    """
    images, length = tokens.shape
    copies = len(prompt.lengths) // images
    width = windows.timestep.shape[2]
    timed = windows.drafts + adapter.time_embedding(windows.timestep)
    drafts = torch.where(windows.timestep.unsqueeze(-1) > 0, timed, windows.drafts)
    # The last token is fed nowhere: nothing follows it.
    picture = family.embedding_table()[tokens[:, :-1]]
    behind = torch.cat((picture, drafts.flatten(1, 2).to(picture.dtype)), dim=1)
    embeddings = torch.cat((prompt.embeddings, behind.repeat(copies, 1, 1)), dim=1)

    start = windows.start.repeat(copies, 1)
    positions, mask = _layout(prompt, length - 1, start, width)
    first = prompt.embeddings.shape[1]
    noisy = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=tokens.device)
    noisy[:, first + length - 1 :] = (windows.timestep > 0).flatten(1).repeat(copies, 1)
    with adapter.attached(family.backbone) as gate:
        gate.noisy = noisy
        places = positions_of(prompt.positions, positions)
        hidden = family.hidden(embeddings, places, mask, _NoCache())

    clean, guessed = hidden[:, first : first + length - 1], hidden[:, first + length - 1 :]
    with torch.no_grad():
        # Entry c is the distribution of column c + 1, and a slot of column c predicts that one too.
        truth = guide(family.logits(clean), guidance_scale).log_softmax(dim=-1)
        column = windows.start.unsqueeze(-1) + torch.arange(width, device=tokens.device)
        rows = torch.arange(images, device=tokens.device)[:, None, None]
        truth = truth[rows, column.clamp(max=length - 2)]
    predicted = guide(family.logits(guessed), guidance_scale).log_softmax(dim=-1)
    return predicted.view(truth.shape), truth


def hidden_behind(
    family: ImageModel, adapter: Adapter, prompt: Prompt, fed: Tensor, noisy: Tensor
) -> Tensor:
    """Last hidden states that predict every token of a picture, from one plain forward.

    Args:
        family: the model.
        adapter: acts where inputs are noisy.
        prompt: R rows.
        fed: [R, N - 1, D], embeddings of all tokens but the last.
        noisy: bool [R, N - 1].

    Returns:
        [R, N, D'].
    """
    rows, length, _ = fed.shape
    first = prompt.embeddings.shape[1]
    no_windows = torch.zeros(rows, 0, dtype=torch.int64, device=fed.device)
    positions, mask = _layout(prompt, length, no_windows, 0)
    embeddings = torch.cat((prompt.embeddings, fed), dim=1)
    with adapter.attached(family.backbone) as gate:
        gate.noisy = torch.nn.functional.pad(noisy, (first, 0))
        places = positions_of(prompt.positions, positions)
        hidden = family.hidden(embeddings, places, mask, _NoCache())
    every = torch.arange(rows, device=fed.device)
    last = hidden[every, prompt.lengths - 1].unsqueeze(1)
    return torch.cat((last, hidden[:, first:]), dim=1)


def _layout(prompt: Prompt, length: int, start: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Positions [R, S] and mask [R, 1, S, S] of [prompt | picture | windows]."""
    device, (rows, count) = prompt.lengths.device, start.shape
    first = prompt.embeddings.shape[1]
    drawn = torch.arange(length, device=device)
    slots = start.unsqueeze(-1) + torch.arange(width, device=device)
    before = prompt.lengths[:, None]
    positions = torch.cat(
        (
            torch.arange(first, device=device).expand(rows, -1),
            before + drawn,
            before + slots.flatten(1),
        ),
        dim=1,
    )
    size = positions.shape[1]
    index = torch.arange(size, device=device)
    causal = index <= index[:, None]
    # Which part an entry belongs to: 0 prompt, 1 picture, 2, 3, ... windows.
    part = torch.cat(
        (
            torch.zeros_like(index[:first]),
            torch.ones_like(drawn),
            2 + torch.arange(count, device=device).repeat_interleave(width),
        )
    )
    own = (part == part[:, None]) & (part > 0)
    in_prompt = (part == 0) & (index < before)
    # The picture sees all of the picture before it, a window sees it up to its start.
    limit = torch.full((rows, size), length, device=device)
    limit[:, first + length :] = start.repeat_interleave(width, dim=1)
    in_picture = (part == 1) & (index - first < limit.unsqueeze(-1))
    mask = causal & (in_prompt.unsqueeze(1) | own | in_picture)
    return positions, mask.unsqueeze(1)
