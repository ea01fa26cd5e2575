"""Whether a change of the code moves any token: digests of pictures from fixed seeds.

    python bench/check_tokens.py --write out/before.json     # on the code as it was
    python bench/check_tokens.py --check out/before.json     # on the code as it is

Every method on every family, at batch 1 and 5, under top-k, top-p, guidance and a processor. The
companions are random, with large weights. Digests are comparable on one machine only: elsewhere
sums may round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import sjd2  # noqa: E402
from sjd2.demo.scenes import held_out_captions  # noqa: E402
from sjd2.pictures.loading import load  # noqa: E402
from tests.family_models import FAMILIES  # noqa: E402
from tests.janus_model import BOI, BOS, tiny_janus  # noqa: E402

Draw = Callable[..., Tensor]

METHODS: dict[str, dict[str, Any]] = {
    "ar": {"method": "ar"},
    "independent": {"method": "sjd", "coupling": "independent", "start": "uniform"},
    "repeat": {"method": "sjd", "coupling": "independent", "start": "repeat"},
    "maximal": {"method": "sjd"},
    "same-seed": {"method": "sjd", "verify": "gumbel"},
    "corrected": {"method": "sjd", "corrector": True},
    "corrected-once": {"method": "sjd", "corrector": True, "corrector_passes": 1},
    "corrected-sweep": {"method": "sjd", "corrector": True, "corrector_passes": "sweep"},
    "corrected-same-seed": {"method": "sjd", "corrector": True, "verify": "gumbel"},
    "sweep-same-seed": {
        "method": "sjd",
        "corrector": True,
        "verify": "gumbel",
        "corrector_passes": "sweep",
    },
    "sjd2": {"method": "sjd2", "adapter": True},
    "sjd2-linear": {"method": "sjd2", "adapter": True, "denoising_steps": 8, "schedule": "linear"},
    "sjd2-same-seed": {"method": "sjd2", "adapter": True, "verify": "gumbel"},
    "sjd2-corrected": {"method": "sjd2", "adapter": True, "corrector": True},
    "sjd2-published": {"method": "sjd2", "adapter": True, "exact": False},
}
SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {},
    "top-k": {"top_k": 7, "temperature": 1.3},
    "top-p": {"top_p": 0.8},
    "guidance": {"guidance_scale": 2.5},
    "guidance-top-k": {"guidance_scale": 2.5, "top_k": 9, "top_p": 0.9},
    "processor": {"logits_processor": True},
    "greedy": {"do_sample": False},
}
# Cases that also run the interpreted kernels, which are slow.
INTERPRETED_ON = ("emu3",)
INTERPRETED = ("maximal", "same-seed", "corrected", "corrected-sweep", "sjd2")


def _processor(input_ids: Tensor, scores: Tensor) -> Tensor:
    """Penalises tokens of the last token's parity, and every token a little."""
    token = torch.arange(scores.shape[-1])
    alike = (token[None] + input_ids[:, -1:]) % 2 == 0
    return scores - 1.5 * alike - 0.01 * (token % 7)


def _companions(model: Any) -> dict[str, torch.nn.Module]:
    """A random adapter and a random corrector that change what is fed and what is drafted."""
    torch.manual_seed(7)
    adapter, corrector = sjd2.new_adapter(model, rank=2), sjd2.new_corrector(model, rank=16)
    with torch.no_grad():
        for one in (*adapter.up.values(), adapter.wave.weight, corrector.shift.weight):
            one.normal_(std=0.3)
    return {"adapter": adapter, "corrector": corrector}


def _tiny_models() -> Iterator[tuple[str, Any, Draw]]:
    janus = tiny_janus()

    def draw_janus(rows: int, **options: Any) -> Tensor:
        words = [[5 + row, 6 + row, 2 * row + 7][: 1 + row % 3] for row in range(rows)]
        texts = [[BOS, *row, BOI] for row in words]
        ids = torch.tensor([[0] * (5 - len(text)) + text for text in texts])
        call = {"guidance_scale": 1.0, "do_sample": True, **options}
        return janus.generate(
            input_ids=ids, attention_mask=(ids != 0).long(), generation_mode="image", **call
        )

    yield "janus", janus, draw_janus
    for name, family in FAMILIES.items():
        model = family.make()

        def draw(rows: int, *, family: Any = family, model: Any = model, **options: Any) -> Tensor:
            ids, mask = family.prompts(4)
            ids, mask = (torch.cat((one, one))[:rows] for one in (ids, mask))
            call = {"do_sample": True, "top_k": 0, **options}
            return model.generate(input_ids=ids, attention_mask=mask, **call)

        yield name, model, draw


def _digest(tokens: Tensor, model: Any) -> list[Any]:
    forwards = sjd2.decoding_stats(model).forward_passes
    return [hashlib.sha256(tokens.long().numpy().tobytes()).hexdigest()[:16], list(forwards)]


def digests(only: str) -> dict[str, list[Any]]:
    """The digest of the tokens and the forwards of every picture, by case; `only` is a regex."""
    found: dict[str, list[Any]] = {}

    def note(case: str, model: Any, draw: Draw, rows: int, settings: dict[str, Any], **call: Any):
        if not re.search(only, case):
            return
        with sjd2.accelerated(model, **settings):
            found[case] = _digest(draw(rows, seed=11, **call), model)

    for name, model, draw in _tiny_models():
        made = _companions(model)
        for label, method in METHODS.items():
            settings = {"window": 12, "adapter": None, "corrector": None, **method}
            settings |= {kind: made[kind] for kind in made if settings[kind] is True}
            for kind, sampling in SAMPLING.items():
                call = dict(sampling)
                if call.get("logits_processor"):
                    call["logits_processor"] = [_processor]
                for rows in (1, 5):
                    note(f"{name} {label} {kind} {rows}", model, draw, rows, settings, **call)
            if name in INTERPRETED_ON and label in INTERPRETED:
                case = f"{name} {label} triton"
                triton = {**settings, "backend": "triton", "window": 5}
                note(case, model, draw, 2, triton, guidance_scale=2.5, top_k=9)
    pipeline = load("demo", torch.device("cpu"))
    captions = held_out_captions(3, seed=5)

    def draw_demo(rows: int, **options: Any) -> Tensor:
        return pipeline.model.generate(
            **pipeline.inputs(captions[:rows]), generation_mode="image", do_sample=True, **options
        )

    for label in ("maximal", "same-seed", "corrected", "corrected-sweep"):
        method = {name: one for name, one in METHODS[label].items() if name != "corrector"}
        settings = {**method, "corrector": "auto" if "corrector" in METHODS[label] else None}
        for window in (32, 64):
            case = f"demo {label} {window}"
            note(case, pipeline.model, draw_demo, 3, {**settings, "window": window})
    return found


def main() -> int:
    """The command line; exit status 1 where a token moved."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE")
    what.add_argument("--check", type=Path, metavar="FILE")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases to draw")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = digests(given.only)
    if given.write:
        given.write.parent.mkdir(parents=True, exist_ok=True)
        given.write.write_text(json.dumps(found, indent=0) + "\n")
        print(f"{len(found)} digests written to {given.write}")
        return 0
    known = json.loads(given.check.read_text())
    before = {case: one for case, one in known.items() if re.search(given.only, case)}
    moved = [case for case in before if found.get(case) != before[case]]
    for case in moved:
        print(f"moved: {case}: {before[case]} -> {found.get(case)}")
    print(f"{len(before) - len(moved)} of {len(before)} cases as before")
    return 1 if moved or found.keys() - before.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
