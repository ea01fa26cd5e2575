"""The tables of docs/results.md: forwards, seconds and picture quality of every method.

    python bench/bench_decode.py                # everything, about half an hour on 2 cores
    python bench/bench_decode.py --captions 8   # a quick look
    python bench/bench_decode.py --docs         # also write the tables into docs/ and README.md

The embedded model draws held-out captions at its own guidance, every method from the same seeds,
and the checker judges the pictures. The second table pairs stock transformers with sjd2 picture by
picture, so that both see the same changes of the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from drawing import METHODS, ROOT, Bench, Row, environment, machine, put_between, table
from tqdm import tqdm

import sjd2
from sjd2.companions import carried

HEAD = ("method", "window", "forwards", "step compression")
# Rows of the README: (method, window). Uniform starts are drawn at the widest only.
BRIEF = (
    ("ar", 1),
    ("sjd independent, uniform starts", 96),
    ("sjd maximal", 64),
    ("sjd2", 64),
    ("corrected gumbel", 32),
    ("corrected maximal", 32),
    ("corrected maximal", 64),
)


def race(
    bench: Bench, methods: dict[str, Any], windows: Sequence[int], pictures: int
) -> dict[str, list[float]]:
    """Seconds per picture at batch 1, stock and accelerated in turns."""

    def seconds(captions: Sequence[str], **options: Any) -> float:
        started = time.perf_counter()
        bench.generate(captions, **options)
        return time.perf_counter() - started

    found: dict[str, list[float]] = {"stock transformers": []}
    bench.generate(bench.captions[:1])  # the first call of a process includes set-up
    captions = bench.captions[:pictures]
    for index, caption in enumerate(tqdm(captions, "racing stock transformers")):
        found["stock transformers"].append(seconds([caption]))
        for window in windows:
            for method, options in methods.items():
                with sjd2.accelerated(bench.model, window=window, **options):
                    taken = seconds([caption], seed=index)
                found.setdefault(f"{method}, W = {window}", []).append(taken)
    return found


def report(found: dict[str, Any]) -> str:
    """The tables of docs/results.md."""
    rows = [Row(**row) for row in found["rows"]]
    batch = found["batch"]
    batched = [row for row in rows if row.batch == batch]
    cells = [row.cells() for row in batched]
    alone = {(row.method, row.window): row for row in rows if row.batch == 1}
    parts = [
        f"{rows[0].pictures} held-out captions, batch {batch}, guidance {found['guidance']:g}, "
        f"temperature 1, {machine(found['environment'])}. Made by `{found['command']}`.",
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


def brief(found: dict[str, Any]) -> str:
    """The few rows of the README: forwards, seconds, and the speed-up over stock transformers."""
    rows = {(row["method"], row["window"], row["batch"]): Row(**row) for row in found["rows"]}
    stock = found["race"].get("stock transformers", [])
    lines = []
    for method, window in BRIEF:
        row = rows.get((method, window, found["batch"]))
        if row is None:
            continue
        seconds = found["race"].get(f"{method}, W = {window}")
        speed_up = f"{sum(stock) / sum(seconds):.2f}x" if seconds else ""
        cells = [method, str(window), f"{row.forwards:.1f}", f"{row.step_compression:.2f}x"]
        lines.append([*cells, f"{row.seconds / row.pictures:.2f}", speed_up])
    head = [*HEAD, f"seconds, batch {found['batch']}", "speed-up, batch 1"]
    return (
        f"{table(head, lines)}\n\nForwards and seconds are per picture; the speed-up is that over "
        f"stock `transformers`. Made by `{found['command']}` with the embedded model: "
        f"{machine(found['environment'])}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--race", type=int, default=24, help="captions of the race at batch 1")
    parser.add_argument("--windows", type=int, nargs="+", default=[32, 64, 96])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/decode-DEVICE")
    parser.add_argument("--docs", action="store_true", help="write the tables into the documents")
    given = parser.parse_args()

    bench = Bench(given.captions, given.device)
    methods = dict(METHODS)
    if carried(bench.model, "corrector"):
        methods["corrected gumbel"] = {"method": "sjd", "verify": "gumbel"}
        methods["corrected maximal"] = {"method": "sjd"}
    if carried(bench.model, "adapter"):
        methods["sjd2"] = {"method": "sjd2", "corrector": None}
    rows = [bench.row("ar", given.batch, method="ar")]
    for window in given.windows:
        for method, options in methods.items():
            rows.append(bench.row(method, given.batch, window=window, **options))
    for method in ("sjd independent", "sjd maximal"):
        options = {"window": given.windows[-1], "start": "uniform", **METHODS[method]}
        rows.append(bench.row(f"{method}, uniform starts", given.batch, **options))
    rows.append(bench.row("sjd maximal", 1, window=given.windows[-1], **METHODS["sjd maximal"]))
    asked = [one for one in sys.argv[1:] if one != "--docs"]
    found = {
        "command": " ".join(["python", "bench/bench_decode.py", *asked]),
        "environment": environment(bench.model),
        "batch": given.batch,
        "guidance": bench.guidance,
        "rows": [asdict(row) for row in rows],
        "race": race(bench, methods, given.windows, given.race),
    }
    out = given.out or ROOT / "bench" / "results" / f"decode-{bench.model.device.type}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    text = report(found)
    print(text)
    if given.docs:
        put_between(ROOT / "docs" / "results.md", "bench_decode", text)
        put_between(ROOT / "README.md", "bench_decode", brief(found))


if __name__ == "__main__":
    main()
