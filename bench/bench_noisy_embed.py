"""`noisy_embed`, `denoise_step` and windows of them, at the hidden sizes of Janus and Emu3.

pytest bench/bench_noisy_embed.py      # on a GPU; a CPU runs one small shape
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.harness import DEVICE, bytes_of, implementations, record, skip_without
from sjd2.kernels import Noise, eager, triton

SHAPES = [(2048, 32, 1), (2048, 96, 16), (4096, 32, 1), (4096, 96, 1), (4096, 96, 16)]
EMBED = implementations(eager.noisy_embed, triton.noisy_embed)
DENOISE = implementations(eager.denoise_step, triton.denoise_step)
WINDOW = implementations(eager.denoise_window, triton.denoise_window)
FEED = implementations(eager.embed_window, triton.embed_window)
DTYPE = torch.bfloat16
LAST_PLACE = 2.0**-7


def skip_large(shape: tuple[int, int, int]) -> None:
    if DEVICE == "cpu" and shape != SHAPES[0]:
        pytest.skip("one shape is enough to see that it works")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", EMBED)
def bench_noisy_embed(benchmark: Any, name: str, shape: tuple[int, int, int]) -> None:
    skip_without(name)
    skip_large(shape)
    size, width, images = shape
    table = torch.randn(16384, size, device=DEVICE).to(DTYPE)
    tokens = torch.randint(16384, (images, width), device=DEVICE)
    seed = torch.arange(images, device=DEVICE)
    given = {
        "timestep": torch.rand(images, width, device=DEVICE),
        "mean": table.float().mean(0),
        "std": table.float().std(0),
        "time_embedding": torch.randn(images, width, size, device=DEVICE).to(DTYPE),
        "seed": seed,
        "position": torch.zeros_like(seed),
        "copies": 2,
    }
    expected = eager.noisy_embed(tokens, table, **given)

    def call() -> torch.Tensor:
        return EMBED[name](tokens, table, **given)

    torch.testing.assert_close(call(), expected, rtol=LAST_PLACE, atol=LAST_PLACE)
    # A row of the table and one of the timestep embedding are read, two are written.
    record(benchmark, call, 2 * bytes_of(expected))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", DENOISE)
def bench_denoise_step(benchmark: Any, name: str, shape: tuple[int, int, int]) -> None:
    skip_without(name)
    skip_large(shape)
    size, width, images = shape
    old, clean = (torch.randn(images, width, size, device=DEVICE).to(DTYPE) for _ in range(2))
    level = torch.rand(images, width, device=DEVICE)
    expected = eager.denoise_step(old, clean, level, level / 2)

    def call() -> torch.Tensor:
        return DENOISE[name](old, clean, level, level / 2)

    torch.testing.assert_close(call(), expected, rtol=LAST_PLACE, atol=LAST_PLACE)
    record(benchmark, call, bytes_of(old, clean, expected))


def noisy_window(shape: tuple[int, int, int]) -> tuple[tuple[Any, ...], Tensor]:
    """What windows of four steps are made of, in a third of which nothing is noise; the tokens."""
    size, width, images = shape
    table = torch.randn(16384, size, device=DEVICE).to(DTYPE)
    levels = torch.linspace(0, 1, 5, device=DEVICE)
    most = (torch.arange(width, device=DEVICE) * 6 // width).clamp(min=1) - 1
    mean, std = table.float().mean(0), table.float().std(0)
    noise = Noise(levels, most, mean, std, torch.randn(5, size, device=DEVICE))
    steps = most.expand(images, -1).contiguous()
    drafts = torch.randn(images, width, size, device=DEVICE).to(DTYPE)
    tokens = torch.randint(16384, (images, width), device=DEVICE)
    return (drafts, steps, noise, table), tokens


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", WINDOW)
def bench_denoise_window(benchmark: Any, name: str, shape: tuple[int, int, int]) -> None:
    skip_without(name)
    skip_large(shape)
    (drafts, steps, noise, table), tokens = noisy_window(shape)
    seed = torch.arange(shape[2], device=DEVICE)
    at = {"accept_length": torch.full_like(seed, 12), "seed": seed, "position": seed}
    expected, to_go = eager.denoise_window(drafts, steps, tokens, noise, table, **at)

    def call() -> tuple[Tensor, Tensor]:
        return WINDOW[name](drafts, steps, tokens, noise, table, **at)

    found = call()
    assert torch.equal(found[1], to_go)
    torch.testing.assert_close(found[0], expected, rtol=LAST_PLACE, atol=LAST_PLACE)
    # A row of the table and a draft are read, and a draft is written.
    record(benchmark, call, bytes_of(drafts, expected, expected))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FEED)
def bench_embed_window(benchmark: Any, name: str, shape: tuple[int, int, int]) -> None:
    skip_without(name)
    skip_large(shape)
    given, tokens = noisy_window(shape)
    expected, noisy = eager.embed_window(tokens, *given, copies=2)

    def call() -> tuple[Tensor, Tensor]:
        return FEED[name](tokens, *given, copies=2)

    found = call()
    assert torch.equal(found[1], noisy)
    torch.testing.assert_close(found[0], expected, rtol=LAST_PLACE, atol=LAST_PLACE)
    record(benchmark, call, bytes_of(expected) * 3 // 2)
