"""`verify_window` at the shapes of Janus, Chameleon and Emu3, guidance on.

    pytest bench/bench_verify_window.py      # on a GPU; a CPU runs one small shape

FlashInfer's samplers are timed where it is installed. They start from probabilities and do less:
no guidance, no coupling of what is not accepted, no new window.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.harness import DEVICE, bytes_of, implementations, record, skip_without
from sjd2.kernels import Rules, Verdict, Window, eager, triton

RULES = Rules(guidance_scale=3.0, top_k=2000)
JANUS, CHAMELEON, EMU3 = 16384, 8192, 32768
SHAPES = [
    (JANUS, 16, 1),
    (JANUS, 32, 1),
    (JANUS, 96, 1),
    (JANUS, 96, 16),
    (CHAMELEON, 96, 4),
    (CHAMELEON, 128, 16),
    (EMU3, 32, 1),
    (EMU3, 128, 4),
]
VERIFY = implementations(eager.verify_window, triton.verify_window)


def inputs(vocab: int, width: int, images: int) -> dict[str, Any]:
    """A window in the middle of a picture, its drafts as good as real ones."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2 * images, width, vocab, generator=generator)
    seed = torch.arange(images, device=DEVICE)
    at = {"seed": seed, "position": torch.zeros_like(seed), "length": 10 * width}
    old = (logits + 0.3 * torch.randn(logits.shape, generator=generator)).bfloat16().to(DEVICE)
    return {"logits": logits.bfloat16().to(DEVICE), "old": old, **at}


def window_by(name: str, given: dict[str, Any]) -> tuple[Window, dict[str, Any]]:
    """A window as the implementation leaves it behind, and the arguments of the next call."""
    at = {key: given[key] for key in ("seed", "position", "length")}
    width, vocab = given["logits"].shape[1:]
    first = eager.first_window(given["seed"], width, vocab)
    verify = triton.verify_window if name == "triton" else eager.verify_window
    verdict = verify(given["old"], first, RULES, iteration=1, **at)
    return verdict.window, at | {"position": verdict.accept_length, "iteration": 2}


def agree(found: Verdict, expected: Verdict, exactly: bool) -> bool:
    """Whether the tokens are equal; `torch.compile` rounds otherwise: one in a hundred may move."""
    same = (found.tokens == expected.tokens).double().mean().item()
    return same == 1 if exactly else same >= 0.99


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", VERIFY)
def bench_verify_window(benchmark: Any, name: str, shape: tuple[int, int, int]) -> None:
    skip_without(name)
    if DEVICE == "cpu" and shape != SHAPES[0]:
        pytest.skip("one shape is enough to see that it works")
    given = inputs(*shape)
    window, at = window_by(name, given)
    twin_window, _ = window_by("eager", given)
    expected = eager.verify_window(given["logits"], twin_window, RULES, **at)

    def call() -> Verdict:
        return VERIFY[name](given["logits"], window, RULES, **at)

    assert agree(call(), expected, exactly=name != "compile")
    record(benchmark, call, bytes_of(given["logits"]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_flashinfer_chain(benchmark: Any, shape: tuple[int, int, int]) -> None:
    sampling = pytest.importorskip("flashinfer.sampling")
    skip_without("flashinfer")
    vocab, width, images = shape
    given = inputs(*shape)
    target = given["logits"][:images].float().softmax(-1)
    draft = given["old"][:images, :-1].float().softmax(-1).contiguous()
    drafts = draft.flatten(0, 1).multinomial(1).view(images, width - 1).int()

    def call() -> Any:
        return sampling.chain_speculative_sampling(draft, drafts, target)

    tokens = call()[0]
    assert tokens.shape == (images, width)
    assert ((tokens >= -1) & (tokens < vocab)).all()
    record(benchmark, call, bytes_of(target, draft))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_flashinfer_sampling(benchmark: Any, shape: tuple[int, int, int]) -> None:
    sampling = pytest.importorskip("flashinfer.sampling")
    skip_without("flashinfer")
    images = shape[2]
    logits = inputs(*shape)["logits"][:images].flatten(0, 1).float()

    def call() -> Any:
        return sampling.top_k_top_p_sampling_from_logits(logits, RULES.top_k, 1.0)

    kept = logits.topk(RULES.top_k).values[:, -1]
    assert (logits.gather(1, call().long()[:, None])[:, 0] >= kept).all()
    record(benchmark, call, bytes_of(logits))
