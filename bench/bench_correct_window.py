"""`correct_window` at the shapes of Janus and Emu3, behind a forward under guidance.

pytest bench/bench_correct_window.py      # on a GPU; a CPU runs one small shape
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.harness import DEVICE, bytes_of, implementations, record, skip_without
from sjd2.kernels import Rules, Shifts, Window, eager, triton

RULES = Rules(guidance_scale=3.0)
RANK, LENGTH = 192, 1024
OFFSETS = (1, 2, 3, 23, 24, 25, 26, 48)
SHAPES = [(16384, 32, 1), (16384, 96, 1), (16384, 96, 8), (32768, 32, 1)]
CORRECT = implementations(eager.correct_window, triton.correct_window)


def inputs(name: str, vocab: int, width: int, images: int) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a first correction, with a window as the implementation left it."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE)

    module = triton if name == "triton" else eager
    logits = random(2 * images, width, vocab).bfloat16()
    seed = torch.arange(images, device=DEVICE)
    at = {"seed": seed, "position": torch.zeros_like(seed), "iteration": 1}
    first = eager.first_window(seed, width, vocab)
    verdict = module.verify_window(logits, first, RULES, length=LENGTH, **at)
    tokens = torch.randint(vocab, (images, LENGTH), generator=generator).to(DEVICE)
    features, state = random(len(OFFSETS) * (vocab + 1), RANK), random(images, width, RANK)
    shifts = Shifts(features, torch.tensor(OFFSETS, device=DEVICE), 0.1 * random(vocab, RANK))
    seen = eager.activate_window(state, tokens, shifts, position=at["position"])
    window = verdict.window
    at |= {"position": verdict.accept_length, "correction": 1}
    return [window, window, state, seen, tokens, shifts, RULES], at


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CORRECT)
def bench_correct_window(benchmark: Any, name: str, shape: tuple[int, int, int]) -> None:
    skip_without(name)
    if DEVICE == "cpu" and shape != SHAPES[0]:
        pytest.skip("one shape is enough to see that it works")
    given, at = inputs(name, *shape)
    twin_given, _ = inputs("eager", *shape)
    expected = eager.correct_window(*twin_given, **at).tokens

    def call() -> Window:
        return CORRECT[name](*given, **at)

    # Sums in another order may move a draft that was close to being kept or not.
    same = (call().tokens == expected).double().mean().item()
    assert same >= 0.98
    images, width = shape[2], shape[1]
    written = 4 * images * width * shape[0]
    record(benchmark, call, bytes_of(given[0].draft_logits, given[5].output) + written)
