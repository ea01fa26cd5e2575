"""`activate_window` and `correct_window`: drafts moved beside their new neighbours."""

from __future__ import annotations

from torch import Tensor

from sjd2.kernels._dispatch import implementation
from sjd2.kernels.types import Rules, Shifts, Window


def activate_window(
    state: Tensor,
    tokens: Tensor,
    shifts: Shifts,
    *,
    position: Tensor,
    grammar: Tensor | None = None,
) -> Tensor:
    """The inner layer of a corrector: `silu(state + sum of the neighbours' features)`.

    Args:
        state: float32 [B, W, r], what the hidden states of every column add.
        tokens: int64 [B, L], what stands at every picture position.
        shifts: weights of the corrector.
        position: int64 [B], picture position of column 0.
        grammar: int64 [length] or None; a forced token counts as no neighbour.

    Returns:
        float32 [B, W, r].

    Sync: none.
    Reference: `kernels/correct_window/eager.py`.
    """
    activated: Tensor = implementation(state.device).activate_window(
        state, tokens, shifts, position=position, grammar=grammar
    )
    return activated


def correct_window(
    window: Window,
    scored: Window,
    state: Tensor,
    seen: Tensor,
    tokens: Tensor,
    shifts: Shifts,
    rules: Rules,
    *,
    seed: Tensor,
    position: Tensor,
    iteration: int,
    begun: Tensor | None = None,
    correction: int,
    grammar: Tensor | None = None,
) -> Window:
    """Move every free draft to its corrected distribution, by maximal coupling or with same-seed
    noise.

    With log-probabilities `log p` of the forward that is over, that of a column is

        q' = softmax(log p + (activation beside its neighbours now - seen) @ output^T).

    Args:
        window: B x W drafts, and the distributions that they have at present.
        scored: the window as `verify_window` left it: its distributions are `p`, of W' columns.
        state: float32 [B, W', r], what the hidden states of that forward add.
        seen: float32 [B, W', r], `activate_window` beside the neighbours that were fed.
        tokens: int64 [B, L], what stands at every picture position, drafts included.
        shifts: weights of the corrector.
        rules: those that `scored` was made by.
        seed: int64 [B], one per picture.
        position: int64 [B], picture position of column 0.
        iteration: number of the forward, below 2^20.
        begun: as for `verify_window`.
        correction: which of this iteration, from 1; each is random afresh under "ratio".
        grammar: int64 [length] or None; forced tokens are left where they are.

    Returns:
        The window with new drafts and their distributions, [B, W, V].

    RNG: counter-addressed Philox, the streams of `verify_window` at iterations that it never has.
    Sync: none on a GPU.
    Reference: `kernels/correct_window/eager.py`.
    """
    corrected: Window = implementation(seed.device).correct_window(
        window,
        scored,
        state,
        seen,
        tokens,
        shifts,
        rules,
        seed=seed,
        position=position,
        iteration=iteration,
        begun=begun,
        correction=correction,
        grammar=grammar,
    )
    return corrected
