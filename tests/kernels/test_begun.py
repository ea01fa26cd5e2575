"""Rows that began later count their own iterations: what they draw is what they draw alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.kernels import Rules, Shifts, Window, eager

VOCAB, WIDTH, LENGTH = 33, 4, 20
SEED = torch.tensor([5, 2**40 + 1, 77])
BEGUN = torch.tensor([0, 3, 11])

IMPLEMENTATIONS = ["eager"]
try:
    import triton

    if triton.knobs.runtime.interpret or torch.cuda.is_available():
        IMPLEMENTATIONS.append("triton")
except ImportError:
    pass


def module_of(name: str) -> ModuleType:
    if name == "eager":
        return eager
    from sjd2.kernels import triton as kernels

    return kernels


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        Rules(coupling="independent"),
        Rules(start="uniform"),
        Rules(start="uniform", verify="gumbel"),
    ],
    ids=str,
)
def test_a_row_counts_its_own_iterations(implementation: str, rules: Rules) -> None:
    """Kills: randomness addressed by the forwards of the batch, in any stream or correction."""
    module = module_of(implementation)
    first = module.first_window(SEED, WIDTH, VOCAB)
    logits, added = 2 * random(3, WIDTH, VOCAB), random(3, WIDTH, 8)
    shifts = Shifts(random(2 * (VOCAB + 1), 8), torch.tensor([1, 5]), random(VOCAB, 8))
    tokens = torch.arange(3 * LENGTH).view(3, LENGTH) % VOCAB

    def drawn(rows: Tensor, iteration: int, begun: Tensor | None) -> list[Tensor]:
        at: dict[str, Any] = {"seed": SEED[rows], "iteration": iteration, "begun": begun}
        position = torch.zeros_like(rows)
        verdict = module.verify_window(
            logits[rows], first.keep_rows(rows), rules, position=position, length=LENGTH, **at
        )
        seen = module.activate_window(added[rows], tokens[rows], shifts, position=position)
        window: Window = module.correct_window(
            verdict.window,
            verdict.window,
            added[rows],
            seen,
            tokens[rows],
            shifts,
            rules,
            position=position + verdict.accept_length,
            correction=2,
            **at,
        )
        return [verdict.accept_length, verdict.tokens, verdict.window.tokens, window.tokens]

    together = drawn(torch.arange(3), 13, BEGUN)
    for row, begun in enumerate(BEGUN.tolist()):
        alone = drawn(torch.tensor([row]), 13 - begun, None)
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.equal(ours[row], theirs[0])
    if rules.verify == "ratio":
        ignored = drawn(torch.arange(3), 13, None)
        assert not all(map(torch.equal, together, ignored)), "iterations must matter at all"
