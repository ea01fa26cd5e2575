"""Eager twins of `noisy_embed` and `denoise_step`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sjd2.kernels import philox
from sjd2.kernels.philox import Stream


def noisy_embed(
    tokens: Tensor,
    table: Tensor,
    *,
    timestep: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    time_embedding: Tensor | None = None,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    copies: int = 1,
) -> Tensor:
    """Eager twin of `sjd2.kernels.noisy_embed`; see there for the arguments."""
    embeddings = table[tokens]
    if timestep is not None:
        if mean is None or std is None or seed is None or position is None:
            raise ValueError("timestep is given: mean, std, seed and position are needed with it")
        level = timestep.unsqueeze(-1).float()
        clean = (embeddings.float() - mean) / std
        noise = _normal(seed, position, tokens.shape[1], table.shape[1])
        noisy = std * ((1 - level) * clean + level * noise) + mean
        if time_embedding is not None:
            noisy = noisy + time_embedding
        embeddings = torch.where(level > 0, noisy.to(table.dtype), embeddings)
    return embeddings.repeat(copies, 1, 1)


def denoise_step(
    embeddings: Tensor, clean: Tensor, timestep: Tensor, next_timestep: Tensor
) -> Tensor:
    """Eager twin of `sjd2.kernels.denoise_step`; see there for the arguments."""
    kept = torch.where(timestep > 0, next_timestep / timestep, 0.0).unsqueeze(-1)
    mixed = kept * embeddings.float() + (1 - kept) * clean.float()
    return torch.where(kept > 0, mixed.to(embeddings.dtype), clean)


def _normal(seed: Tensor, position: Tensor, width: int, dimensions: int) -> Tensor:
    """Standard normal numbers by Box-Muller, one per (slot, dimension): float32 [B, W, D]."""
    positions = position[:, None] + torch.arange(width, device=position.device)
    seeds = seed[:, None].expand_as(positions)
    pairs = (dimensions + 1) // 2
    u = philox.uniform(seeds, positions, 0, Stream.EMBED, 2 * pairs)
    radius, angle = (-2 * u[..., 0::2].log()).sqrt(), 2 * math.pi * u[..., 1::2]
    normal = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return normal.flatten(-2)[..., :dimensions]
