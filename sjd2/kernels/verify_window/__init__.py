"""`first_window` and `verify_window`: from logits and drafts to committed tokens and new drafts."""

from __future__ import annotations

from torch import Tensor

from sjd2.kernels._dispatch import implementation
from sjd2.kernels.types import Rules, Verdict, Window


def verify_window(
    logits: Tensor,
    window: Window,
    rules: Rules,
    *,
    seed: Tensor,
    position: Tensor,
    iteration: int,
    begun: Tensor | None = None,
    length: int,
    grammar: Tensor | None = None,
    noisy: Tensor | None = None,
    next_width: int | None = None,
) -> Verdict:
    """Decide every column of a batch of windows and slide each by its own accept length.

    Committed tokens follow the target distribution of `logits` exactly, whatever the drafts were,
    provided that each draft was drawn from the distribution that `window` holds for it.

    Args:
        logits: [R, W, V], any float dtype; slot `j`'s logits predict picture position
            `position + j`. R = B, or 2 B with guidance, conditional rows first.
        window: the drafts of the B x W columns and their distributions.
        rules: guidance, temperature, top-k, top-p, verification, coupling, start.
        seed: int64 [B], one per picture.
        position: int64 [B], picture position of column 0, in [0, length].
        iteration: number of this forward, from 1; makes fresh randomness under "ratio".
        begun: int64 [B] or None; iterations that were over when each row's picture began, for a
            picture counts its own. None is 0.
        length: tokens in a picture. Columns at or beyond it are never committed.
        grammar: int64 [length] or None; forced tokens, -1 where a position is free.
        noisy: bool [B, W] or None; slots that were fed noise. Columns from the first of them on
            are not committed, since they were predicted behind something that is no token.
        next_width: columns of the next window, W or more; None is W.

    Returns:
        `Verdict`: accept lengths in [1, W] (0 for a finished row), tokens, the next window.

    Raises:
        ValueError: a `next_width` below W.

    RNG: counter-addressed Philox, streams DRAFT, ACCEPT and RESIDUAL; no global generator.
    Sync: none on a GPU.
    Reference: `kernels/verify_window/eager.py`.
    Source: Leviathan et al. 2023 (criterion); Teng et al. 2024, arXiv 2410.01699 (SJD); maximal
        coupling of the unaccepted drafts as described in arXiv 2510.08994 and its peers.
    """
    if next_width is not None and next_width < logits.shape[1]:
        raise ValueError(f"next_width={next_width}: must be at least W={logits.shape[1]}")
    verdict: Verdict = implementation(logits.device).verify_window(
        logits,
        window,
        rules,
        seed=seed,
        position=position,
        iteration=iteration,
        begun=begun,
        length=length,
        grammar=grammar,
        noisy=noisy,
        next_width=next_width,
    )
    return verdict


def first_window(
    seed: Tensor, width: int, vocab_size: int, *, grammar: Tensor | None = None
) -> Window:
    """The window that a picture starts with: uniform drafts, forced tokens in their places.

    Args:
        seed: int64 [B], one per picture.
        width: columns, at least 1.
        vocab_size: image tokens.
        grammar: int64 [length] or None; forced tokens, -1 where a position is free.

    RNG: counter-addressed Philox, stream DRAFT at iteration 0.
    Sync: none.
    Reference: `kernels/verify_window/eager.py`.
    """
    window: Window = implementation(seed.device).first_window(
        seed, width, vocab_size, grammar=grammar
    )
    return window
