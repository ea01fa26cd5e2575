"""The kernels as torch operations: schemas, fakes, and one graph under `torch.compile`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from sjd2.kernels import Rules, Shifts, Verdict, first_window

pytest.importorskip("triton")
from triton import knobs

from sjd2.kernels import triton

pytestmark = pytest.mark.skipif(
    not knobs.runtime.interpret, reason="Triton is not interpreted here"
)
IMAGES, WIDTH, VOCAB, SIZE = 2, 3, 7, 6
SEED = torch.arange(IMAGES)
ZERO = torch.zeros(IMAGES, dtype=torch.int64)


def window_arguments(next_width: int) -> tuple[Any, ...]:
    window = first_window(SEED, WIDTH, VOCAB)
    logits = torch.randn(2 * IMAGES, WIDTH, VOCAB)
    rules = (2.0, 1.0, 3, 1.0, 0, 2, next_width)  # guidance, ..., mode, start, next width
    state = (window.slots, window.kinds, window.draft_logits, None, False, window.offset)
    return (logits, *state, SEED, ZERO, None, None, 1, None, 20, *rules)


def correction_arguments(is_processed: bool) -> tuple[Any, ...]:
    """Of the first correction of a window, or of the second, whose drafts the first has drawn."""
    rank, offsets, tokens = 4, torch.tensor([1, 2]), torch.randint(VOCAB, (IMAGES, 20))
    shifts = Shifts(torch.randn(2 * (VOCAB + 1), rank), offsets, torch.randn(VOCAB, rank))
    rules, state = Rules(guidance_scale=2.0), torch.randn(IMAGES, WIDTH, rank)
    at: dict[str, Any] = {"seed": SEED, "position": ZERO, "iteration": 1}
    logits = torch.randn(2 * IMAGES, WIDTH, VOCAB)
    # Statistics of real logits: others are no distribution, and what is drawn from them is NaN.
    scored = triton.verify_window(
        logits, first_window(SEED, WIDTH, VOCAB), rules, length=20, **at
    ).window
    given, drafts = (scored, state, state.sigmoid(), tokens, shifts, rules), scored
    if is_processed:
        drafts = triton.correct_window(scored, *given, correction=1, **at)
    target = (drafts.draft_logits, drafts.draft_stats, is_processed, drafts.offset)
    forward = (logits, scored.draft_stats, scored.offset)
    inner = (state, state.sigmoid(), tokens, *shifts)
    return (
        drafts.slots,
        drafts.kinds,
        *target,
        *forward,
        *inner,
        SEED,
        ZERO,
        SEED,
        None,
        1,
        ZERO,
        2.0,
        1.0,
        0,
    )


def activation_arguments() -> tuple[Any, ...]:
    tokens, features = torch.randint(VOCAB, (IMAGES, 20)), torch.randn(2 * (VOCAB + 1), 4)
    return (
        torch.randn(IMAGES, WIDTH, 4),
        tokens,
        features,
        torch.tensor([1, 2]),
        ZERO,
        SEED,
        first_window(SEED, WIDTH, VOCAB).slots,
        None,
    )


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
    "correct_window": lambda: correction_arguments(False),
    "correct_window, once more": lambda: correction_arguments(True),
    "activate_window": activation_arguments,
    "commit_window": lambda: (
        torch.ones(IMAGES, WIDTH, dtype=torch.int64),
        SEED + 1,
        SEED,
        torch.zeros(IMAGES, 20, dtype=torch.int64),
        ZERO.clone(),
    ),
    "kv_append": lambda: (
        cache(),
        cache(),
        torch.randn(IMAGES, 2, WIDTH, SIZE),
        torch.randn(IMAGES, 2, WIDTH, SIZE),
        SEED,
    ),
    "kv_truncate": lambda: (ZERO.clone(), SEED),
    "kv_compact": lambda: (cache(), SEED[1:], SEED + 3),
    "noisy_embed": lambda: embed_arguments(torch.randn(VOCAB, SIZE)),
    "denoise_step": lambda: (
        torch.randn(IMAGES, WIDTH, SIZE),
        torch.randn(IMAGES, WIDTH, SIZE),
        torch.full((IMAGES, WIDTH), 0.8),
        torch.full((IMAGES, WIDTH), 0.4),
    ),
    "denoise_window": lambda: (
        torch.randn(IMAGES, WIDTH, SIZE),
        torch.tensor([[0, 1, 2], [1, 0, 1]]),
        torch.randint(VOCAB, (IMAGES, WIDTH - 1)),
        torch.tensor([0.0, 0.5, 1.0]),
        torch.tensor([0, 1, 2]),
        torch.randn(SIZE),
        torch.rand(SIZE) + 0.5,
        torch.randn(VOCAB, SIZE),
        SEED + 1,
        SEED,
        ZERO,
        None,
    ),
    "embed_window": lambda: (
        torch.randint(VOCAB, (IMAGES, WIDTH)),
        torch.randn(IMAGES, WIDTH, SIZE),
        torch.tensor([[0, 1, 2], [1, 0, 1]]),
        torch.randn(3, SIZE),
        torch.randn(VOCAB, SIZE),
        2,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_schema_and_fake_match_the_operation(name: str) -> None:
    """Kills: an argument that is written but not declared so; a fake of another shape or dtype; a
    gradient that autograd cannot trace; another result under `torch.compile`.
    """
    op = getattr(torch.ops.sjd2, name.partition(",")[0]).default
    torch.library.opcheck(op, CALLS[name]())


@pytest.mark.parametrize("name", CALLS)
def test_a_fake_is_on_the_gpu_and_laid_out_as_the_result(name: str) -> None:
    """Also where there is no compiler, and so no fake GPU for the whole loop to run on.

    Kills: an output made without a device; strides of another layout.
    """
    op, arguments = getattr(torch.ops.sjd2, name.partition(",")[0]), CALLS[name]()
    gpu = torch.device("cuda", 0)

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        held = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return FakeTensor(mode, held, gpu)

    with FakeTensorMode() as mode:
        fakes = tree_leaves(op(*map(moved, arguments)))
    found = tree_leaves(op(*arguments))
    for fake, real in zip(fakes, found, strict=True):
        if real is not None:
            assert fake.device == gpu
            assert (fake.shape, fake.stride(), fake.dtype) == (
                real.shape,
                real.stride(),
                real.dtype,
            )


def test_every_operation_is_checked() -> None:
    """Kills: an operation of ours that nobody has put into the list."""
    registered = torch._C._dispatch_get_all_op_names()
    ours = {name.removeprefix("sjd2::") for name in registered if name.startswith("sjd2::")}
    assert ours == {name.partition(",")[0] for name in CALLS}


def test_gradient_of_noisy_embed_is_registered() -> None:
    """Kills: a backward that autograd cannot trace."""
    arguments = embed_arguments(torch.randn(VOCAB, SIZE, requires_grad=True))
    torch.library.opcheck(torch.ops.sjd2.noisy_embed.default, arguments)


def test_an_iteration_compiles_in_one_graph() -> None:
    """Kills: a Python object or a read of the device between operations, which breaks the graph."""
    window = first_window(SEED, WIDTH, VOCAB)

    def iteration(logits: Tensor, table: Tensor, position: Tensor) -> tuple[Verdict, Tensor]:
        verdict = triton.verify_window(
            logits, window, Rules(), seed=SEED, position=position, iteration=1, length=20
        )
        return verdict, triton.noisy_embed(verdict.window.fed, table)

    logits, table = torch.randn(IMAGES, WIDTH, VOCAB), torch.randn(VOCAB, SIZE)
    expected, embeddings = iteration(logits, table, ZERO)
    compiled = torch.compile(iteration, backend="aot_eager", fullgraph=True)
    found, compiled_embeddings = compiled(logits, table, ZERO)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.window.slots, expected.window.slots)
    assert torch.equal(compiled_embeddings, embeddings)
