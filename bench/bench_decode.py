"""The table of the README: forwards, seconds and picture quality of every method.

    python bench/bench_decode.py                # everything, about 15 minutes on 2 cores
    python bench/bench_decode.py --captions 8   # a quick look
    python bench/bench_decode.py --readme       # also put the tables between README's markers

The embedded model draws held-out captions at its own guidance, every method from the same seeds,
and the picture checker judges what was drawn. The second table pairs stock transformers with sjd2
picture by picture, so that a machine that changes its speed changes it for both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

import sjd2
from sjd2.demo.checker import check
from sjd2.demo.scenes import held_out_captions
from sjd2.models.pixels import picture_of
from sjd2.pictures.drawing import DEMO, load

ROOT = Path(__file__).resolve().parent.parent
HEAD = ("method", "window", "forwards", "tokens per forward", "step compression")
METHODS: dict[str, dict[str, Any]] = {
    "sjd independent": {"method": "sjd", "coupling": "independent"},
    "sjd gumbel": {"method": "sjd", "verify": "gumbel"},
    "sjd maximal": {"method": "sjd", "coupling": "maximal"},
}


@dataclass
class Row:
    """One method at one window and batch size, over all captions."""

    method: str
    window: int
    batch: int
    forwards: float  # per picture
    step_compression: float
    seconds: float  # of all pictures, pixels excluded
    passed: int
    pictures: int

    def cells(self) -> list[str]:
        """The line as text."""
        low, high = wilson(self.passed, self.pictures)
        return [
            self.method,
            str(self.window),
            f"{self.forwards:.1f}",
            f"{self.step_compression:.2f}",
            f"{self.step_compression:.2f}x",
            f"{self.seconds:.1f}",
            f"{self.passed / self.pictures:.1%} ({low:.0%} to {high:.0%})",
        ]


def wilson(passed: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    share, weight = passed / trials, z * z / trials
    centre = (share + weight / 2) / (1 + weight)
    reach = z * (share * (1 - share) / trials + weight / (4 * trials)) ** 0.5 / (1 + weight)
    return centre - reach, centre + reach


class Bench:
    """The model, the captions, and how both are put together.

    Args:
        captions: how many, held out of the training of the embedded model.
        device: where to draw.
        weights: "demo", or the folder of a model that was made of it.
        seeds: pictures of each caption.
    """

    def __init__(self, captions: int, device: str, weights: str = DEMO, seeds: int = 1) -> None:
        self.model, self.processor = load(weights, torch.device(device))
        self.captions = held_out_captions(captions, seed=2) * seeds
        self.guidance = self.model.generation_config.guidance_scale

    def generate(self, captions: Sequence[str], **options: Any) -> torch.Tensor:
        """Image tokens of the captions, by whatever `generate` the model has at the moment."""
        inputs = self.processor(
            text=list(captions), generation_mode="image", padding=True, return_tensors="pt"
        ).to(self.model.device)
        return self.model.generate(
            **inputs,
            generation_mode="image",
            do_sample=True,
            guidance_scale=self.guidance,
            **options,
        )

    def row(self, label: str, batch: int, **options: Any) -> Row:
        """Draw every caption, `batch` at a time; picture `i` has seed `i` in every method."""
        forwards, passed, seconds = 0, 0, 0.0
        window = options.get("window", 1)
        for first in tqdm(range(0, len(self.captions), batch), f"{label} W={window} B={batch}"):
            captions = self.captions[first : first + batch]
            with sjd2.accelerated(self.model, **options):
                tokens = self.generate(captions, seed=first)
                stats = sjd2.decoding_stats(self.model)
            forwards += sum(stats.forward_passes)
            seconds += stats.seconds
            for caption, codes in zip(captions, tokens, strict=True):
                passed += check(picture_of(self.model, self.processor, codes), caption).passed
        pictures = len(self.captions)
        compression = tokens.shape[1] * pictures / forwards
        per_picture = forwards / pictures
        return Row(label, window, batch, per_picture, compression, seconds, passed, pictures)

    def race(self, windows: Sequence[int], pictures: int) -> dict[str, list[float]]:
        """Seconds per picture at batch 1, stock and accelerated in turns."""

        def seconds(captions: Sequence[str], **options: Any) -> float:
            started = time.perf_counter()
            self.generate(captions, **options)
            return time.perf_counter() - started

        found: dict[str, list[float]] = {"stock transformers": []}
        self.generate(self.captions[:1])  # the first call of a process pays for set-up
        captions = self.captions[:pictures]
        for index, caption in enumerate(tqdm(captions, "racing stock transformers")):
            found["stock transformers"].append(seconds([caption]))
            for window in windows:
                for method, options in METHODS.items():
                    with sjd2.accelerated(self.model, window=window, **options):
                        taken = seconds([caption], seed=index)
                    found.setdefault(f"{method}, W = {window}", []).append(taken)
        return found


def environment(model: Any) -> dict[str, Any]:
    """What the numbers were measured on."""
    on_gpu = model.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sjd2": sjd2.__version__,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def put_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of that name in a Markdown file."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, rest = path.read_text().split(start)
    after = rest.split(end)[1]
    path.write_text(f"{before}{start}\n{text}\n{end}{after}")


def report(found: dict[str, Any]) -> str:
    """The tables of the README."""
    rows = [Row(**row) for row in found["rows"]]
    batch = found["batch"]
    where = found["environment"]
    batched = [row for row in rows if row.batch == batch]
    cells = [row.cells() for row in batched]
    alone = {(row.method, row.window): row for row in rows if row.batch == 1}
    parts = [
        f"{rows[0].pictures} held-out captions, batch {batch}, guidance {found['guidance']:g}, "
        f"temperature 1, {where['cores']} cores, torch {where['torch']}, transformers "
        f"{where['transformers']}, float32. Made by `{found['command']}`.",
        table([*HEAD, f"seconds for {rows[0].pictures}", "checker (95 %)"], cells),
    ]
    if found["race"]:
        stock = found["race"]["stock transformers"]
        parts.append(f"Batch 1, {len(stock)} pictures, each in turns with stock `transformers`:")
        lines = []
        for name, seconds in found["race"].items():
            speed_up = sum(stock) / sum(seconds)
            lines.append([name, f"{sum(seconds) / len(seconds):.2f}", f"{speed_up:.2f}x"])
        parts.append(table(["method", "seconds per picture", "speed-up"], lines))
    for row in batched:
        if single := alone.get((row.method, row.window)):
            kept = row.step_compression / single.step_compression
            parts.append(
                f"{row.method}, W = {row.window}: batch {batch} keeps {kept:.1%} of the per-row "
                f"step compression of batch 1 ({single.step_compression:.2f}x)."
            )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--race", type=int, default=24, help="captions of the race at batch 1")
    parser.add_argument("--windows", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/decode-DEVICE")
    parser.add_argument("--readme", action="store_true", help="put the tables into README.md")
    given = parser.parse_args()

    bench = Bench(given.captions, given.device)
    rows = [bench.row("ar", given.batch, method="ar")]
    for window in given.windows:
        for method, options in METHODS.items():
            rows.append(bench.row(method, given.batch, window=window, **options))
    for method in ("sjd independent", "sjd maximal"):
        options = {"window": given.windows[-1], "start": "uniform", **METHODS[method]}
        rows.append(bench.row(f"{method}, uniform starts", given.batch, **options))
    rows.append(bench.row("sjd maximal", 1, window=given.windows[-1], **METHODS["sjd maximal"]))
    found = {
        "command": " ".join(["python", "bench/bench_decode.py", *sys.argv[1:]]),
        "environment": environment(bench.model),
        "batch": given.batch,
        "guidance": bench.guidance,
        "rows": [asdict(row) for row in rows],
        "race": bench.race(given.windows, given.race),
    }
    out = given.out or ROOT / "bench" / "results" / f"decode-{bench.model.device.type}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    text = report(found)
    print(text)
    if given.readme:
        put_between(ROOT / "README.md", "bench_decode", text)


if __name__ == "__main__":
    main()
