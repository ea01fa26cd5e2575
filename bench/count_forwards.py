"""Forwards of the embedded model, counted: what makes decoding slower and changes no distribution.

python bench/count_forwards.py            compare with bench/forwards.json
python bench/count_forwards.py --renew    write it: for other weights, or faster decoding

Whoever renews it says in the commit why the numbers have moved.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

import sjd2
from sjd2.demo import WEIGHTS, shipped
from sjd2.demo.scenes import held_out_captions
from sjd2.sampler.presets import PRESETS

KNOWN = Path(__file__).parent / "forwards.json"
RENEW = "python bench/count_forwards.py --renew"
CAPTIONS, SEED, WINDOW = 8, 24, 32
# What another processor or torch may change: rounding flips a near tie, and with it a picture. One
# picture in a few dozen is another, which moves a method's eight by more than all together.
ELSEWHERE, ELSEWHERE_IN_ALL = 0.15, 0.02


def count() -> dict[str, Any]:
    """Forwards of every picture, by method, with what they were counted on."""
    torch.set_num_threads(1)
    model, processor = sjd2.demo.load()
    captions = held_out_captions(CAPTIONS, seed=SEED)
    inputs = processor(text=captions, generation_mode="image", padding=True, return_tensors="pt")
    found = {}
    for name, preset in PRESETS.items():
        named = {
            kind: WEIGHTS / kind if kind in preset.companions else None
            for kind in ("adapter", "corrector")
        }
        if name == "ar" or any(path and not path.is_dir() for path in named.values()):
            continue
        with sjd2.accelerated(model, window=WINDOW, **preset.settings, **named):
            model.generate(**inputs, generation_mode="image", do_sample=True, seed=SEED)
            found[name] = list(sjd2.decoding_stats(model).forward_passes)
    return {"weights": shipped(), "counted_on": machine(), "captions": captions, "forwards": found}


def machine() -> str:
    """What decides how sums are rounded."""
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def differences(known: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What has moved, a line each; exact on the machine of the known numbers."""
    if known["weights"] != found["weights"]:
        return [f"the embedded weights are others than those of {KNOWN.name}: run {RENEW}"]
    is_here = known["counted_on"] == found["counted_on"]
    totals = {
        name: [sum(one["forwards"].get(name, [])) for one in (known, found)]
        for name in sorted(known["forwards"].keys() | found["forwards"].keys())
    }
    allowed = dict.fromkeys(totals, 0.0 if is_here else ELSEWHERE)
    totals["in all"] = [sum(both) for both in zip(*totals.values(), strict=True)]
    allowed["in all"] = 0.0 if is_here else ELSEWHERE_IN_ALL
    return [
        f"{name}: {now} forwards, {was} are known"
        for name, (was, now) in totals.items()
        if abs(now - was) > allowed[name] * was
    ]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--renew", action="store_true", help=f"write {KNOWN.name}")
    renew = parser.parse_args().renew
    found = count()
    moved = differences(json.loads(KNOWN.read_text()), found) if KNOWN.is_file() else []
    for name, forwards in found["forwards"].items():
        print(f"{name}: {sum(forwards)} forwards for {len(forwards)} pictures")
    print("\n".join(moved) or "nothing has moved")
    if renew:
        KNOWN.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    return int(bool(moved))


if __name__ == "__main__":
    sys.exit(main())
