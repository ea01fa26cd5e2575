"""Recorded iterations and compiled forwards beside launched ones, and all beside stock `generate`.

    python bench/bench_graphs.py [--shape janus-pro-1b] [--batch 8] [--tokens 144] [--json FILE]
    python bench/bench_graphs.py --shape demo --batch 1      # on a CPU: what compiling gives there

Models have random weights and the decoder of a published one, so the milliseconds of a forward are
right and the number of forwards is not. In 16 bits a product may round by its shape, so recorded
and launched iterations, which attend to other extents, may part; in float32 they draw the same
tokens, which `make gpu` tests first.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench_abstraction import build
from drawing import table
from roofline import MODELS, Decoder
from torch import Tensor

import sjd2

SHAPES = {
    **{name: MODELS[name] for name in ("janus-pro-1b", "glm-image", "emu3")},
    "tiny": Decoder(64, 128, 2, 4, 2, codes=64, tokens=576, head_size=16),  # to try the command
}
EMBEDDED = "demo"  # not random: the model that ships, with its corrector
# What it takes to be worth the memory that recordings keep.
_WORTH = 0.97


class Row(NamedTuple):
    """One way to draw."""

    name: str
    seconds: float
    forwards: int
    tokens: Tensor | None = None  # of the first call

    @property
    def milliseconds(self) -> float:
        """Of a forward."""
        return 1e3 * self.seconds / self.forwards


@contextmanager
def compiled(layers: Any) -> Iterator[None]:
    """Inside the block stock `generate` runs the layers compiled, as transformers does on a GPU."""
    layers.forward = torch.compile(layers.forward, dynamic=False)
    try:
        yield
    finally:
        del layers.forward


def timed(draw: Callable[[], Tensor], device: str) -> tuple[Tensor, float]:
    """The first result, and the seconds of a later call: by then everything is loaded."""
    tokens = draw().clone()
    draw()
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    draw()
    if device == "cuda":
        torch.cuda.synchronize()
    return tokens, time.perf_counter() - started


def rows_of(model: Any, batch: int, device: str) -> list[Row]:
    """Stock `generate`, then ours launched and recorded."""
    ids = torch.arange(3, 20, device=device)[None].repeat(batch, 1)
    call = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "generation_mode": "image",
        "do_sample": True,
        "guidance_scale": 5.0,
    }
    length = model.config.vision_config.num_image_tokens
    rows = []
    static = {"cache_implementation": "static"}
    layers = model.model.language_model
    for name, options, context in (
        ("stock", {}, nullcontext()),
        ("stock, static cache", static, nullcontext()),
        ("stock, static cache, compiled", static, compiled(layers)),
    ):
        try:
            with context:
                draw = partial(model.generate, **call, **options)
                _, seconds = timed(draw, device)
        except Exception as error:  # of upstream's own path: the others are still worth knowing
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        rows.append(Row(name, seconds, length))
    for method in ({"method": "ar"}, {}, {"verify": "gumbel"}):
        ways: dict[str, dict[str, bool]] = {"launched": {}}
        if device == "cuda":
            ways["recorded"] = {"cuda_graphs": True}
        ways["compiled"] = {"compile": True}
        for way, options in ways.items():
            with sjd2.accelerated(model, **method, **options):
                tokens, seconds = timed(partial(model.generate, **call, seed=1), device)
                forwards = sjd2.decoding_stats(model).total_forward_passes
            name = ", ".join(["ours", *method.values(), way])
            rows.append(Row(name, seconds, forwards, tokens))
    return rows


def recorded(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Rows of recorded iterations, each behind that of launched ones."""
    return [(a, b) for a, b in pairwise(rows) if "recorded" in b.name]


def advice(rows: list[Row]) -> str:
    """What to set, by these rows."""
    pairs = recorded(rows)
    if not pairs:
        return "no GPU here: iterations are not recorded"
    share = math.prod(b.milliseconds / a.milliseconds for a, b in pairs) ** (1 / len(pairs))
    choice = "set cuda_graphs=True" if share < _WORTH else "leave cuda_graphs off"
    return f"{choice}: a recorded forward takes {share:.2f} of the time of a launched one"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--shape", choices=(*SHAPES, EMBEDDED), action="append", help="default: the published"
    )
    parser.add_argument("--batch", type=int, action="append", help="default: 1, 8 and 32")
    parser.add_argument("--tokens", type=int, default=144, help="of a picture, a square number")
    parser.add_argument("--json", type=Path, help="takes the figures")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for shape in given.shape or [name for name in SHAPES if name != "tiny"]:
        if shape == EMBEDDED:
            model, _ = sjd2.demo.load(device)
        else:
            with torch.device(device):
                decoder = replace(SHAPES[shape], tokens=given.tokens)
                model = build(decoder).to(torch.bfloat16 if device == "cuda" else torch.float32)
        for batch in given.batch or (1, 8, 32):
            try:
                rows = rows_of(model, batch, device)
            except torch.OutOfMemoryError:
                print(f"{shape}, batch {batch}: does not fit")
                continue
            cells = [[one.name, f"{one.milliseconds:.2f}", f"{one.seconds:.2f}"] for one in rows]
            print(f"\n{shape}, batch {batch}\n\n{table(['', 'ms a forward', 'seconds'], cells)}")
            print(advice(rows), flush=True)
            for a, b in recorded(rows):
                if a.tokens is not None and b.tokens is not None:
                    same = float((a.tokens == b.tokens).float().mean())
                    print(f"{b.name}: {100 * same:.1f} % of the tokens of the loop")
            found += [
                {"shape": shape, "batch": batch, "name": one.name, "seconds": one.seconds}
                | {"forwards": one.forwards, "ms": one.milliseconds}
                for one in rows
            ]
        del model
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
