"""What denoising gives: SJD2 beside SJD, by window and denoising steps, on the embedded model.

    python bench/bench_denoising.py            # about a quarter of an hour on 2 cores
    python bench/bench_denoising.py --docs     # also write the table into docs/ablation.md

Beside a model of which all parameters were tuned, as the paper does:

    python -m sjd2.demo.pictures --out out/pictures -n 4000
    sjd2 finetune --data out/pictures --out out/full --full
    python bench/bench_denoising.py --full out/full --steps 2 4 8 16

Rows are written as soon as they are measured; --resume continues a stopped run. Each method draws
the same captions from the same seeds. With --full there is the cross entropy of clean held-out
pictures under the method's weights: fine-tuning could gain speed by making a model less certain.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from drawing import (
    METHODS,
    ROOT,
    Bench,
    Results,
    environment,
    machine,
    put_between,
    share_of,
    table,
)
from PIL import Image

from sjd2.demo import DEMO, WEIGHTS
from sjd2.demo.lm import picture_states, surprises
from sjd2.demo.scenes import render, sample_scene
from sjd2.models import family_of

HEAD = ("method", "W", "K", "forwards", "step compression", "checker (95 %)", "cross entropy")
_BATCH = 16  # scenes at once, in the measurement of the cross entropy


@torch.no_grad()
def cross_entropy(bench: Bench, scenes: int) -> float:
    """Nats per token of held-out pictures, encoded by the model's own tokenizer."""
    model, pipeline = bench.model, bench.pipeline
    total = 0.0
    for first in range(0, scenes, _BATCH):
        batch = [sample_scene(seed, "held_out") for seed in range(first, first + _BATCH)]
        pictures = [Image.fromarray(render(scene)) for scene in batch]
        family = family_of(model)
        codes = family.encode(pictures, pipeline.processor, family.geometry)
        prompts = pipeline.inputs([scene.caption for scene in batch])
        states = picture_states(model, prompts["input_ids"], prompts["attention_mask"], codes)
        kind, code = surprises(model.model.generation_head(states), codes)
        total += float((kind + code).mean(dim=1).sum())
    return total / scenes


def plan(windows: list[int], steps: list[int], has_full: bool) -> list[tuple[str, str, Any]]:
    """(weights, method, options of `accelerate`) of every row."""
    rows: list[tuple[str, str, Any]] = [("base", "ar", {"method": "ar"})]
    if has_full:
        rows.append(("full", "ar, full weights", {"method": "ar"}))
    for window in windows:
        published = {"window": window, **METHODS["sjd independent"], "start": "uniform"}
        rows.append(("base", "sjd independent, uniform starts", published))
        rows += [("base", name, {"window": window, **METHODS[name]}) for name in METHODS]
        corrected = {"window": window, **METHODS["sjd maximal"], "corrector": "auto"}
        rows.append(("base", "sjd maximal, corrected", corrected))
        if has_full:
            options = {"window": window, **METHODS["sjd maximal"]}
            rows.append(("full", "sjd maximal, full weights", options))
        for count in steps:
            options = {"window": window, "method": "sjd2", "denoising_steps": count}
            rows.append(("gated", "sjd2", options))
            rows.append(("gated", "sjd2, corrected", {**options, "corrector": "auto"}))
            if has_full:
                rows.append(("full", "sjd2, full weights", options))
                rows.append(("full", "sjd2 as published", {**options, "exact": False}))
    return rows


def report(found: dict[str, Any]) -> str:
    """The table in Markdown, under a line about its settings."""
    known = found["cross entropy"]
    lines = []
    for row in found["rows"]:
        line = [
            row["method"],
            str(row["window"]),
            str(row["steps"] or ""),
            f"{row['forwards']:.1f}",
            f"{row['step_compression']:.2f}x",
            share_of(row["passed"], row["pictures"]),
        ]
        lines.append([*line, f"{known[row['weights']]:.3f}"] if known else line)
    where, pictures = found["environment"], found["rows"][0]["pictures"]
    return (
        f"{pictures} pictures of held-out captions, batch {found['batch']}, guidance "
        f"{found['guidance']:g}, temperature 1, schedule {found['schedule']}, {machine(where)}. "
        f"Made by `{found['command']}`.\n\n{table(HEAD if known else HEAD[:-1], lines)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", type=Path, default=WEIGHTS / "adapter", help="its folder")
    parser.add_argument("--full", type=Path, help="folder of the fully tuned model; none: left out")
    parser.add_argument("--captions", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--steps", type=int, nargs="+", default=[2], metavar="K")
    parser.add_argument("--schedule", default="linear")
    parser.add_argument("--scenes", type=int, default=128, help="of the cross entropy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/denoising-...")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are known")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/ablation.md")
    given = parser.parse_args()
    out = given.out or ROOT / "bench" / "results" / f"denoising-{given.device}.json"
    benches = {"base": Bench(given.captions, given.device, DEMO, given.seeds)}
    benches["gated"] = benches["base"]
    adapters: dict[str, Any] = {"base": None, "gated": given.adapter}
    if given.full:
        benches["full"] = Bench(given.captions, given.device, str(given.full), given.seeds)
        adapters["full"] = given.full
    facts: dict[str, Any] = {
        "environment": environment(benches["base"].model),
        "batch": given.batch,
        "guidance": benches["base"].guidance,
        "schedule": given.schedule,
        "cross entropy": {
            name: cross_entropy(bench, given.scenes) for name, bench in benches.items()
        }
        if given.full
        else {},
    }
    results = Results(out, facts, given.resume)
    for weights, method, options in plan(given.windows, given.steps, given.full is not None):
        steps = options.get("denoising_steps")
        usual: dict[str, Any] = {"adapter": adapters[weights], "corrector": None}
        if steps:
            usual["schedule"] = given.schedule
        of = {"weights": weights, "method": method, "window": options.get("window", 1)}
        draw = partial(benches[weights].row, method, given.batch, **{**usual, **options})
        results.row(of | {"steps": steps}, draw)
    found = results.found
    print(report(found))
    if given.docs:
        put_between(ROOT / "docs" / "ablation.md", "bench_denoising", report(found))


if __name__ == "__main__":
    main()
