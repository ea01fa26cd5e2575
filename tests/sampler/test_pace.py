"""What costs only speed: no distribution shows it, so it is compared with its definition."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sjd2.companions import Companions
from sjd2.config import DecodingConfig
from sjd2.kernels import Rules, Shifts, Verdict, Window, eager
from sjd2.protocol import Sampling
from sjd2.sampler import correction, decode, resolve
from sjd2.sampler.correction import Correction
from sjd2.sampler.noise import NoisyDrafts
from sjd2.sampler.schedule import steps_allowed
from sjd2.sampler.watchers import Iteration, OnIteration
from tests.sampler.test_denoising import Unmoved
from tests.table_model import TableModel, make_request

VOCAB, LENGTH, RANK = 5, 12, 3
OFFSETS = (1, 3, 4)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


SHIFTS = Shifts(
    random(len(OFFSETS) * (VOCAB + 1), RANK), torch.tensor(OFFSETS), random(VOCAB, RANK)
)


def test_a_column_is_corrected_from_its_own_neighbours() -> None:
    """Kills: the corrector reading its neighbours one place off, forced tokens among them."""
    width, position = 4, [0, 6]
    tokens = torch.arange(2 * LENGTH).view(2, LENGTH) * 3 % VOCAB
    grammar = torch.full((LENGTH,), -1)
    grammar[5] = 2
    state = random(2, width, RANK)
    found = eager.activate_window(
        state, tokens, SHIFTS, position=torch.tensor(position), grammar=grammar
    )
    for row, first in enumerate(position):
        for column in range(width):
            total = state[row, column].clone()
            for number, offset in enumerate(OFFSETS):
                at = first + column - offset
                nobody = at < 0 or bool(grammar[at] >= 0)
                token = VOCAB if nobody else int(tokens[row, at])
                total += SHIFTS.features[number * (VOCAB + 1) + token]
            torch.testing.assert_close(found[row, column], F.silu(total))


def test_a_second_correction_of_the_same_neighbours_changes_no_distribution() -> None:
    """Kills: neighbours then and now read at different columns once the window has slid."""
    width, slid = 4, 2
    tokens = torch.arange(LENGTH + 4)[None] * 3 % VOCAB
    position = torch.tensor([3])
    log_p = random(1, width, VOCAB).log_softmax(-1)
    state = random(1, width, RANK)
    seen = eager.activate_window(state, tokens, SHIFTS, position=position)
    now = position + slid
    slots = tokens[:, 3 + slid - 1 :][:, : width - slid + 1]
    kinds = torch.zeros(1, width - slid, dtype=torch.uint8)
    scored = Window(slots, kinds, log_p, torch.tensor([slid]))
    at: dict[str, Any] = {"seed": now, "position": now, "iteration": 1, "correction": 1}
    corrected = eager.correct_window(scored, scored, state, seen, tokens, SHIFTS, Rules(), **at)
    torch.testing.assert_close(corrected.draft_logits, log_p[:, slid:])


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (2, [(4, 7, 8, 9), (4, 17, 18, 19)]),
        ("sweep", [(4, 7), (4, 17, 8), (4, 17, 18, 9)]),
    ],
)
def test_every_pass_reads_the_drafts_of_the_pass_before(
    passes: Any, expected: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: drafts of the pass before last, or of the forward, taken for neighbours."""
    width, zero, one = 3, torch.tensor([0]), torch.tensor([1])
    # Position 0 has been committed; 1, 2 and 3 are the window's now.
    pictures = torch.tensor([[4, 5, 6, 0, 0, 0]])
    read: list[tuple[int, ...]] = []

    def one_more(window: Window, *args: Any, **kwargs: Any) -> Window:
        at = int(kwargs["position"])
        read.append((*pictures[0, :at].tolist(), *window.tokens[0].tolist()))
        slots = torch.cat((window.slots[:, :1], window.tokens + 10), dim=1)
        return window._replace(slots=slots)

    monkeypatch.setattr(correction, "correct_window", one_more)
    monkeypatch.setattr(correction, "activate_window", lambda *args, **kwargs: None)
    state: Any = SimpleNamespace(
        rules=Rules(),
        geometry=SimpleNamespace(grammar=None),
        table=None,
        rows=zero,
        position=one,
        seed=zero,
        when={"iteration": 1, "begun": None},
        tokens=pictures,
        window=None,
    )
    scored = Window(torch.tensor([[4, 7, 8, 9]]), torch.zeros(1, width), random(1, width, 2), one)
    verdict = Verdict(one, zero, torch.tensor([[4, 5, 6]]), scored)
    corrector: Any = SimpleNamespace(shifts=lambda table: None, read=lambda hidden, images: None)
    now: Any = SimpleNamespace(state=state, verdict=verdict, hidden=None)
    Correction(state, corrector, passes).correct(now)
    assert read == expected


def test_the_first_rejected_draft_is_recovered_in_the_same_forward() -> None:
    """Kills: a run that ends with its last accepted draft, which is exact and slower."""
    window = eager.first_window(torch.tensor([3]), 3, VOCAB)
    logits = torch.zeros(1, 3, VOCAB)
    logits[0, 1, window.tokens[0, 1]] = -torch.inf
    zero = torch.tensor([0])
    verdict = eager.verify_window(
        logits, window, Rules(), seed=zero, position=zero, iteration=1, length=20
    )
    assert verdict.accept_length.tolist() == [2]
    assert verdict.accepted.tolist() == [1]


def levels(grammar: dict[int, int] | None, staggered: bool) -> list[dict[int, tuple[int, int]]]:
    """By forward: of every picture position in the window, its steps to go and its column."""
    model = TableModel(length=40, grammar=grammar)
    config = DecodingConfig(window=12, denoising_steps=4)
    method = resolve(config, Companions(adapter=Unmoved(model.symbols)))
    if not staggered:
        method = replace(method, drafts=_unstaggered(method.drafts))
    found: list[dict[int, tuple[int, int]]] = []

    def watch(now: Iteration) -> None:
        noise, first = now.state.drafts, int(now.state.position[0])
        assert isinstance(noise, NoisyDrafts)
        steps = noise.steps[0].tolist()
        found.append({first + at: (to_go, at) for at, to_go in enumerate(steps)})

    request = make_request(model, [(2, 3, 1)], Sampling(True))
    model.next_logits = lambda code: torch.zeros(*code.shape, 3)  # type: ignore[method-assign]
    decode(model, request, method, [5], [OnIteration(watch)])
    return found


def _unstaggered(drafts: Any) -> Any:
    return type(drafts)(drafts.func, **{**drafts.keywords, "staggered": False})


@pytest.mark.parametrize("staggered", [True, False])
def test_noise_falls_by_one_level_in_a_forward(staggered: bool) -> None:
    """Kills: noise falling two levels at a time, or never; a level given to the column beside."""
    forwards = levels(None, staggered)
    met = 0
    for before, after in pairwise(forwards):
        for place, (to_go, column) in after.items():
            expected = max(before[place][0] - 1, 0) if place in before else 4
            if staggered:
                most = steps_allowed(len(after), 4, 12, torch.device("cpu"))
                expected = min(expected, int(most[column]))
            assert to_go == expected
            met += to_go > 0 and place in before
    assert met > 10


def test_forced_tokens_are_never_noise() -> None:
    """Kills: a line's end that is fed as noise, behind which nothing can be verified."""
    grammar = {9: 1, 10: 0, 30: 2}
    forwards = levels(grammar, True)
    assert all(steps[place][0] == 0 for steps in forwards for place in grammar if place in steps)
