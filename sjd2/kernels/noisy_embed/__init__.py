"""`noisy_embed` and `denoise_step`: token embeddings mixed with noise, and denoised."""

from __future__ import annotations

from torch import Tensor

from sjd2.kernels._dispatch import implementation


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
    """Embed tokens, mixed with Gaussian noise where their timestep is above zero.

    In normalised space, `e = (table[token] - mean) / std`, a slot at timestep `t` becomes
    `(1 - t) e + t eps`, and is denormalised again. Clean slots are bitwise rows of the table.

    Args:
        tokens: int64 [B, W].
        table: [V, D], the input embedding of every image token.
        timestep: float [B, W] in [0, 1], 1 = pure noise; None where everything is clean.
        mean: [D], of the table's rows. Needed with `timestep`, as are `std`, `seed`, `position`.
        std: [D], of the table's rows.
        time_embedding: [B, W, D], added to noisy slots only.
        seed: int64 [B], one per picture.
        position: int64 [B], picture position of slot 0.
        copies: 2 writes the batch twice, [conditional; unconditional].

    Returns:
        [copies * B, W, D], the table's dtype.

    Raises:
        ValueError: `timestep` is given without what the noise needs.

    RNG: counter-addressed Philox, stream EMBED, one normal number per (position, dimension).
    Sync: none.
    Reference: `kernels/noisy_embed/eager.py`.
    Source: arXiv 2510.08994, section 3.
    """
    embeddings: Tensor = implementation(table.device).noisy_embed(
        tokens,
        table,
        timestep=timestep,
        mean=mean,
        std=std,
        time_embedding=time_embedding,
        seed=seed,
        position=position,
        copies=copies,
    )
    return embeddings


def denoise_step(
    embeddings: Tensor, clean: Tensor, timestep: Tensor, next_timestep: Tensor
) -> Tensor:
    """One deterministic step of every slot from its noise level towards its predicted embedding.

    `e <- (t'/t) e + (1 - t'/t) e0`; it holds at t = 1 and ends at exactly `e0` where t' = 0.

    Args:
        embeddings: float [B, W, D], normalised, at level `timestep`.
        clean: float [B, W, D], the normalised embedding of the predicted clean token.
        timestep: float [B, W] in [0, 1]. A slot at 0 is clean already and becomes `clean`.
        next_timestep: float [B, W], in [0, timestep].

    Returns:
        [B, W, D], dtype of `embeddings`.

    Sync: none.
    Reference: `kernels/noisy_embed/eager.py`.
    Source: arXiv 2510.08994, section 3.
    """
    denoised: Tensor = implementation(embeddings.device).denoise_step(
        embeddings, clean, timestep, next_timestep
    )
    return denoised
