"""Columns that enter the window behind its last one."""

from __future__ import annotations

import pytest
import torch

from sjd2.kernels import DraftKind, Rules, first_window, verify_window
from tests.statistics import ERRORS, threshold

ROWS, VOCAB = 200_000, 4
SEED = torch.arange(ROWS)
AT = {"seed": SEED, "position": torch.zeros_like(SEED), "iteration": 1, "length": 20}
LOGITS = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, -1.0]])


def test_newcomers_follow_the_distribution_of_the_last_column_independently() -> None:
    """Kills: the distribution of another column; one draw for all that enter; noise that a column
    shares with the draft it had.
    """
    window = first_window(SEED, 2, VOCAB)
    verdict = verify_window(LOGITS.expand(ROWS, -1, -1), window, Rules(), **AT, next_width=4)
    # Two columns stay or go, so the last two of four are new in every row.
    entered = verdict.window.tokens[:, 2:]
    assert (verdict.window.kinds[:, 2:] == DraftKind.FULL).all()
    target = LOGITS[1].softmax(-1).double()
    joint = torch.bincount(entered[:, 0] * VOCAB + entered[:, 1], minlength=VOCAB**2)
    expected = ROWS * (target[:, None] * target).flatten()
    statistic = float(((joint - expected) ** 2 / expected).sum())
    assert statistic < threshold(15)
    for column in range(2):
        decided = verdict.tokens[:, column]
        for token in (0, 2):
            given = entered[decided == token, 0]
            share = (given == 2).double().mean()
            assert (
                abs(share - target[2]) < ERRORS * (target[2] * (1 - target[2]) / len(given)) ** 0.5
            )


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
