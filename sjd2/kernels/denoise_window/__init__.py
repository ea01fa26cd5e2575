"""`denoise_window` and `embed_window`: drafts on their way from noise to tokens, and as input."""

from __future__ import annotations

from torch import Tensor

from sjd2.kernels._dispatch import implementation
from sjd2.kernels.types import Noise


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
    """Slide with the window and take a denoising step: what the next window's drafts are like.

    A draft that was in the window has a step fewer to go, and moves from its noise level to the
    next by `denoise_step`, towards the token that now stands there; one that enters has K, and is
    `noisy_embed` at that level. None has more steps to go than its column allows, and a token that
    the grammar forces has none. A draft without steps to go is bitwise its row of the table.

    Args:
        embeddings: [B, W, D] of the last window's drafts, the table's dtype.
        steps: int64 [B, W], what they had to go.
        tokens: int64 [B, W'], the drafts of the next window, W' at most `len(noise.most)`.
        noise: of the method.
        table: [V, D], the input embedding of every image token.
        accept_length: int64 [B], columns that the window slides by, 1 to W.
        seed: int64 [B], one per picture.
        position: int64 [B], picture position of the next window's column 0.
        grammar: int64 [length] or None, the forced token of every position, -1 where free.

    Returns:
        Embeddings [B, W', D] and steps int64 [B, W'].

    RNG: counter-addressed Philox, stream EMBED: a position's noise is that of its seed, for good.
    Sync: none.
    Reference: `kernels/denoise_window/eager.py`.
    Source: arXiv 2510.08994, section 3.
    """
    denoised: tuple[Tensor, Tensor] = implementation(table.device).denoise_window(
        embeddings,
        steps,
        tokens,
        noise,
        table,
        accept_length=accept_length,
        seed=seed,
        position=position,
        grammar=grammar,
    )
    return denoised


def embed_window(
    slots: Tensor,
    embeddings: Tensor,
    steps: Tensor,
    noise: Noise,
    table: Tensor,
    *,
    copies: int = 1,
) -> tuple[Tensor, Tensor]:
    """What the slots of a window are fed: tokens, and drafts that are noise still.

    Args:
        slots: int64 [B, W], the last committed token and the drafts of all columns but the last.
        embeddings: [B, W, D], of the drafts of all columns; slot `j + 1` is column `j`.
        steps: int64 [B, W], what they have to go.
        noise: of the method; noisy slots are told theirs by `noise.times`.
        table: [V, D], the input embedding of every image token.
        copies: 2 writes the batch twice, [conditional; unconditional].

    Returns:
        [copies * B, W, D] in the table's dtype, and whether each slot is noise: bool
        [copies * B, W].

    Sync: none.
    Reference: `kernels/denoise_window/eager.py`.
    """
    fed: tuple[Tensor, Tensor] = implementation(table.device).embed_window(
        slots, embeddings, steps, noise, table, copies=copies
    )
    return fed
