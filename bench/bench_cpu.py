"""What each trick of the eager twins saves on a CPU: with it and without, in turns, same numbers.

    python bench/bench_cpu.py            # half a minute

The tricks are in `sjd2/kernels/*/cpu.py`. Shapes are those of a window of 32 over 16384 tokens.
Exit 1 if a trick changes a result.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from sjd2.kernels import philox
from sjd2.kernels.correct_window import cpu as correction
from sjd2.kernels.philox import Stream
from sjd2.kernels.philox import cpu as noise
from sjd2.kernels.target import cpu as target
from sjd2.kernels.verify_window import cpu as decision

WIDTH, VOCAB, RANK, TOP_K = 32, 16384, 192, 50
ROUNDS = 15

Way = Callable[[], Tensor]


def cases() -> dict[str, tuple[Way, Way]]:
    """By name: with the trick, and the plain way."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(WIDTH, VOCAB)
    few = logits.masked_fill(logits < logits.topk(TOP_K).values[:, -1:], -torch.inf)
    few = few.log_softmax(-1)
    residual = (few.exp() - few.roll(1, 0).exp()).clamp(min=0)
    cut = logits.topk(2000).values[:, -1:]
    seeds, positions = torch.arange(WIDTH), torch.arange(WIDTH)
    block, at = torch.arange(VOCAB // 64), (seeds, positions, 3, Stream.DRAFT)
    change, output = torch.randn(1, WIDTH, RANK), torch.randn(VOCAB, RANK)
    kept = torch.zeros(1, WIDTH, dtype=torch.bool)
    kept[0, :24] = True

    def words_of_torch(block: Tensor) -> Tensor:
        one = torch.ones(1, dtype=torch.int64)
        key = (seeds[:, None] & 0xFFFFFFFF, seeds[:, None] >> 32)
        counter = (block, positions[:, None], 3 * one, int(Stream.DRAFT) * one)
        return torch.stack(philox.philox4x32(counter, key))

    def race_of_all() -> Tensor:
        made = philox.gumbel(seeds, positions, 0, Stream.DRAFT, VOCAB)
        return (few + made).argmax(dim=-1)

    def rest(mask: Tensor, entries: tuple[Tensor, Tensor]) -> Tensor:
        """The part of a coupling that is done for every entry that is listed."""
        drawn = (few[entries[1]].exp() - logits[entries[1]].exp()).clamp(min=0).argmax(dim=-1)
        return torch.zeros(1, WIDTH).index_put_(entries, drawn.float()).masked_fill(mask, 0)

    return {
        "exponential of filtered scores": (lambda: target.exp(few), few.exp),
        "logarithm of residuals": (lambda: target.log(residual), residual.log),
        "dropping what top-k leaves out": (
            lambda: target.drop_below(logits, cut),
            lambda: logits.masked_fill(logits < cut, -torch.inf),
        ),
        "2000th largest, by a sample": (
            lambda: target.kth_largest(logits, 2000),
            lambda: logits.topk(2000).values[:, -1:],
        ),
        "sorting for top-p": (
            lambda: target.descending(logits),
            lambda: logits.sort(descending=True).values,
        ),
        "a random word per column by NumPy": (
            lambda: torch.stack(noise.blocks(*at, block[:1])),
            lambda: words_of_torch(block[:1]),
        ),
        "random words of all groups by NumPy": (
            lambda: torch.stack(noise.blocks(*at, block)),
            lambda: words_of_torch(block),
        ),
        "same-seed noise, remembered": (
            lambda: philox.fixed_gumbel(seeds, positions, Stream.DRAFT, VOCAB),
            lambda: philox.gumbel(seeds, positions, 0, Stream.DRAFT, VOCAB),
        ),
        "same-seed noise of 50 tokens alone": (
            lambda: decision.race_the_possible(few, seeds, positions),
            race_of_all,
        ),
        "a quarter of the columns listed": (
            lambda: rest(kept, decision.entries(~kept)),
            lambda: rest(kept, decision.all_entries(kept)),
        ),
        "correcting 50 tokens alone": (
            lambda: correction.shift_the_possible(few[None], change, output),
            lambda: few[None] + change @ output.T,
        ),
    }


def seconds(way: Way) -> float:
    """Of one call."""
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def main() -> int:
    print(f"W = {WIDTH}, V = {VOCAB}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| trick | with it | without | faster |\n|---|---|---|---|")
    wrong = []
    for name, (trick, plain) in cases().items():
        found, expected = trick(), plain()
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
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
