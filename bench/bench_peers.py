"""The methods of sjd2 beside the rules of published decoders.

    python bench/bench_peers.py --out out/peers            # continues a stopped run
    python bench/bench_peers.py --out out/peers --docs     # also write docs/results.md
    python bench/bench_peers.py --out out/quick --captions 8 --seeds 1 --windows 32

Held-out captions and the embedded model, every method from the same seeds, at the model's own
guidance. Total variation is that of whole pictures of a model small enough to be enumerated.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from drawing import ROOT, put_between
from peers import PEERS

from sjd2.companions import Companions, find_companions
from sjd2.demo import DEMO
from sjd2.demo.scenes import held_out_captions
from sjd2.evaluate import Plan, evaluate
from sjd2.evaluate.report import as_markdown
from sjd2.models import family_of
from sjd2.pictures.loading import load
from sjd2.sampler.presets import Preset, choose_presets

sys.path.insert(0, str(ROOT))  # for the enumerable model of the tests
from peers.variation import total_variation


def contestants(companions: Companions, samples: int) -> tuple[dict[str, Preset], float]:
    """All methods with their distances from the target, and the distance that chance shows."""
    methods: dict[str, Preset] = {}
    floor = 0.0
    for name, preset in {**choose_presets(None, companions), **PEERS}.items():
        distance = None
        # A corrector or an adapter belongs to its model; tests/sampler proves these exact.
        if not preset.companions:
            distance, floor = total_variation(preset, samples)
        methods[name] = replace(preset, total_variation=distance)
    return methods, floor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--windows", type=int, nargs="+", default=[16, 32, 64, 96])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=200_000, help="pictures of the tiny model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/results.md")
    given = parser.parse_args()

    pipeline = load(DEMO, torch.device(given.device))
    companions = find_companions(pipeline.model, family_of(pipeline.model))
    methods, floor = contestants(companions, given.samples)
    plan = Plan(
        model_name=DEMO,
        captions=tuple(held_out_captions(given.captions, seed=2)),
        seeds=tuple(range(given.seeds)),
        methods=methods,
        windows=tuple(given.windows),
        guidance=pipeline.model.generation_config.guidance_scale,
        temperature=1.0,
        batch=given.batch,
        backend="eager",
    )
    found, timings = evaluate(
        pipeline, plan, given.out, companions, floor=floor, show_progress=True
    )
    text = as_markdown(found, timings).strip()
    print(text)
    if given.docs:
        asked = [one for one in sys.argv[1:] if one != "--docs"]
        command = " ".join(["python", "bench/bench_peers.py", *asked])
        put_between(ROOT / "docs" / "results.md", "bench_peers", f"{text}\n\nMade by `{command}`.")


if __name__ == "__main__":
    main()
