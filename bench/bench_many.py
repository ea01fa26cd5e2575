"""Many pictures: what refilling rows gives, and which window is fastest at which batch.

    python bench/bench_many.py                # both tables, from this machine
    python bench/bench_many.py --docs         # writes them into docs/scale.md, too

Drawn are held-out captions with the embedded model, and with its corrector where the table does not
say otherwise; pixels are not counted.
Seconds are processor time on one thread, so that what else the machine does counts little; every
figure is the fastest of `--rounds` runs, which take turns.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from sjd2.demo.scenes import held_out_captions  # noqa: E402
from sjd2.files import write_json, write_text  # noqa: E402
from sjd2.models import family_of  # noqa: E402
from sjd2.patching import method_of  # noqa: E402
from sjd2.pictures.loading import load  # noqa: E402
from sjd2.protocol import Request  # noqa: E402
from sjd2.sampler.queue import QueueStats, decode_queue  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "many-cpu.json"
PAGE = ROOT / "docs" / "scale.md"
BATCHES = (1, 2, 4, 8, 16, 32)
REFILLED = ((8, True), (16, True), (8, False))  # rows, and whether with the corrector
WINDOWS = (4, 8, 16, 24, 32, 48, 64)
TOKEN_BY_TOKEN = "ar"
FEWEST = 8  # pictures: one that takes twice the forwards of others must not decide


class Bench:
    """The embedded model, and requests for its held-out captions."""

    def __init__(self, captions: int) -> None:
        self.pipeline = load("demo", torch.device("cpu"))
        self.family = family_of(self.pipeline.model)
        self.requests = [self._request(one) for one in held_out_captions(captions, seed=5)]

    def _request(self, caption: str) -> Request:
        inputs = self.pipeline.inputs([caption])
        made = self.family.request(**inputs, generation_mode="image", do_sample=True)
        assert made is not None
        return made

    def draw(
        self, pictures: int, rows: int, settings: dict[str, Any], **options: Any
    ) -> QueueStats:
        """The queue's account of the first pictures; `settings` as for `accelerate`."""
        method, _ = method_of(self.pipeline.model, **settings)
        asked = [(self.requests[at % len(self.requests)], at) for at in range(pictures)]
        started = time.process_time()
        stats = decode_queue(self.family, asked, method, rows, lambda drawn: None, **options)
        return replace(stats, seconds=time.process_time() - started)


def fastest(calls: dict[str, Callable[[], QueueStats]], rounds: int) -> dict[str, QueueStats]:
    """The fastest of some runs of every call; they take turns, as machines have moods."""
    best: dict[str, QueueStats] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            found = call()
            if name not in best or found.seconds < best[name].seconds:
                best[name] = found
    return best


def refilling(bench: Bench, pictures: int, rounds: int) -> list[dict[str, Any]]:
    """Batches that end together, and a queue: rows of the first table."""
    rows = []
    for batch, corrected in REFILLED:
        settings = {"window": 16, "method": "sjd"} | ({} if corrected else {"corrector": None})
        found = fastest(
            {
                name: lambda refill=refill, batch=batch, settings=settings: bench.draw(
                    pictures, batch, settings, refill=refill
                )
                for name, refill in (("batches", False), ("queue", True))
            },
            rounds,
        )
        rows += [
            {
                "batch": batch,
                "corrected": corrected,
                "way": name,
                "forwards": (one.forward_passes + one.prefill_passes) / pictures,
                "batch_forwards": one.forward_passes / pictures,
                "tokens_per_forward": one.tokens / one.forward_passes,
                "pictures_per_second": pictures / one.seconds,
            }
            for name, one in found.items()
        ]
    return rows


def windows(bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Seconds a picture by batch and window: rows of the second table."""
    rows = []
    for batch in BATCHES:
        pictures = max(batch, FEWEST)
        ways: dict[str, dict[str, Any]] = {TOKEN_BY_TOKEN: {"method": "ar"}}
        ways |= {str(window): {"window": window} for window in WINDOWS} | {"auto": {}}
        calls = {
            name: lambda settings=settings, pictures=pictures, batch=batch: bench.draw(
                pictures, batch, settings
            )
            for name, settings in ways.items()
        }
        found = fastest(calls, rounds)
        rows.append(
            {"batch": batch, **{name: one.seconds / pictures for name, one in found.items()}}
        )
        print(rows[-1], flush=True)
    return rows


def report(found: dict[str, Any]) -> str:
    """Both tables."""
    lines = [
        "| batch | corrector | | forwards a picture | and of prompts | tokens a forward "
        "| pictures a second |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found.get("refilling", []):
        lines.append(
            f"| {row['batch']} | {'yes' if row['corrected'] else 'no'} | {row['way']} | "
            f"{row['batch_forwards']:.2f} | "
            f"{row['forwards'] - row['batch_forwards']:.2f} | "
            f"{row['tokens_per_forward']:.1f} | {row['pictures_per_second']:.2f} |"
        )
    names = [TOKEN_BY_TOKEN, *map(str, WINDOWS), "auto"]
    shown = ["token by token", *(f"W = {window}" for window in WINDOWS), "auto"]
    lines += [
        "",
        "Seconds a picture, with guidance (two rows for every picture):",
        "",
        "| batch | " + " | ".join(shown) + " | auto against the best |",
        "|" + "---|" * (len(names) + 2),
    ]
    for row in found["windows"]:
        best = min(row[name] for name in names[:-1])
        cells = [f"{row[name]:.3f}" for name in names]
        lines.append(f"| {row['batch']} | {' | '.join(cells)} | {row['auto'] / best:.2f} |")
    lines += [
        "",
        f"Made by `python bench/bench_many.py --docs` with the embedded model: {found['on']}.",
    ]
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=48, help="of the queue (default: 48)")
    parser.add_argument("--rounds", type=int, default=3, help="fastest of so many (default: 3)")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/scale.md")
    parser.add_argument("--only", choices=["refilling", "windows"], help="measure this one anew")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given.pictures)
    bench.draw(4, 4, {})  # the first pictures pay for set-up
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found["on"] = (
        f"processor time on 1 thread, torch {torch.__version__}, {platform.machine()}, float32"
    )
    if given.only != "windows":
        found["refilling"] = refilling(bench, given.pictures, given.rounds)
    if given.only != "refilling":
        found["windows"] = windows(bench, given.rounds)
    write_json(RESULTS, found)
    print(report(found))
    if given.docs:
        start, end = "<!-- bench_many: start -->\n", "\n<!-- bench_many: end -->"
        before, rest = PAGE.read_text().split(start)
        write_text(PAGE, before + start + report(found) + end + rest.split(end)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
