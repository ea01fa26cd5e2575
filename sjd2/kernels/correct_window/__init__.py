"""`activate_window` and `correct_window`: re-drawing drafts given their new neighbours."""

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
    rows: Tensor | None = None,
    window: Window | None = None,
    grammar: Tensor | None = None,
) -> Tensor:
    """The hidden layer of a corrector: `silu(state + sum of the neighbours' features)`.

    Args:
        state: float32 [B, W, r], the contribution of every column's hidden state.
        tokens: int64 [B', L], the token at every picture position.
        shifts: weights of the corrector.
        position: int64 [B], picture position of column 0.
        rows: int64 [B], the row of `tokens` of each picture; None: its own.
        window: its drafts stand from column 0 on, instead of what `tokens` say; None: these.
        grammar: int64 [length] or None; a forced token counts as no neighbour.

    Returns:
        float32 [B, W, r].

    Sync: none.
    Reference: `kernels/correct_window/eager.py`.
    """
    activated: Tensor = implementation(state.device).activate_window(
        state, tokens, shifts, position=position, rows=rows, window=window, grammar=grammar
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
    rows: Tensor | None = None,
    grammar: Tensor | None = None,
) -> Window:
    """Re-draw every free draft from its corrected distribution, coupled to what it is now.

    With the log-probabilities `log p` of the last forward, that of a column is

        q' = softmax(log p + (activation given its present neighbours - seen) @ output^T).

    Under "ratio" the coupling is maximal; in same-seed mode the fixed noise picks from q'.

    Args:
        window: B x W drafts and the distributions that they were drawn from.
        scored: the window that `verify_window` returned: its distributions are `p`, of W' columns.
        state: float32 [B, W', r], the contribution of that forward's hidden states.
        seen: float32 [B, W', r], `activate_window` given the neighbours that were fed.
        tokens: int64 [B', L], the token at every picture position before the window, whose drafts
            are neighbours as well.
        shifts: weights of the corrector.
        rules: those of the `verify_window` that returned `scored`.
        seed: int64 [B], one per picture.
        position: int64 [B], picture position of column 0.
        iteration: number of the forward, below 2^20.
        begun: as for `verify_window`.
        correction: its number within this iteration, from 1; addresses fresh randomness under
            "ratio".
        rows: int64 [B], the row of `tokens` of each picture; None: its own.
        grammar: int64 [length] or None; forced tokens stay.

    Returns:
        The window with new drafts and their distributions, [B, W, V].

    RNG: counter-addressed Philox, the streams of `verify_window` at other iteration numbers.
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
        rows=rows,
        grammar=grammar,
    )
    return corrected
