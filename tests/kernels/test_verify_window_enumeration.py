"""Exactness without statistics: every branch of the decision code, weighed in float64.

`decide` is the very function that the sampler runs; only its randomness is replaced, by scripts
that between them take every branch. Summing the weights of the branches gives the distribution of
the committed pictures to rounding error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from torch import Tensor

from sjd2.kernels import DraftKind, Rules, Verdict, Window
from sjd2.kernels.philox import Stream
from sjd2.kernels.verify_window.eager import decide
from sjd2.protocol import Sampling
from sjd2.sampler.schedule import steps_allowed
from tests.table_model import TableModel

VOCAB, LENGTH = 3, 4
PROMPT = (1,)


class Scripts:
    """Draws that replay every script side by side, a row each, and weigh it.

    A decision that a row never takes must be scripted as 0 there, so that no branch counts twice.
    """

    def __init__(self, width: int, entering: int, vocab_size: int) -> None:
        columns = [(0, 1)] * width + [tuple(range(vocab_size))] * (width + entering)
        table = torch.tensor(list(product(*columns)))
        self.kept, self.chosen = table[:, :width], table[:, width:]
        self.width, self.entering, self.vocab_size = width, entering, vocab_size
        self.rows = len(table)

    def play(
        self, decisions: Callable[[Scripts], Verdict], remaining: int
    ) -> tuple[Verdict, Tensor]:
        self.log_weight = torch.zeros(self.rows, dtype=torch.float64)
        self.was_chosen = torch.zeros_like(self.chosen, dtype=torch.bool)
        self.remaining = remaining
        verdict = decisions(self)
        idle = (~self.was_chosen) & (self.chosen > 0)
        return verdict, self.log_weight.exp() * ~idle.any(dim=1)

    def accept(self, log_ratio: Tensor) -> Tensor:
        keep = log_ratio.clamp(max=0).exp()
        self.log_weight += torch.where(self.kept == 1, keep, 1 - keep).log().sum(dim=1)
        return self.kept == 1

    def choose(self, weights: Tensor, rows: Tensor, columns: Tensor, stream: Stream) -> Tensor:
        assert not self.was_chosen[rows, columns].any(), "a column was drawn twice"
        self.was_chosen[rows, columns] = True
        tokens = self.chosen[rows, columns]
        p = weights / weights.sum(dim=-1, keepdim=True)
        log_p = p.gather(1, tokens[:, None]).squeeze(1).log()
        # What enters behind the picture is never committed: one script is enough there.
        behind = (columns >= self.width) & (columns >= self.remaining)
        one = torch.where(tokens == 0, 0.0, -torch.inf).double()
        self.log_weight.index_add_(0, rows, torch.where(behind, one, log_p))
        return tokens

    def fresh(self, columns: Tensor, vocab_size: int) -> Tensor:
        self.was_chosen[:, self.width :] = True
        entered = self.chosen[:, self.width :]
        matters = (columns >= self.width) & (columns < self.remaining)
        share = torch.tensor(1 / vocab_size, dtype=torch.float64).log()
        idle = torch.where(entered == 0, 0.0, -torch.inf).double()
        self.log_weight += torch.where(matters, share, idle).sum(dim=1)
        return entered


class State:
    """A row of the sampler between two iterations, comparable by what its future depends on."""

    def __init__(
        self, committed: tuple[int, ...], window: Window, steps: tuple[int, ...] = ()
    ) -> None:
        self.committed, self.window = committed, window
        # Denoising steps that every draft has to go.
        self.steps = steps or (0,) * window.kinds.shape[1]

    @property
    def key(self) -> tuple[object, ...]:
        remaining = LENGTH - len(self.committed)
        slots, kinds, found, offset = (tensor[0] for tensor in self.window[:4])
        targets = tuple(
            found[min(column + int(offset), len(found) - 1)].numpy().tobytes()
            if kind == DraftKind.FULL
            else b""
            for column, kind in enumerate(kinds[:remaining].tolist())
        )
        drafts = slots[1 : remaining + 1]
        noise = self.steps[:remaining]
        return self.committed, tuple(drafts.tolist()), tuple(kinds.tolist()), targets, noise


Mutation = Callable[[Window, Verdict], Verdict]


def first_states(model: TableModel, width: int) -> list[tuple[State, float]]:
    """Every initial window of uniform drafts, forced tokens in their places."""
    states = []
    for drafts in product(range(VOCAB), repeat=width):
        tokens, kinds = list(drafts), [int(DraftKind.UNIFORM)] * width
        if model.grammar is not None:
            for column, forced in enumerate(model.grammar[:width].tolist()):
                if forced >= 0:
                    tokens[column], kinds[column] = forced, int(DraftKind.ONEHOT)
        window = Window(
            torch.tensor([[0, *tokens]]),
            torch.tensor([kinds], dtype=torch.uint8),
            torch.zeros(1, width, VOCAB, dtype=torch.float64),
            torch.zeros(1, dtype=torch.int64),
        )
        states.append((State((), window), VOCAB**-width))
    return states


@dataclass(frozen=True)
class Denoising:
    """Drafts that are noise for so many forwards; `blind` verification goes on behind noise."""

    steps: int = 0
    blind: bool = False


def enumerate_pictures(
    model: TableModel,
    width: int,
    rules: Rules,
    mutation: Mutation | None = None,
    denoising: Denoising | None = None,
) -> Tensor:
    """The distribution of the pictures that the decision code commits: float64 [V ** length]."""
    denoising = denoising or Denoising()
    # Drafts of a neighbour's distribution have no neighbour at first: that window has one column,
    # and grows.
    first = 1 if rules.start == "neighbour" else width
    sampling = Sampling(True)
    scripts = {columns: Scripts(columns, width, VOCAB) for columns in (first, width)}
    found = torch.zeros(VOCAB**LENGTH, dtype=torch.float64)
    pending: dict[tuple[object, ...], tuple[State, float]] = {}
    for state, weight in first_states(model, first):
        state.steps = bounded((denoising.steps,) * first, denoising, width)
        known = pending.get(state.key, (state, 0.0))
        pending[state.key] = (state, known[1] + weight)
    while pending:
        # The row with the fewest tokens first, so that equal states meet before they go on.
        key = min(pending, key=lambda k: len(k[0]))  # type: ignore[arg-type]
        state, weight = pending.pop(key)
        script = scripts[state.window.kinds.shape[1]]
        for successor, chance in successors(
            model, state, script, rules, sampling, mutation, denoising
        ):
            committed = successor.committed
            if len(committed) == LENGTH:
                index = sum(t * VOCAB ** (LENGTH - 1 - at) for at, t in enumerate(committed))
                found[index] += weight * chance
                continue
            known = pending.get(successor.key, (successor, 0.0))
            pending[successor.key] = (successor, known[1] + weight * chance)
    return found


def successors(
    model: TableModel,
    state: State,
    scripts: Scripts,
    rules: Rules,
    sampling: Sampling,
    mutation: Mutation | None,
    denoising: Denoising,
) -> list[tuple[State, float]]:
    width, at = scripts.width, len(state.committed)
    # A noisy input says something of its token and its level, but is not the token.
    levels = model.symbols * torch.tensor(state.steps)
    fed = (state.window.tokens[0] + levels).tolist()
    is_noise = torch.tensor([[False, *(steps > 0 for steps in state.steps[:-1])]])
    noisy = None if denoising.blind else is_noise.expand(scripts.rows, -1)
    prefixes = [state.committed + tuple(fed[:column]) for column in range(width)]
    inside = [prefix for prefix in prefixes if len(prefix) < LENGTH]
    log_p = torch.zeros(width, VOCAB, dtype=torch.float64).log_softmax(-1)
    log_p[: len(inside)] = model.step_log_probs(PROMPT, inside, sampling)
    window = state.window.keep_rows(torch.zeros(scripts.rows, dtype=torch.int64))
    position = torch.full((scripts.rows,), at)

    def decisions(draws: Scripts) -> Verdict:
        verdict = decide(
            log_p.expand(scripts.rows, -1, -1),
            window,
            rules,
            draws,
            position=position,
            length=LENGTH,
            grammar=model.grammar,
            noisy=noisy,
            next_width=scripts.entering,
        )
        return verdict if mutation is None else mutation(window, verdict)

    verdict, weights = scripts.play(decisions, LENGTH - at)
    found = []
    for row in weights.nonzero().squeeze(1).tolist():
        tokens = verdict.tokens[row, : int(verdict.accept_length[row])].tolist()
        after = verdict.window.keep_rows(torch.tensor([row]))
        aged = tuple(max(steps - 1, 0) for steps in state.steps[len(tokens) :])
        entered = (denoising.steps,) * (scripts.entering - len(aged))
        steps = bounded(aged + entered, denoising, scripts.entering)
        found.append((State(state.committed + tuple(tokens), after, steps), float(weights[row])))
    return found


def bounded(steps: tuple[int, ...], denoising: Denoising, width: int) -> tuple[int, ...]:
    """Steps within the bands of the window; the published rules know of none."""
    if denoising.blind or not denoising.steps:
        return steps
    most = steps_allowed(len(steps), denoising.steps, width, torch.device("cpu"))
    return tuple(map(min, steps, most.tolist()))


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)


CASES = [
    pytest.param(2, "maximal", "neighbour", None, id="neighbour-window-2"),
    pytest.param(3, "maximal", "neighbour", None, id="neighbour-window-3"),
    pytest.param(3, "independent", "neighbour", None, id="neighbour-independent"),
    pytest.param(3, "maximal", "neighbour", {1: 2, 3: 0}, id="neighbour-grammar"),
    pytest.param(2, "maximal", "uniform", None, id="window-2"),
    pytest.param(3, "maximal", "uniform", None, id="window-3"),
    pytest.param(3, "independent", "uniform", None, id="independent"),
    pytest.param(3, "maximal", "repeat", None, id="one-hot-starts"),
    pytest.param(3, "maximal", "uniform", {1: 2, 3: 0}, id="grammar"),
    pytest.param(3, "independent", "repeat", {2: 1}, id="independent-one-hot-grammar"),
]


@pytest.mark.parametrize(("width", "coupling", "start", "grammar"), CASES)
def test_decide_is_lossless(width: int, coupling: str, start: str, grammar: dict[int, int]) -> None:
    """Kills: a distribution left as it was after a coupling, an offset off by one, a residual of `q
    - p`, a redraw that forgets a column, a forced token drawn freely.
    """
    model = TableModel(VOCAB, LENGTH, grammar)
    found = enumerate_pictures(model, width, Rules(coupling=coupling, start=start))
    assert abs(float(found.sum()) - 1) < 1e-12
    assert total_variation(found, model.picture_probabilities(PROMPT, Sampling(True))) < 1e-12


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    ("width", "coupling", "start", "grammar"),
    [
        pytest.param(2, "maximal", "neighbour", None, id="window-2"),
        pytest.param(3, "maximal", "neighbour", None, id="window-3"),
        pytest.param(3, "independent", "neighbour", None, id="independent"),
        pytest.param(3, "maximal", "uniform", None, id="uniform-starts"),
        pytest.param(3, "maximal", "uniform", {2: 1}, id="grammar"),
    ],
)
def test_decide_is_lossless_with_noisy_drafts(
    width: int, coupling: str, start: str, grammar: dict[int, int], steps: int
) -> None:
    """Kills: a chain that runs on behind the first noisy slot, or stops one short of it."""
    model = TableModel(VOCAB, LENGTH, grammar)
    rules = Rules(coupling=coupling, start=start)
    found = enumerate_pictures(model, width, rules, None, Denoising(steps))
    assert abs(float(found.sum()) - 1) < 1e-12
    assert total_variation(found, model.picture_probabilities(PROMPT, Sampling(True))) < 1e-12


@pytest.mark.parametrize("steps", [1, 2])
def test_enumeration_sees_verification_behind_noise(steps: int) -> None:
    """The published rules accept what was predicted from inputs that were not yet tokens.

    Kills: an enumeration whose noisy inputs say all that the tokens say.
    """
    model = TableModel(VOCAB, LENGTH)
    found = enumerate_pictures(model, 3, Rules(), None, Denoising(steps, blind=True))
    assert total_variation(found, model.picture_probabilities(PROMPT, Sampling(True))) > 1e-3


def old_distribution_kept(before: Window, verdict: Verdict) -> Verdict:
    """A published release: coupled tokens keep the distribution they had before the coupling."""
    width = before.tokens.shape[1]
    source = torch.arange(width) + verdict.accept_length[:, None]
    moved = source.clamp(max=width - 1)
    was_uniform = before.kinds.gather(1, moved) == DraftKind.UNIFORM
    stored = (moved + before.offset[:, None]).clamp(max=before.draft_logits.shape[1] - 1)
    rows = torch.arange(len(source))[:, None]
    found = torch.where(
        was_uniform[..., None],
        torch.full((), 1 / VOCAB, dtype=torch.float64).log(),
        before.draft_logits[rows, stored],
    )
    zero = torch.zeros_like(verdict.accept_length)
    return verdict._replace(window=verdict.window._replace(draft_logits=found, offset=zero))


def wrong_column(before: Window, verdict: Verdict) -> Verdict:
    """The stored distribution of the neighbouring column."""
    window = verdict.window
    shifted = (window.offset - 1).clamp(min=0)
    return verdict._replace(window=window._replace(offset=shifted))


def drafts_called_one_hot(before: Window, verdict: Verdict) -> Verdict:
    """Uniform newcomers labelled as fixed tokens; legal only the other way round."""
    kinds = verdict.window.kinds
    called = torch.where(kinds == DraftKind.FULL, int(DraftKind.UNIFORM), kinds).to(torch.uint8)
    return verdict._replace(window=verdict.window._replace(kinds=called))


def newcomers_called_uniform(before: Window, verdict: Verdict) -> Verdict:
    """Drafts of a neighbour's distribution verified as if they had been drawn uniformly."""
    kinds, width = verdict.window.kinds, before.tokens.shape[1]
    source = torch.arange(kinds.shape[1]) + verdict.accept_length[:, None]
    kinds = torch.where(source >= width, int(DraftKind.UNIFORM), kinds).to(torch.uint8)
    return verdict._replace(window=verdict.window._replace(kinds=kinds))


def test_enumeration_sees_newcomers_with_a_wrong_distribution() -> None:
    """Kills: a start whose drafts are better than their label, which looks faster and is biased."""
    model = TableModel(VOCAB, LENGTH)
    found = enumerate_pictures(model, 2, Rules(), newcomers_called_uniform)
    assert total_variation(found, model.picture_probabilities(PROMPT, Sampling(True))) > 1e-3


@pytest.mark.parametrize("mutation", [old_distribution_kept, wrong_column, drafts_called_one_hot])
def test_enumeration_has_the_power_to_see_a_wrong_distribution(mutation: Mutation) -> None:
    """Kills: an enumeration that compares the decision code with itself."""
    model = TableModel(VOCAB, LENGTH)
    found = enumerate_pictures(model, 3, Rules(start="uniform"), mutation)
    assert total_variation(found, model.picture_probabilities(PROMPT, Sampling(True))) > 1e-3


def test_enumeration_sees_retention_at_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's rule, keep an unaccepted draft whose ratio is at least 0.5, with `q` uncorrected.

    Kills: an enumeration blind to a criterion that is not probabilistic.
    """
    accept = Scripts.accept

    def retained(self: Scripts, log_ratio: Tensor) -> Tensor:
        ratio = log_ratio.exp()
        first = torch.arange(self.width) == (self.kept.cumprod(dim=1).sum(dim=1, keepdim=True))
        behind = first.long().cumsum(dim=1).bool() & ~first
        forced = torch.where(ratio >= 0.5, torch.inf, -torch.inf)
        return accept(self, torch.where(behind, forced, log_ratio))

    monkeypatch.setattr(Scripts, "accept", retained)
    model = TableModel(VOCAB, LENGTH)
    found = enumerate_pictures(model, 3, Rules(start="uniform"))
    assert total_variation(found, model.picture_probabilities(PROMPT, Sampling(True))) > 1e-3
