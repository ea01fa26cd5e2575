"""What each CPU trick of the eager twins saves: with it and without, in turns, on the same numbers.

    python bench/bench_cpu.py            # half a minute

The tricks are in `sjd2/kernels/*/cpu.py`, whose docstrings quote this table. Shapes are those of a
window of 32 over 16384 tokens; times are CPU time of one thread, so that other programs on the
machine do not count. Exit 1 if a trick changes a result.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from sjd2.kernels import Window, philox
from sjd2.kernels.correct_window import cpu as correction
from sjd2.kernels.philox import Stream
from sjd2.kernels.philox import cpu as noise
from sjd2.kernels.target import cpu as target
from sjd2.kernels.verify_window import cpu as decision
from sjd2.kernels.verify_window import eager
from sjd2.kernels.verify_window.draws import PhiloxDraws

WIDTH, VOCAB, RANK, TOP_K = 32, 16384, 192, 50
ROUNDS = 25

Way = Callable[[], Tensor]
Cases = dict[str, tuple[Way, Way]]  # by name: with the trick, and the plain way


def of_distributions(logits: Tensor) -> Cases:
    """`target/cpu.py`."""
    few = logits.masked_fill(logits < logits.topk(TOP_K).values[:, -1:], -torch.inf)
    few = few.log_softmax(-1)
    cut = logits.topk(2000).values[:, -1:]
    residual = (few.exp() - few.roll(1, 0).exp()).clamp(min=0)
    return {
        "exp of filtered log-probabilities": (lambda: target.exp(few), few.exp),
        "log of residuals": (lambda: target.log(residual), residual.log),
        "drop_below the 2000th": (
            lambda: target.drop_below(logits, cut),
            lambda: logits.masked_fill(logits < cut, -torch.inf),
        ),
        "kth_largest, the 2000th": (
            lambda: target.kth_largest(logits, 2000),
            lambda: logits.topk(2000).values[:, -1:],
        ),
        "descending": (
            lambda: target.descending(logits),
            lambda: logits.sort(descending=True).values,
        ),
    }


def of_random_numbers() -> Cases:
    """`philox/cpu.py`."""
    seeds, positions = torch.arange(WIDTH), torch.arange(WIDTH)
    at = (seeds, positions, 3, Stream.DRAFT)

    def by_torch(seed: Tensor, position: Tensor, iteration: int, stream: int, block: Tensor) -> Any:
        one = torch.ones(1, dtype=torch.int64)
        key = (seed[:, None] & 0xFFFFFFFF, seed[:, None] >> 32)
        return philox.philox4x32((block, position[:, None], iteration * one, stream * one), key)

    def words() -> Tensor:
        return philox.uniform(*at)

    def groups() -> Tensor:
        return philox.uniform(*at, VOCAB // philox.GROUP, philox.GROUPS_FROM)

    return {
        "a random number per column": (words, replaced(noise, "blocks", by_torch, words)),
        "random numbers of all groups": (groups, replaced(noise, "blocks", by_torch, groups)),
        "same-seed noise, remembered": (
            lambda: philox.fixed_gumbel(seeds, positions, Stream.DRAFT, VOCAB),
            lambda: philox.gumbel(seeds, positions, 0, Stream.DRAFT, VOCAB),
        ),
    }


def of_decisions(logits: Tensor) -> Cases:
    """`verify_window/cpu.py` in a maximal coupling that keeps about half of the drafts."""
    log_p = logits.log_softmax(-1)[None]
    log_q = (logits + torch.randn_like(logits)).log_softmax(-1)[None]
    drafts = log_q + philox.gumbel(*torch.zeros(2, 1, WIDTH).long(), 1, Stream.DRAFT, VOCAB)
    one = torch.zeros(1, dtype=torch.int64)
    slots = torch.cat((one[None], drafts.argmax(-1)), dim=1)
    window = Window(slots, torch.zeros(1, WIDTH, dtype=torch.uint8), log_q, one)
    draws = PhiloxDraws(one, one, 3)

    def couple() -> Tensor:
        return eager.couple(log_p, window, draws, "maximal")[0]

    return {
        "entries": (couple, replaced(eager, "entries", decision.all_entries, couple)),
        "holds": (couple, replaced(eager, "holds", lambda condition: False, couple)),
    }


def of_corrections(logits: Tensor) -> Cases:
    """`correct_window/cpu.py`."""
    few = logits.masked_fill(logits < logits.topk(TOP_K).values[:, -1:], -torch.inf)
    log_p = few.log_softmax(-1)[None]
    change, output = torch.randn(1, WIDTH, RANK), torch.randn(VOCAB, RANK)
    return {
        f"shift_the_possible, {TOP_K} tokens": (
            lambda: correction.shift_the_possible(log_p, change, output),
            lambda: log_p + change @ output.T,
        ),
    }


def replaced(module: Any, name: str, plain: Any, call: Way) -> Way:
    """The call with something plain in the place of a trick."""

    def without() -> Tensor:
        with patch.object(module, name, plain):
            return call()

    return without


def seconds(way: Way) -> float:
    """CPU time of one call."""
    started = time.thread_time()
    way()
    return time.thread_time() - started


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logits = 3 * torch.randn(WIDTH, VOCAB)
    cases = {
        **of_distributions(logits),
        **of_random_numbers(),
        **of_decisions(logits),
        **of_corrections(logits),
    }
    print(f"W = {WIDTH}, V = {VOCAB}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| trick | with it | without | faster |\n|---|---|---|---|")
    wrong = []
    for name, (trick, plain) in cases.items():
        if not torch.allclose(trick(), plain(), rtol=1e-4, atol=1e-4):
            wrong.append(name)
        pairs = [(seconds(trick), seconds(plain)) for _ in range(ROUNDS)]
        fast, slow = (1e3 * median(times) for times in zip(*pairs, strict=True))
        ratio = median(b / a for a, b in pairs)
        print(f"| {name} | {fast:.2f} ms | {slow:.2f} ms | {ratio:.1f}x |", flush=True)
    if wrong:
        print("changed results:", ", ".join(wrong), file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
