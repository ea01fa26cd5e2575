"""Acceptance, races and fresh tokens: each has its probability."""

from __future__ import annotations

import pytest
import torch

from sjd2.kernels.philox import Stream
from sjd2.kernels.verify_window.eager import PhiloxDraws, _residual
from tests.statistics import ERRORS, threshold

ROWS = 400_000


def draws(iteration: int = 1) -> PhiloxDraws:
    return PhiloxDraws(torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.int64), iteration)


def test_acceptance_has_the_probability_of_its_ratio() -> None:
    """Kills: a base-2 logarithm, a threshold on the wrong side, `<=` where nothing may pass."""
    share = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 3.0])
    kept = draws().accept(share.log().expand(ROWS, -1)).double().mean(0)
    error = (share.clamp(max=1) * (1 - share.clamp(max=1)) / ROWS).sqrt()
    assert ((kept - share.clamp(max=1)).abs() <= ERRORS * error).all()
    assert kept[0] == 0
    assert (kept[4:] == 1).all()


def test_a_nan_ratio_is_not_accepted() -> None:
    """Kills: a NaN row whose drafts all pass."""
    assert not draws().accept(torch.full((ROWS, 1), torch.nan)).any()


def test_the_race_draws_from_its_weights() -> None:
    """Kills: Gumbel noise with a wrong sign or scale; weights normalised on the wrong axis."""
    weights = torch.tensor([0.0, 1.0, 2.0, 5.0, 0.02])
    rows, columns = torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.int64)
    tokens = draws().choose(weights.expand(ROWS, -1), rows, columns, Stream.RESIDUAL)
    counts = torch.bincount(tokens, minlength=5).double()
    expected = weights.double() / weights.sum() * ROWS
    assert counts[0] == 0
    assert ((counts - expected)[1:] ** 2 / expected[1:]).sum() < threshold(3)


def test_neighbouring_columns_draw_independently() -> None:
    """Kills: a column left out of the address."""
    rows, columns = torch.arange(ROWS // 2).repeat_interleave(2), torch.arange(ROWS) % 2
    tokens = draws().choose(torch.ones(ROWS, 3), rows, columns, Stream.DRAFT).view(-1, 2)
    counts = torch.bincount(tokens[:, 0] * 3 + tokens[:, 1], minlength=9).double()
    expected = ROWS / 2 / 9
    assert ((counts - expected) ** 2 / expected).sum() < threshold(8)


def test_fresh_tokens_are_uniform_and_change_with_the_iteration() -> None:
    """Kills: the same newcomers in every forward."""
    columns = torch.zeros(ROWS, 1, dtype=torch.int64)
    first, second = draws(1).fresh(columns, 5), draws(2).fresh(columns, 5)
    counts = torch.bincount((first * 5 + second).flatten(), minlength=25).double()
    expected = ROWS / 25
    assert ((counts - expected) ** 2 / expected).sum() < threshold(24)


def test_a_race_of_groups_draws_from_its_weights() -> None:
    """Kills: groups that race with a maximum instead of their sum; a last group that is short and
    counted as full; tokens of a group that share the noise of another, or of the groups.
    """
    torch.manual_seed(3)
    weights = torch.rand(101) ** 4
    weights[5], weights[32:64], weights[96:] = 30.0, 0.0, 2.0
    rows, columns = torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.int64)
    tokens = draws().choose(weights.expand(ROWS, -1), rows, columns, Stream.DRAFT)
    counts = torch.bincount(tokens, minlength=101).double()
    expected = weights.double() / weights.sum() * ROWS
    possible = expected > 0
    assert counts[~possible].sum() == 0
    df = int(possible.sum()) - 1
    errors = (counts - expected)[possible] ** 2 / expected[possible]
    assert errors.sum() < threshold(df)


def test_a_group_and_its_tokens_race_independently() -> None:
    """Kills: the noise of group g given to token g, or to a token of another group."""
    rows, columns = torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.int64)
    tokens = draws().choose(torch.ones(ROWS, 96), rows, columns, Stream.DRAFT)
    counts = torch.bincount(tokens, minlength=96).double()
    expected = ROWS / 96
    assert ((counts - expected) ** 2 / expected).sum() < threshold(95)


def test_fixed_noise_lets_a_draft_win_again() -> None:
    """Same-seed noise is per token: if the distribution hardly changes, few drafts do.

    Kills: a race of groups in same-seed mode, where one sum can exchange a whole group.
    """
    torch.manual_seed(4)
    target = torch.randn(ROWS // 40, 100)
    moved = target + 0.02 * torch.randn_like(target)
    rows, columns = (
        torch.arange(len(target)),
        torch.zeros(len(target), dtype=torch.int64),
    )
    before, after = (draws().choose_again(one, rows, columns) for one in (target, moved))
    assert (before == after).double().mean() > 0.98


def test_where_rounding_leaves_no_residual_the_target_is_drawn_from() -> None:
    """Kills: token zero where a draft was rejected though p is nowhere above q."""
    log_p = torch.tensor([[0.1, 0.2, 0.7]]).log().expand(2, -1)
    log_q = torch.stack((log_p[0], torch.tensor([0.7, 0.2, 0.1]).log()))
    residual = _residual(log_p, log_q)
    torch.testing.assert_close(residual[0], torch.tensor([0.1, 0.2, 0.7]))
    torch.testing.assert_close(residual[1], torch.tensor([0.0, 0.0, 0.6]))


@pytest.mark.parametrize("vocab_size", [60, 512])
def test_nan_weights_draw_token_zero(vocab_size: int) -> None:
    """As argmax does. Kills: an index out of range that breaks the batch."""
    targets = torch.ones(9, vocab_size)
    targets[2], targets[3] = torch.nan, 0
    tokens = draws().choose(
        targets, torch.arange(9), torch.zeros(9, dtype=torch.int64), Stream.DRAFT
    )
    assert tokens[2] == tokens[3] == 0
