"""Forwards of fixed captions and seeds of the embedded model, by method: a test of speed.

    python bench/count_forwards.py             # what has moved since they were stored
    python bench/count_forwards.py --renew     # store them; say why in the commit

Whoever changes the embedded model, its corrector or its adapter, or how drafts are made, renews
them. `tests/sampler/test_forwards.py` compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import sjd2  # noqa: E402
from sjd2.demo import WEIGHTS  # noqa: E402
from sjd2.demo.scenes import held_out_captions  # noqa: E402
from sjd2.pictures.loading import load  # noqa: E402

STORED = ROOT / "tests" / "sampler" / "forwards.json"
CAPTIONS, SEED, WINDOW = 2, 25, 32

# Where a companion is not named, there is none.
METHODS: dict[str, dict[str, Any]] = {
    "independent": {"method": "sjd", "coupling": "independent"},
    "maximal": {"method": "sjd"},
    "gumbel": {"method": "sjd", "verify": "gumbel"},
    "corrected in two passes": {"method": "sjd", "corrector": "auto", "corrector_passes": 2},
    "corrected in a sweep": {"method": "sjd", "corrector": "auto", "corrector_passes": "sweep"},
    "sjd2, loud adapter": {"method": "sjd2", "adapter": "loud"},
    "sjd2": {"method": "sjd2", "adapter": "auto"},
}


def loud_adapter(model: Any) -> Any:
    """One that was never trained and changes what noise predicts, whatever the model is."""
    torch.manual_seed(7)
    adapter = sjd2.new_adapter(model, rank=2)
    with torch.no_grad():
        for weights in (*adapter.up.values(), adapter.wave.weight):
            weights.normal_(std=0.3)
    return adapter


def count() -> dict[str, list[int]]:
    """Forwards of every picture, by method."""
    torch.set_num_threads(1)
    pipeline = load("demo", torch.device("cpu"))
    model, captions = pipeline.model, held_out_captions(CAPTIONS, seed=5)
    found = {}
    for name, method in METHODS.items():
        settings = {"adapter": None, "corrector": None, **method}
        if settings["adapter"] == "auto" and not (WEIGHTS / "adapter").is_dir():
            continue  # the embedded model has none
        if settings["adapter"] == "loud":
            settings["adapter"] = loud_adapter(model)
        with sjd2.accelerated(model, window=WINDOW, **settings):
            model.generate(
                **pipeline.inputs(captions), generation_mode="image", do_sample=True, seed=SEED
            )
            found[name] = list(sjd2.decoding_stats(model).forward_passes)
    return found


def main() -> int:
    """The command line; exit status 1 where forwards have moved and are not renewed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--renew", action="store_true", help="store what is counted now")
    renew = parser.parse_args().renew
    found = count()
    before = json.loads(STORED.read_text()) if STORED.is_file() else {}
    for name in sorted(found.keys() | before.keys()):
        if (was := before.get(name)) != (now := found.get(name)):
            print(f"{name}: {was} -> {now}")
    if renew:
        lines = [f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in found.items()]
        STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(f"{len(found)} methods written to {STORED.relative_to(ROOT)}")
        return 0
    return int(found != before)


if __name__ == "__main__":
    sys.exit(main())
