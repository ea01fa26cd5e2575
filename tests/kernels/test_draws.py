"""Acceptance, races and fresh tokens: each has its probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.kernels import philox
from sjd2.kernels.philox import GROUPS_FROM, Stream
from sjd2.kernels.verify_window.eager import PhiloxDraws, _residual
from tests.statistics import pearson, strays

ROWS = 200_000
Kind = type[PhiloxDraws]


def draws(iteration: int = 1, kind: Kind = PhiloxDraws) -> PhiloxDraws:
    return kind(torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.int64), iteration)


# --- What each test below measures, of right draws and of known-bad ones.


def of_acceptance(kind: Kind) -> float:
    share = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 3.0])
    kept = draws(kind=kind).accept(share.log().expand(ROWS, -1)).double().mean(0)
    assert kept[0] == 0
    assert (kept[4:] == 1).all()
    share = share[1:4].double()
    return strays(kept[1:4], share, (share * (1 - share) / ROWS).sqrt(), sees=0.0095)


def of_a_race(kind: Kind) -> float:
    weights = torch.tensor([0.0, 1.0, 2.0, 5.0, 0.02])
    return pearson(*raced(kind, weights), sees=0.021)


def of_neighbours(kind: Kind) -> float:
    rows, columns = torch.arange(ROWS // 2).repeat_interleave(2), torch.arange(ROWS) % 2
    tokens = draws(kind=kind).choose(torch.ones(ROWS, 3), rows, columns, Stream.DRAFT).view(-1, 2)
    counts = torch.bincount(tokens[:, 0] * 3 + tokens[:, 1], minlength=9).double()
    return pearson(counts, torch.full_like(counts, ROWS / 2 / 9), sees=0.031)


def of_fresh_tokens(kind: Kind) -> float:
    columns = torch.zeros(ROWS, 1, dtype=torch.int64)
    first, second = draws(1, kind).fresh(columns, 5), draws(2, kind).fresh(columns, 5)
    counts = torch.bincount((first * 5 + second).flatten(), minlength=25).double()
    return pearson(counts, torch.full_like(counts, ROWS / 25), sees=0.025)


def of_groups(kind: Kind) -> float:
    torch.manual_seed(3)
    weights = torch.rand(101) ** 4
    weights[5], weights[32:64], weights[96:] = 30.0, 0.0, 2.0
    counts, expected = raced(kind, weights)
    return pearson(counts, expected, sees=0.028)


def of_even_groups(kind: Kind) -> float:
    return pearson(*raced(kind, torch.ones(96)), sees=0.03)


def raced(kind: Kind, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens that won, counted, and as they should be."""
    rows, columns = torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.int64)
    tokens = draws(kind=kind).choose(weights.expand(ROWS, -1), rows, columns, Stream.DRAFT)
    counts = torch.bincount(tokens, minlength=len(weights)).double()
    return counts, weights.double() / weights.sum() * ROWS


class Lenient(PhiloxDraws):
    """Accepts 2 % more often than the ratio says."""

    def accept(self, log_ratio: Tensor) -> Tensor:
        return super().accept(log_ratio + 0.02)


class Sharp(PhiloxDraws):
    """Draws from weights to the power of 1.05."""

    def choose(self, weights: Tensor, *at: Any) -> Tensor:
        return super().choose(weights**1.05, *at)


class OneColumn(PhiloxDraws):
    """In one row of ten all columns share their noise."""

    def choose(self, weights: Tensor, rows: Tensor, columns: Tensor, stream: Stream) -> Tensor:
        return super().choose(weights, rows, torch.where(rows % 10 == 0, 0, columns), stream)


class OneIteration(PhiloxDraws):
    """In one row of ten every forward has the newcomers of the first."""

    def fresh(self, columns: Tensor, vocab_size: int) -> Tensor:
        first = PhiloxDraws(self.seed, self.position, 1).fresh(columns, vocab_size)
        same = self.seed[:, None] % 10 == 0
        return torch.where(same, first, super().fresh(columns, vocab_size))


class OneRace(PhiloxDraws):
    """In one row of ten the tokens of a group race with the noise of the groups."""

    def choose(self, *given: Any) -> Tensor:
        right = philox.gumbel

        def shared(seed: Tensor, *at: Any) -> Tensor:
            *at, first = at
            if isinstance(first, Tensor):
                first = torch.where(seed % 10 == 0, GROUPS_FROM, first)
            return right(seed, *at, first)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(philox, "gumbel", shared)
            return super().choose(*given)


@pytest.mark.parametrize(
    ("measure", "wrong"),
    [
        (of_acceptance, Lenient),
        (of_a_race, Sharp),
        (of_neighbours, OneColumn),
        (of_fresh_tokens, OneIteration),
        (of_groups, Sharp),
        (of_even_groups, OneRace),
    ],
)
def test_draws_that_are_a_little_off_are_found_out(
    measure: Callable[[Kind], float], wrong: Kind
) -> None:
    """The power of the tests below.

    Kills: a statistic that passes anything, and one that sees only what is wrong everywhere.
    """
    assert measure(wrong) > 1


def test_acceptance_has_the_probability_of_its_ratio() -> None:
    """Kills: a base-2 logarithm, a threshold on the wrong side, `<=` where nothing may pass."""
    assert of_acceptance(PhiloxDraws) < 1


def test_a_nan_ratio_is_not_accepted() -> None:
    """Kills: a NaN row whose drafts all pass."""
    assert not draws().accept(torch.full((ROWS, 1), torch.nan)).any()


def test_the_race_draws_from_its_weights() -> None:
    """Kills: Gumbel noise with a wrong sign or scale; weights normalised on the wrong axis."""
    assert of_a_race(PhiloxDraws) < 1


def test_neighbouring_columns_draw_independently() -> None:
    """Kills: a column left out of the address."""
    assert of_neighbours(PhiloxDraws) < 1


def test_fresh_tokens_are_uniform_and_change_with_the_iteration() -> None:
    """Kills: the same newcomers in every forward."""
    assert of_fresh_tokens(PhiloxDraws) < 1


def test_a_race_of_groups_draws_from_its_weights() -> None:
    """Kills: groups that race with a maximum instead of their sum; a last group that is short and
    counted as full; tokens of a group that share the noise of another, or of the groups.
    """
    assert of_groups(PhiloxDraws) < 1


def test_a_group_and_its_tokens_race_independently() -> None:
    """Kills: the noise of group g given to token g, or to a token of another group."""
    assert of_even_groups(PhiloxDraws) < 1


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
