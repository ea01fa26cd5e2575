"""Corrections: drafts re-drafted between forwards, beside the neighbours that they have by then."""

from __future__ import annotations

from typing import Literal

import torch

from sjd2.companions.corrector import Corrector
from sjd2.kernels import Verdict, Window, activate_window, correct_window
from sjd2.sampler.state import DecodingState
from sjd2.sampler.watchers import Iteration


class Correction:
    """Moves the drafts of every next window to distributions that know their new neighbours.

    Args:
        state: of the call.
        corrector: guesses these distributions.
        passes: over all columns at once, or "sweep": one column after another, from the left.
    """

    READ_BY_ITERATIONS = ("shifts", "grammar")

    def __init__(
        self, state: DecodingState, corrector: Corrector, passes: int | Literal["sweep"]
    ) -> None:
        self.corrector, self.passes = corrector, passes
        self.rules, self.grammar = state.rules, state.geometry.grammar
        self.shifts = corrector.shifts(state.table)

    def correct(self, now: Iteration) -> Verdict:
        """The verdict of an iteration, with another next window."""
        state, verdict = now.state, now.verdict
        scored, tokens = verdict.window, state.standing()
        added = self.corrector.read(now.hidden, len(state.rows))
        seen = activate_window(
            added,
            tokens,
            self.shifts,
            position=state.position,
            grammar=self.grammar,
        )
        position = state.position + verdict.accept_length
        columns = position[:, None] + torch.arange(scored.width, device=position.device)
        tokens.scatter_(1, state.columns(), verdict.tokens).scatter_(1, columns, scored.tokens)

        def corrected(window: Window, scored: Window, first: int, correction: int) -> Window:
            at = columns[:, first : first + window.width]
            window = correct_window(
                window,
                scored,
                added,
                seen,
                tokens,
                self.shifts,
                self.rules,
                seed=state.seed,
                position=at[:, 0],
                **state.when,
                correction=correction,
                grammar=self.grammar,
            )
            tokens.scatter_(1, at, window.tokens)
            return window

        window = scored
        if self.passes == "sweep":
            alone = [corrected(one, one, first, 1) for first, one in enumerate(scored.split())]
            return verdict._replace(window=Window.join(scored.slots[:, :1], alone))
        for number in range(self.passes):
            window = corrected(window, scored, 0, number + 1)
        return verdict._replace(window=window)
