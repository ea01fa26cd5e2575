"""`correct_window` and `activate_window`: the kernels against their eager twins."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.kernels import Rules, Shifts, Window, eager
from sjd2.kernels.correct_window import cpu
from tests.kernels.test_triton_parity import device, random_logits

pytest.importorskip("triton")
from sjd2.kernels import triton

__all__ = ["device"]

RANK, LENGTH = 20, 30
OFFSETS = (1, 2, 5)


def corrections(
    module: Any,
    vocab: int,
    width: int,
    images: int,
    where: str,
    rules: Rules,
    grammar: dict[int, int] | None = None,
    passes: int = 2,
    rank: int = RANK,
) -> list[Window]:
    """Two iterations, each followed by corrections; all corrected windows."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(where)

    features, offsets = random(len(OFFSETS) * (vocab + 1), rank), torch.tensor(OFFSETS)
    shifts = Shifts(features, offsets.to(where), random(vocab, rank))
    forced = None
    if grammar:
        forced = torch.full((LENGTH,), -1)
        forced[list(grammar)] = torch.tensor(list(grammar.values()))
        forced = forced.to(where)
    seed = torch.arange(images, device=where) * (2**61 // 3) + 5
    position = torch.zeros_like(seed)
    tokens = torch.randint(vocab, (images, LENGTH), generator=generator).to(where)
    window = eager.first_window(seed, 2, vocab, grammar=forced)
    copies, windows = 2 if rules.guidance_scale != 1 else 1, []
    for iteration in (1, 2):
        logits = random_logits(copies * images, window.width, vocab, iteration).to(where)
        at: dict[str, Any] = {"seed": seed, "grammar": forced, "iteration": iteration}
        state = random(images, window.width, rank)
        seen = module.activate_window(state, tokens, shifts, position=position, grammar=forced)
        verdict = module.verify_window(
            logits, window, rules, position=position, length=LENGTH, next_width=width, **at
        )
        window, position = verdict.window, position + verdict.accept_length
        for correction in range(1, passes + 1):
            columns = position[:, None] + torch.arange(width, device=where)
            tokens = tokens.scatter(1, columns, window.tokens)
            window = module.correct_window(
                window,
                verdict.window,
                state,
                seen,
                tokens,
                shifts,
                rules,
                position=position,
                correction=correction,
                **at,
            )
            windows.append(window)
    return windows


def agree(*shape: int, where: str, rules: Rules, **options: Any) -> None:
    """Tokens and kinds of kernels and twins are equal, distributions to rounding."""
    expected = corrections(eager, *shape, where, rules, **options)
    found = corrections(triton, *shape, where, rules, **options)
    assert any(not torch.equal(one.tokens, other.tokens) for one, other in pairwise(expected))
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("slots", "kinds", "offset"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        target = ours.draft_logits - torch.logsumexp(ours.draft_logits, dim=-1, keepdim=True)
        free = theirs.kinds == 0
        torch.testing.assert_close(target[free], theirs.draft_logits[free], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(17, 4, 2), (2, 3, 1), (257, 18, 2)], ids=str)
@pytest.mark.parametrize("verify", ["ratio", "gumbel", "greedy"])
def test_corrections_are_those_of_the_twin(
    shape: tuple[int, int, int], verify: Any, device: str
) -> None:
    """Kills: a neighbour of another offset, a block of columns or tokens left out."""
    agree(*shape, where=device, rules=Rules(verify=verify))


def test_a_wide_corrector_is_its_twin(device: str) -> None:
    """Kills: a part of the hidden layer left out, or added twice."""
    agree(17, 4, 2, where=device, rules=Rules(), rank=100)


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 2.5},
        {"temperature": 0.7},
        {"guidance_scale": 3.0, "temperature": 1.3, "top_k": 50, "top_p": 0.9},
        {"start": "uniform"},
        {"start": "repeat"},
        {"coupling": "independent"},
    ],
    ids=str,
)
def test_corrections_start_from_the_distribution_of_the_forward(
    changes: dict[str, Any], device: str
) -> None:
    """Kills: guidance or temperature left out, or applied to what has been corrected already."""
    agree(70, 4, 2, where=device, rules=replace(Rules(), **changes))


def test_corrections_of_a_shortlist_are_those_of_the_twin(device: str) -> None:
    """Kills: a list that differs from the product with all weights, which the kernel computes."""
    agree(257, 4, 2, where=device, rules=Rules(top_k=2, top_p=0.99))


def test_a_shortlist_corrects_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Correcting only the tokens that top-k keeps gives the distributions of the whole product.

    Kills: a list of another image or column; tokens below the top-k threshold brought back.
    """
    for rules in (Rules(top_k=3), Rules(top_k=3, verify="gumbel", guidance_scale=2.0)):
        listed = corrections(eager, 400, 5, 3, "cpu", rules, grammar={1: 3, 4: 399})
        monkeypatch.setattr(cpu, "_SHORTLIST", 0)
        multiplied = corrections(eager, 400, 5, 3, "cpu", rules, grammar={1: 3, 4: 399})
        monkeypatch.undo()
        for ours, theirs in zip(listed, multiplied, strict=True):
            assert torch.equal(ours.tokens, theirs.tokens)
            torch.testing.assert_close(ours.draft_logits, theirs.draft_logits, rtol=2e-5, atol=2e-5)
            assert ((ours.draft_logits > -torch.inf).sum(dim=-1) <= 3).all()


def test_forced_tokens_are_left_alone(device: str) -> None:
    """Kills: a forced token that is corrected, or that counts as a neighbour."""
    grammar = {0: 3, 3: 5, 6: 1, 7: 16}
    for verify in ("ratio", "gumbel"):
        agree(17, 5, 3, where=device, rules=Rules(verify=verify), grammar=grammar)


@pytest.mark.parametrize("start", ["neighbour", "uniform", "repeat"])
def test_columns_that_entered_beside_a_forced_token_are_left_alone(start: Any, device: str) -> None:
    """Kills: a distribution computed from the forced column's logits, however drafts enter."""
    agree(17, 5, 3, where=device, rules=Rules(start=start), grammar={1: 3, 4: 5, 6: 1})


@pytest.mark.parametrize("implementation", [eager, triton])
def test_neighbours_are_those_of_the_window_and_of_the_row(implementation: Any) -> None:
    """From the window's place on it is the window that says what stands where.

    Kills: what the text says behind that place; the text of another picture.
    """
    generator = torch.Generator().manual_seed(1)
    width, vocab = 3, 9
    rows, position = torch.tensor([2, 0]), torch.tensor([1, 7])
    given = torch.randint(vocab, (3, LENGTH), generator=generator)
    window = eager.first_window(position, width, vocab)
    columns = position[:, None] + torch.arange(width)
    text, wrong = given[rows].scatter(1, columns, window.tokens), given.clone()
    wrong[rows[:, None], columns] += 1
    features = torch.randn(len(OFFSETS) * (vocab + 1), RANK, generator=generator)
    shifts = Shifts(features, torch.tensor(OFFSETS), torch.randn(vocab, RANK, generator=generator))
    state = torch.randn(2, width, RANK, generator=generator)
    logits = random_logits(2, width, vocab, 1)
    at: dict[str, Any] = {"seed": position, "position": position, "iteration": 1}
    scored = implementation.verify_window(logits, window, Rules(), length=LENGTH, **at).window
    scored = scored._replace(slots=window.slots, offset=torch.zeros(2, dtype=torch.int64))

    def played(tokens: Tensor, *, is_told: bool) -> tuple[Tensor, Window]:
        told: dict[str, Any] = {"rows": rows} if is_told else {}
        seen = implementation.activate_window(
            state, tokens, shifts, position=position, window=window if is_told else None, **told
        )
        corrected = implementation.correct_window(
            scored, scored, state, seen * 0, tokens, shifts, Rules(), correction=1, **told, **at
        )
        return seen, corrected

    (seen, corrected), (expected_seen, expected) = (
        played(wrong, is_told=True),
        played(text, is_told=False),
    )
    assert torch.equal(seen, expected_seen)
    assert torch.equal(corrected.slots, expected.slots)
    assert torch.equal(corrected.draft_logits, expected.draft_logits)


def test_equal_neighbours_leave_a_draft_alone() -> None:
    """Kills: old and new neighbours read at different columns, a pass that draws for nothing."""
    generator = torch.Generator().manual_seed(1)
    width, vocab = 6, 9
    tokens = torch.randint(vocab, (2, LENGTH), generator=generator)
    features = torch.randn(len(OFFSETS) * (vocab + 1), RANK, generator=generator)
    state = torch.randn(2, width, RANK, generator=generator)
    shifts = Shifts(features, torch.tensor(OFFSETS), torch.randn(vocab, RANK, generator=generator))
    position = torch.tensor([0, 7])
    log_p = torch.randn(2, width, vocab, generator=generator).log_softmax(-1)
    drafts = tokens.gather(1, position[:, None] + torch.arange(width))
    slots = torch.cat((tokens[:, :1], drafts), dim=1)
    window = Window(slots, torch.zeros(2, width, dtype=torch.uint8), log_p, torch.zeros(2).long())
    seen = eager.activate_window(state, tokens, shifts, position=position)
    corrected = eager.correct_window(
        window,
        window,
        state,
        seen,
        tokens,
        shifts,
        Rules(),
        seed=position,
        position=position,
        iteration=1,
        correction=1,
    )
    assert torch.equal(corrected.slots, window.slots)
    torch.testing.assert_close(corrected.draft_logits, log_p)
