"""Eager twins of `denoise_window` and `embed_window`."""

from __future__ import annotations

import torch
from torch import Tensor

from sjd2.kernels.noisy_embed.eager import denoise_step, noisy_embed
from sjd2.kernels.types import Noise
from sjd2.kernels.verify_window.eager import grammar_at


def denoise_window(
    embeddings: Tensor,
    steps: Tensor,
    tokens: Tensor,
    noise: Noise,
    table: Tensor,
    *,
    accept_length: Tensor,
    seed: Tensor,
    position: Tensor,
    grammar: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Eager twin of `sjd2.kernels.denoise_window`; see there for the arguments."""
    images, width = tokens.shape
    source = torch.arange(width, device=tokens.device) + accept_length[:, None]
    is_new = source >= steps.shape[1]
    old = source.clamp(max=steps.shape[1] - 1)
    before = steps.gather(1, old)
    after = torch.where(is_new, len(noise.levels) - 1, (before - 1).clamp(min=0))
    after = after.minimum(noise.most[:width])
    if grammar is not None:
        after = after.masked_fill(grammar_at(grammar, position, width) >= 0, 0)
    refined = denoise_step(
        embeddings[torch.arange(images, device=tokens.device)[:, None], old],
        table[tokens],
        noise.levels[before.masked_fill(is_new, 0)],
        noise.levels[after.masked_fill(is_new, 0)],
    )
    entering = noisy_embed(
        tokens,
        table,
        timestep=noise.levels[after],
        mean=noise.mean,
        std=noise.std,
        seed=seed,
        position=position,
    )
    return torch.where(is_new.unsqueeze(-1), entering, refined), after


def embed_window(
    slots: Tensor,
    embeddings: Tensor,
    steps: Tensor,
    noise: Noise,
    table: Tensor,
    *,
    copies: int = 1,
) -> tuple[Tensor, Tensor]:
    """Eager twin of `sjd2.kernels.embed_window`; see there for the arguments."""
    drafts, to_go = embeddings[:, :-1], steps[:, :-1]
    timed = (drafts + noise.times[to_go]).to(table.dtype)
    noisy = torch.cat((torch.zeros_like(slots[:, :1]), to_go), dim=1) > 0
    behind = torch.cat((table[slots[:, :1]], timed), dim=1)
    fed = torch.where(noisy.unsqueeze(-1), behind, table[slots])
    return fed.repeat(copies, 1, 1), noisy.repeat(copies, 1)
