"""Corrections: drafts re-drafted between forwards, beside the neighbours that they have by then."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

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
        """The verdict of an iteration that was committed, with another next window."""
        state, scored = now.state, now.verdict.window
        shared: dict[str, Any] = {"rows": state.rows, "grammar": self.grammar}
        added = self.corrector.read(now.hidden, len(state.rows))
        seen = activate_window(
            added,
            state.tokens,
            self.shifts,
            position=state.position - now.verdict.accept_length,
            window=state.window,
            **shared,
        )

        def corrected(window: Window, scored: Window, at: Tensor, correction: int) -> Window:
            return correct_window(
                window,
                scored,
                added,
                seen,
                state.tokens,
                self.shifts,
                self.rules,
                seed=state.seed,
                position=at,
                **state.when,
                correction=correction,
                **shared,
            )

        window = scored
        if self.passes == "sweep":
            columns = []
            for number, column in enumerate(scored.split()):
                at = state.position + number
                columns.append(corrected(column, column, at, 1))
                # Behind what is committed the pictures hold nothing: room for its neighbours to be.
                state.tokens[state.rows, at] = columns[-1].tokens[:, 0]
            window = Window.join(scored.slots[:, :1], columns)
        else:
            for number in range(self.passes):
                window = corrected(window, scored, state.position, number + 1)
        return now.verdict._replace(window=window)
