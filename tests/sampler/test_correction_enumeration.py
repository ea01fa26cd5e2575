"""Corrections without statistics: every branch of several passes, weighed in float64.

What verification needs of a window is the premise of the column lemma: given everything that
happened in the columns before it, a draft has the distribution that is stored with it. Here the
pass itself, `Correction.correct`, is run on all drafts that a window can have and all decisions
that the passes can take, and the premise is checked of every history. That exactness follows from
the premise is enumerated in `tests/kernels/test_verify_window_enumeration.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.kernels import DraftKind, Rules, Shifts, Verdict, Window
from sjd2.kernels.correct_window import eager
from sjd2.kernels.philox import Stream
from sjd2.kernels.verify_window.eager import grammar_at
from sjd2.sampler.correction import Correction

VOCAB, LENGTH, RANK = 3, 9, 4
OFFSETS = (1, 2, 4)
FULL, UNIFORM, ONEHOT = (int(kind) for kind in DraftKind)


class Scripts:
    """Draws of one pass: row by row the scripted decisions, 0 for a draft that is kept."""

    def __init__(self, decisions: Tensor, log_weight: Tensor) -> None:
        self.decisions, self.log_weight = decisions, log_weight

    def accept(self, log_ratio: Tensor) -> Tensor:
        keep = log_ratio.clamp(max=0).exp()
        kept = self.decisions == 0
        self.log_weight += torch.where(kept, keep, 1 - keep).log().sum(dim=1)
        return kept

    def choose(self, weights: Tensor, rows: Tensor, columns: Tensor, stream: Stream) -> Tensor:
        assert stream == Stream.RESIDUAL
        tokens = self.decisions[rows, columns] - 1
        p = weights / weights.sum(dim=-1, keepdim=True)
        self.log_weight.index_add_(0, rows, p.gather(1, tokens[:, None]).squeeze(1).log())
        return tokens


@dataclass
class Case:
    """A window between two forwards.

    Attributes:
        kinds: of its drafts, from left to right.
        passes: of the corrector.
        slid: columns that were committed since the distributions were computed.
        grammar: forced tokens by picture position.
        top_k: tokens that have a probability.
        strength: standard deviation of the corrector's weights.
    """

    kinds: tuple[int, ...] = (FULL, FULL)
    passes: Any = 2
    slid: int = 0
    grammar: dict[int, int] = field(default_factory=dict)
    top_k: int = 0
    strength: float = 0.7


class Flat:
    """A corrector of random weights in float64."""

    def __init__(self, case: Case) -> None:
        self.case, self.generator = case, torch.Generator().manual_seed(3)
        self.table = self.random(len(OFFSETS) * (VOCAB + 1), RANK)
        self.output = self.random(VOCAB, RANK)

    def random(self, *shape: int) -> Tensor:
        numbers = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return numbers * self.case.strength

    def shifts(self, table: Tensor) -> Shifts:
        return Shifts(self.table, torch.tensor(OFFSETS), self.output)

    def read(self, hidden: Tensor, images: int) -> Tensor:
        return hidden


def enumerated(case: Case, monkeypatch: pytest.MonkeyPatch) -> float:
    """The largest error of a draft's distribution given its history, over all histories.

    Raises:
        AssertionError: the stored distribution depends on something else than the history.
    """
    width, at = len(case.kinds), 4
    generator = torch.Generator().manual_seed(11)
    log_p = torch.randn(1, width + case.slid, VOCAB, generator=generator, dtype=torch.float64)
    log_p = log_p.log_softmax(-1)
    if case.top_k:
        kept = log_p.topk(case.top_k, dim=-1)
        log_p = torch.full_like(log_p, -torch.inf).scatter(-1, *kept[::-1]).log_softmax(-1)
    grammar = None
    if case.grammar:
        grammar = torch.full((LENGTH,), -1)
        for place, token in case.grammar.items():
            grammar[place] = token
    forced = [-1] * width
    if grammar is not None:
        forced = grammar_at(grammar, torch.tensor([at + case.slid]), width)[0].tolist()
    kinds = [ONEHOT if token >= 0 else kind for kind, token in zip(case.kinds, forced, strict=True)]

    # All first drafts, and all decisions of all passes.
    passes = 1 if case.passes == "sweep" else case.passes
    copied = [token if token >= 0 else 1 for token in forced]
    first = [(copied[c],) if kind == ONEHOT else range(VOCAB) for c, kind in enumerate(kinds)]
    table = torch.tensor(list(product(*first, *[range(VOCAB + 1)] * (passes * width))))
    rows, drafts = len(table), table[:, :width]
    decisions = table[:, width:].reshape(rows, passes, width)
    weight = torch.zeros(rows, dtype=torch.float64)
    for column, kind in enumerate(kinds):
        if kind == FULL:
            weight += log_p[0, column + case.slid, drafts[:, column]]
        elif kind == UNIFORM:
            weight -= torch.tensor(VOCAB, dtype=torch.float64).log()

    calls: list[int] = []

    def scripted(seed: Tensor, position: Tensor, iteration: int, begun: Any) -> Scripts:
        calls.append(iteration)
        number = len(calls) - 1
        if case.passes == "sweep":
            return Scripts(decisions[:, 0, number : number + 1], weight)
        return Scripts(decisions[:, number], weight)

    monkeypatch.setattr(eager, "PhiloxDraws", scripted)
    corrector: Any = Flat(case)
    stood = torch.arange(LENGTH + width + case.slid) * 5 % VOCAB
    columns = slice(at, at + width + case.slid)
    decided = torch.arange(width + case.slid) * 2 % VOCAB
    fed = torch.cat((torch.zeros(1, dtype=torch.int64), stood[columns])).repeat(rows, 1)
    pictures = stood.repeat(rows, 1)
    pictures[:, columns] = decided
    position = torch.full((rows,), at + case.slid)
    state: Any = SimpleNamespace(
        rules=Rules(top_k=case.top_k),
        geometry=SimpleNamespace(grammar=grammar),
        table=None,
        rows=torch.arange(rows),
        position=position,
        seed=position,
        when={"iteration": 7, "begun": None},
        tokens=pictures,
        window=Window(fed, fed[:, 1:], fed, position),
    )
    scored = Window(
        torch.cat((torch.zeros(rows, 1, dtype=torch.int64), drafts), dim=1),
        torch.tensor(kinds, dtype=torch.uint8).repeat(rows, 1),
        log_p.repeat(rows, 1, 1),
        torch.full((rows,), case.slid),
    )
    verdict = Verdict(scored.offset, scored.offset, decided.repeat(rows, 1), scored)
    hidden = corrector.random(1, width + case.slid, RANK).repeat(rows, 1, 1)
    now: Any = SimpleNamespace(state=state, verdict=verdict, hidden=hidden)
    window = Correction(state, corrector, case.passes).correct(now).window
    assert len(calls) == (width if case.passes == "sweep" else passes)

    possible = weight > -torch.inf
    chance, drafts, decisions = weight[possible].exp(), drafts[possible], decisions[possible]
    assert abs(float(chance.sum()) - 1) < 1e-12
    final, labels = window.tokens[possible], window.draft_logits[possible].exp()
    labels = labels.expand(-1, width, -1)
    kinds_after = window.kinds[possible]
    error = 0.0
    for column in range(width):
        if (kinds_after[:, column] == ONEHOT).all():
            assert (final[:, column] == forced[column]).all()
            continue
        parts = torch.zeros_like(drafts[:, :1]), drafts[:, :column]
        before = torch.cat((*parts, decisions[:, :, :column].flatten(1)), dim=1)
        _, history = before.unique(dim=0, return_inverse=True)
        count = int(history.max()) + 1
        joint = torch.zeros(count, VOCAB, dtype=torch.float64)
        joint.index_put_((history, final[:, column]), chance, accumulate=True)
        label = torch.zeros(count, VOCAB, dtype=torch.float64)
        label[history] = labels[:, column]
        spread = float((label[history] - labels[:, column]).abs().max())
        assert spread < 1e-12, "a draft is labelled by its future"
        found = joint / joint.sum(dim=1, keepdim=True)
        error = max(error, float((found - label).abs().max()))
    return error


CASES = {
    "one-pass": Case((FULL, FULL, FULL), 1),
    "two-passes": Case((FULL, FULL)),
    "two-passes-of-three-columns": Case((FULL, FULL, FULL), 2),
    "three-passes": Case((FULL, FULL), 3),
    "sweep": Case((FULL, FULL, FULL), "sweep"),
    "slid": Case((FULL, FULL), slid=2),
    "uniform": Case((FULL, UNIFORM)),
    "one-hot": Case((ONEHOT, FULL, UNIFORM), 1),
    "one-hot-twice": Case((FULL, ONEHOT), slid=1),
    "grammar": Case((FULL, FULL, FULL), 2, grammar={5: 2, 7: 0}),
    "grammar-slid": Case((FULL, FULL, FULL), 1, slid=1, grammar={3: 1, 6: 2}),
    "top-k": Case((FULL, FULL), top_k=2),
    "weak": Case((FULL, FULL), strength=0.25),
    "strong": Case((FULL, FULL), strength=3.0),
}


@pytest.mark.parametrize("name", CASES)
def test_corrected_drafts_have_the_distribution_they_are_labelled_with(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a label of before the pass, a coupling to the forward's distribution in the second
    pass, neighbours that are still to come, a forced column that is corrected.
    """
    assert enumerated(CASES[name], monkeypatch) < 1e-12


@pytest.mark.parametrize("strength", [0.25, 0.7, 3.0])
def test_the_enumeration_sees_an_old_label(
    strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known-bad: drafts are labelled with what the forward predicted of them.

    Kills: an enumeration whose corrector moves nothing.
    """
    right = Correction.correct

    def wrong(self: Correction, now: Any) -> Verdict:
        verdict = right(self, now)
        return verdict._replace(window=now.verdict.window._replace(slots=verdict.window.slots))

    monkeypatch.setattr(Correction, "correct", wrong)
    assert enumerated(Case(strength=strength), monkeypatch) > 1e-3


def test_the_enumeration_sees_a_column_among_its_own_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Known-bad: a distribution that depends on the draft that it is the distribution of.

    Kills: histories that hold the column itself.
    """
    monkeypatch.setattr("tests.sampler.test_correction_enumeration.OFFSETS", (0, 1, 4))
    with pytest.raises(AssertionError, match="labelled by its future"):
        enumerated(Case(), monkeypatch)
