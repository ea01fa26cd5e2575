"""What a window costs on a GPU that is not here, predicted from bytes and arithmetic alone.

    python bench/roofline.py                              # the table of docs/gpu.md
    python bench/roofline.py janus-pro-1b h100 1 64       # model, GPU, batch, window
    python bench/roofline.py emu3 a100 8 16 --compression 6.2
    python bench/roofline.py --docs                       # also writes it into docs/gpu.md

A forward takes as long as reading what it reads or as computing what it computes, whichever is
longer, at the peaks that vendors state: no launch, no Python, no kernel that falls short. So times
are lower bounds, and what counts is their ratio. Nothing here was measured but the step compression
(`bench/results/`, the embedded model with its corrector), and models of other sizes will have
another.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from drawing import put_between, table  # noqa: E402

from sjd2.config import DecodingConfig, auto_window  # noqa: E402

PAGE = ROOT / "docs" / "gpu.md"
MEASURED = ROOT / "bench" / "results"
PROMPT = 64  # tokens in front of a picture
BYTES = 2  # of a weight, an activation or a cached value: 16 bits
PASSES = DecodingConfig().passes("cuda")
RANK = 192  # of a corrector


@dataclass(frozen=True)
class Gpu:
    """Peaks as the vendor states them.

    Attributes:
        flops: of dense matrix products in 16 bits, a second.
        bandwidth: of its memory, bytes a second.
        memory: bytes.
    """

    flops: float
    bandwidth: float
    memory: float

    @property
    def knee(self) -> float:
        """Tokens of a forward from which computing takes longer than reading the weights."""
        return self.flops / self.bandwidth * BYTES / 2


GPUS: Mapping[str, Gpu] = {
    "a100": Gpu(312e12, 2.039e12, 80e9),
    "h100": Gpu(989e12, 3.35e12, 80e9),
    "h200": Gpu(989e12, 4.8e12, 141e9),
    "4090": Gpu(165e12, 1.008e12, 24e9),
}


@dataclass(frozen=True)
class Decoder:
    """The shape of a published model's decoder.

    Attributes:
        hidden, inner: widths of a layer and of its gated MLP.
        layers, heads, cached_heads: of the attention; the last are those of keys and values.
        codes: image tokens, the rows of the head that are computed.
        tokens: of a picture.
        copies: rows for every picture, two with classifier-free guidance.
        head_size: of a head.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    cached_heads: int
    codes: int
    tokens: int
    copies: int = 2
    head_size: int = 128

    @property
    def weights(self) -> int:
        """Weights that every forward reads: the layers' and the head's."""
        across, cached = self.heads * self.head_size, self.cached_heads * self.head_size
        attention = self.hidden * (2 * across + 2 * cached)
        return self.layers * (attention + 3 * self.hidden * self.inner) + self.hidden * self.codes

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache keeps of a token."""
        return 2 * self.layers * self.cached_heads * self.head_size * BYTES


MODELS: Mapping[str, Decoder] = {
    "janus-pro-1b": Decoder(2048, 5632, 24, 16, 16, codes=16384, tokens=576),
    "janus-pro-7b": Decoder(4096, 11008, 30, 32, 32, codes=16384, tokens=576),
    "glm-image": Decoder(4096, 13696, 40, 32, 2, codes=16384, tokens=1281, copies=1),
    "emu3": Decoder(4096, 14336, 32, 32, 8, codes=32768, tokens=8193),
    "lumina-mgpt": Decoder(4096, 11008, 32, 32, 32, codes=8192, tokens=2352),
}


@dataclass(frozen=True)
class Cost:
    """Bytes moved and operations made, and the seconds they take at least."""

    moved: float
    flops: float

    def seconds(self, gpu: Gpu) -> float:
        """The longer of both."""
        return max(self.moved / gpu.bandwidth, self.flops / gpu.flops)


def forward(model: Decoder, batch: int, window: int) -> Cost:
    """A forward of `window` slots for each of `batch` pictures, in the middle of them."""
    rows, context = batch * model.copies, PROMPT + model.tokens // 2
    slots = rows * window
    attention = 4 * model.layers * model.heads * model.head_size * context
    return Cost(
        model.weights * BYTES + rows * context * model.cache_bytes,
        slots * (2 * model.weights + attention),
    )


def library(model: Decoder, batch: int, window: int) -> Cost:
    """What sjd2 adds: distributions of this forward and the last one, each read twice.

    The verification reads them for every row, and a pass of the corrector for every picture. A pass
    also reads its own weights, and multiplies by them.
    """
    distributions, weights = window * model.codes, model.codes * RANK
    verified = 4 * batch * model.copies * distributions
    corrected = 4 * batch * distributions + weights
    return Cost((verified + PASSES * corrected) * BYTES, PASSES * 2 * batch * distributions * RANK)


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of a token, a window and an iteration, and the speed-up that follows."""

    token: float
    window: float
    iteration: float
    fits: bool
    compression: float | None

    @property
    def speed_up(self) -> float | None:
        """Over token-by-token decoding of the same batch."""
        return self.compression and self.compression * self.token / self.iteration


def predict(
    model: Decoder, gpu: Gpu, batch: int, window: int, compression: float | None = None
) -> Prediction:
    """What a batch and a window take.

    Args:
        model, gpu: their shapes and peaks.
        batch: pictures, at least 1.
        window: slots of each, at least 1.
        compression: tokens a forward, where known.
    """
    one, many = (forward(model, batch, width).seconds(gpu) for width in (1, window))
    own = library(model, batch, window).seconds(gpu)
    rows = batch * model.copies
    kept = model.weights * BYTES + rows * (PROMPT + model.tokens) * model.cache_bytes
    milliseconds = (1e3 * seconds for seconds in (one, many, many + own))
    return Prediction(*milliseconds, kept < gpu.memory, compression)


def measured() -> dict[int, float]:
    """Step compression of the embedded model with its corrector, by window.

    With the passes of a GPU where that was measured, else with those of a CPU, which are fewer.
    """
    found = {}
    for name, passes in (("decode", None), ("corrector", str(PASSES))):
        for row in json.loads((MEASURED / f"{name}-cpu.json").read_text())["rows"]:
            if row["method"] == "corrected maximal" and row.get("passes") == passes:
                found[row["window"]] = row["step_compression"]
    return found


HEAD = ("", "model", "GPU", "batch", "window", "token", "window's forward", "iteration", "speed-up")


def cells(name: str, gpu: str, batch: int, window: int, compression: float | None) -> list[str]:
    """A row of the table."""
    found = predict(MODELS[name], GPUS[gpu], batch, window, compression)
    times = [f"{one:.2f} ms" for one in (found.token, found.window, found.iteration)]
    gained = "" if found.speed_up is None else f"{found.speed_up:.1f}x"
    if not found.fits:
        times, gained = ["", "", ""], "does not fit"
    return ["predicted", name, gpu.upper(), str(batch), str(window), *times, gained]


def report() -> str:
    """The table of docs/gpu.md: the windows of "auto" and the measured one that is nearest."""
    known, rows = measured(), []
    for name, model in MODELS.items():
        for gpu in GPUS:
            for batch in (1, 8):
                window = auto_window("cuda", batch * model.copies)
                near = min(known, key=lambda one: abs(one - window))
                rows.append(cells(name, gpu, batch, window, known[near]))
    knees = ", ".join(f"{name.upper()} {gpu.knee:.0f}" for name, gpu in GPUS.items())
    near_by = ", ".join(f"W = {window}: {gain:.1f}x" for window, gain in known.items())
    return f"""\
Tokens of a forward from which computing takes longer than reading the weights: {knees}.

{table(HEAD, rows)}

Made by `python bench/roofline.py --docs`: 16 bits, the middle of a picture, the window of
`window="auto"`. The speed-up is over token by token in the same batch, by the step compression
that the embedded model has with its corrector at the nearest measured window: {near_by},
with {PASSES} passes from W = 64 on and two below."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", nargs="?", choices=sorted(MODELS))
    parser.add_argument("gpu", nargs="?", choices=sorted(GPUS), type=str.lower, default="h100")
    parser.add_argument("batch", nargs="?", type=int, default=1)
    parser.add_argument("window", nargs="?", type=int, help='default: that of window="auto"')
    parser.add_argument("--compression", type=float, help="tokens a forward, for the speed-up")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/gpu.md")
    given = parser.parse_args()
    if given.model is None:
        text = report()
        print(text)
        if given.docs:
            put_between(PAGE, "roofline", text)
        return
    model, gpu = MODELS[given.model], GPUS[given.gpu]
    if min(given.batch, given.window or 1) < 1:
        parser.error("batch and window must be at least 1")
    window = given.window or auto_window("cuda", given.batch * model.copies)
    known = measured()
    near = min(known, key=lambda one: abs(one - window))
    compression = given.compression or (known[near] if window > 1 else 1.0)
    cost, fed = forward(model, given.batch, window), given.batch * model.copies * window
    print(f"weights: {model.weights / 1e9:.2f} G; cache: {model.cache_bytes / 1e3:.0f} KB a token")
    print(f"a window's forward: {cost.moved / 1e9:.2f} GB, {cost.flops / 1e12:.2f} TFLOP")
    print(f"{fed} tokens fed; computing takes longer than reading from {gpu.knee:.0f} on")
    print(table(HEAD, [cells(given.model, given.gpu, given.batch, window, compression)]))


if __name__ == "__main__":
    main()
