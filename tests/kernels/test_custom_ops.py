"""The kernels as operations of torch: schemas, fakes, and whole under `torch.compile`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.kernels import Rules, Verdict, first_window

triton = pytest.importorskip("triton")
from sjd2.kernels import _triton  # noqa: E402

pytestmark = pytest.mark.skipif(
    not triton.knobs.runtime.interpret, reason="Triton is not interpreted here"
)
IMAGES, WIDTH, VOCAB, SIZE = 2, 3, 7, 6
SEED = torch.arange(IMAGES)
ZERO = torch.zeros(IMAGES, dtype=torch.int64)


def window_arguments(next_width: int) -> tuple[Any, ...]:
    window = first_window(SEED, WIDTH, VOCAB)
    logits = torch.randn(2 * IMAGES, WIDTH, VOCAB)
    rules = (2.0, 1.0, 3, 1.0, 0, 2, next_width)  # guidance, ..., mode, start, next width
    state = (window.slots, window.kinds, window.law, None, window.offset, SEED, ZERO, None, None)
    return (logits, *state, 1, 20, *rules)


def embed_arguments(table: Tensor) -> tuple[Any, ...]:
    tokens = torch.randint(VOCAB, (IMAGES, WIDTH))
    level = torch.rand(IMAGES, WIDTH)
    mean, std = torch.randn(SIZE), torch.rand(SIZE) + 0.5
    return (tokens, table, level, mean, std, torch.randn(IMAGES, WIDTH, SIZE), SEED, ZERO, 2)


def cache() -> Tensor:
    return torch.randn(IMAGES, 2, 12, SIZE)


CALLS = {
    "verify_window": lambda: window_arguments(WIDTH),
    "verify_window, wider": lambda: window_arguments(WIDTH + 2),
    "commit_window": lambda: (
        torch.ones(IMAGES, WIDTH, dtype=torch.int64),
        SEED + 1,
        SEED,
        torch.zeros(IMAGES, 20, dtype=torch.int64),
        ZERO.clone(),
        ZERO.clone(),
    ),
    "kv_append": lambda: (
        cache(),
        cache(),
        torch.randn(IMAGES, 2, WIDTH, SIZE),
        torch.randn(IMAGES, 2, WIDTH, SIZE),
        SEED,
    ),
    "kv_truncate": lambda: (ZERO.clone(), SEED, [cache()], WIDTH),
    "kv_compact": lambda: (cache(), SEED[1:], SEED + 3),
    "noisy_embed": lambda: embed_arguments(torch.randn(VOCAB, SIZE)),
    "denoise_step": lambda: (
        torch.randn(IMAGES, WIDTH, SIZE),
        torch.randn(IMAGES, WIDTH, SIZE),
        torch.full((IMAGES, WIDTH), 0.8),
        torch.full((IMAGES, WIDTH), 0.4),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_schema_and_fake_tell_the_truth(name: str) -> None:
    """Kills: an argument that is written but not declared so; a fake of another shape or dtype."""
    op = getattr(torch.ops.sjd2, name.partition(",")[0]).default
    torch.library.opcheck(op, CALLS[name](), test_utils=("test_schema", "test_faketensor"))


def test_gradient_of_noisy_embed_is_registered() -> None:
    """Kills: a backward that autograd cannot trace."""
    arguments = embed_arguments(torch.randn(VOCAB, SIZE, requires_grad=True))
    torch.library.opcheck(torch.ops.sjd2.noisy_embed.default, arguments)


def test_an_iteration_compiles_in_one_graph() -> None:
    """Kills: a Python object or a read of the device between operations, which breaks the graph."""
    window = first_window(SEED, WIDTH, VOCAB)

    def iteration(logits: Tensor, table: Tensor, position: Tensor) -> tuple[Verdict, Tensor]:
        verdict = _triton.verify_window(
            logits, window, Rules(), seed=SEED, position=position, iteration=1, length=20
        )
        return verdict, _triton.noisy_embed(verdict.window.fed, table)

    logits, table = torch.randn(IMAGES, WIDTH, VOCAB), torch.randn(VOCAB, SIZE)
    expected, embeddings = iteration(logits, table, ZERO)
    compiled = torch.compile(iteration, backend="aot_eager", fullgraph=True)
    found, compiled_embeddings = compiled(logits, table, ZERO)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.window.slots, expected.window.slots)
    assert torch.equal(compiled_embeddings, embeddings)
