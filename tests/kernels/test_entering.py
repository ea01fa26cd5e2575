"""Columns that enter the window behind its last one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sjd2.kernels import DraftKind, Rules, first_window, verify_window
from sjd2.kernels.philox import Stream
from sjd2.kernels.verify_window.eager import PhiloxDraws
from tests.statistics import pearson, strays

ROWS, VOCAB = 100_000, 4
SEED = torch.arange(ROWS)
AT = {"seed": SEED, "position": torch.zeros_like(SEED), "iteration": 1, "length": 20}
# What is redrawn where a draft goes is between two tokens: noise that it shares can show.
LOGITS = torch.tensor([[2.0, 2.0, 0.0, 0.0], [0.5, 1.6, 2.0, -1.0]])


def off(sharper: float = 1.0) -> tuple[float, float]:
    """How far newcomers are from their distribution, and from independent of what was decided.

    `sharper` is a factor of the logits that they are drawn from.
    """
    window = first_window(SEED, 2, VOCAB)
    logits = LOGITS * torch.tensor([[1.0], [sharper]])
    verdict = verify_window(logits.expand(ROWS, -1, -1), window, Rules(), **AT, next_width=4)
    # Two columns stay or go, so the last two of four are new in every row.
    entered = verdict.window.tokens[:, 2:]
    assert (verdict.window.kinds[:, 2:] == DraftKind.FULL).all()
    target = LOGITS[1].softmax(-1).double()
    joint = torch.bincount(entered[:, 0] * VOCAB + entered[:, 1], minlength=VOCAB**2)
    drawn = pearson(joint, ROWS * (target[:, None] * target).flatten(), sees=0.033)
    dependent = []
    for column in range(2):
        decided = verdict.tokens[:, column]
        for token in (0, 2):
            given = entered[decided == token, 0]
            share = (given == 2).double().mean()
            error = (target[2] * (1 - target[2]) / len(given)) ** 0.5
            dependent.append(strays(share, target[2], error, sees=0.055))
    return drawn, max(dependent)


def test_newcomers_follow_the_distribution_of_the_last_column_independently() -> None:
    """Kills: the distribution of another column; one draw for all that enter; noise that a column
    shares with the draft it had.
    """
    assert max(off()) < 1


def test_newcomers_that_are_a_little_off_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power of the test above.

    Kills: shares of so few rows that everything is independent.
    """
    drawn, _ = off(sharper=1.05)
    assert drawn > 1
    choose = PhiloxDraws.choose

    def shared(
        self: PhiloxDraws, weights: Tensor, rows: Tensor, cols: Tensor, of: Stream
    ) -> Tensor:
        # In one row of three, with every column's.
        return choose(self, weights, rows, torch.where(rows % 3 == 0, 0, cols), Stream.DRAFT)

    monkeypatch.setattr(PhiloxDraws, "choose", shared)
    drawn, dependent = off()
    assert drawn > 1
    assert dependent > 1


def test_beside_a_forced_token_only_that_token_enters() -> None:
    """Kills: a distribution computed from logits in a column that the grammar forces."""
    grammar = torch.full((20,), -1)
    grammar[1] = 3
    window = first_window(SEED[:9], 2, VOCAB, grammar=grammar)
    at = AT | {"seed": SEED[:9], "position": torch.zeros(9, dtype=torch.int64)}
    logits = LOGITS.expand(9, -1, -1)
    after = verify_window(logits, window, Rules(), **at, grammar=grammar, next_width=5).window
    assert (after.tokens[:, 2:] == 3).all()
    assert (after.kinds[:, 2:] == DraftKind.ONEHOT).all()


def test_next_width_below_the_width_is_refused() -> None:
    """Kills: columns dropped without their tokens having been committed."""
    window = first_window(SEED[:9], 2, VOCAB)
    with pytest.raises(ValueError, match="next_width=1: must be at least W=2"):
        verify_window(LOGITS.expand(9, -1, -1), window, Rules(), **AT, next_width=1)
