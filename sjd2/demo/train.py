"""The recipe of the embedded model: `python -m sjd2.demo.train --out DIR` makes it from nothing.

Five stages: the codes of picture patches (`codebook`), the tokenizer that tells and paints them
(`vq`), the training scenes as tokens (`tokens`), the language model (`lm`), and the choice of
guidance and top-k with the final measurement (`evaluate`). Three hours and twenty minutes on two
CPU cores. Kill it whenever you like; `--resume` goes on from the last checkpoint and ends at the
weights of an uninterrupted run.
"""

import argparse
import dataclasses
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import JanusForConditionalGeneration, JanusProcessor

from sjd2.checkpoint import load_state, save_state
from sjd2.demo import digest
from sjd2.demo.build import build_generation_config, build_model, build_processor, save
from sjd2.demo.captions import FORMS, VOCABULARY
from sjd2.demo.codebook import make_codebook
from sjd2.demo.evaluate import captions_by_form, pass_rate, passes
from sjd2.demo.lm import LMSettings, train_lm
from sjd2.demo.scenes import held_out_captions
from sjd2.demo.shards import Shards
from sjd2.demo.tokens import tokenize, training_tokens
from sjd2.demo.vq import VQSettings, measure_vq, train_vq
from sjd2.files import write_json


@dataclass(frozen=True)
class Settings:
    """The whole recipe; the defaults made the weights that ship with the package."""

    seed: int = 0
    workers: int = 2  # parts of a batch on a CPU; part of the recipe, as it decides the rounding
    scenes: int = 65_536  # training scenes of the language model
    validation: int = 128  # held-out scenes for the cross entropy
    measured: int = 200  # held-out scenes for the errors of the picture tokenizer
    captions_per_form: int = 200  # held-out captions for the final pass rates; 0 skips them
    tuning_captions: int = 40  # those of other scenes, of each form, to choose how to sample
    # Candidates: guidance, and how many of the 512 codes to draw from (0 is all).
    sampling: tuple[tuple[float, int], ...] = ((1.25, 0), (1.375, 0), (1.5, 0))
    vq: VQSettings = field(default_factory=VQSettings)
    lm: LMSettings = field(default_factory=LMSettings)


def train(
    out: Path,
    settings: Settings,
    device: torch.device,
    resume: bool = False,
    out_of_time: Callable[[], bool] = lambda: False,
) -> bool:
    """Runs the recipe, or what is left of it.

    Args:
        out: receives the model, its processor and metrics.json; checkpoints are kept below it.
        settings: the recipe.
        device: where to compute.
        resume: go on from the checkpoints in `out`; they must be of the same settings.
        out_of_time: asked after every step; training stops with a checkpoint when it says so.
    Returns:
        bool: whether the model is finished.
    Raises:
        ValueError: `out` holds checkpoints and `resume` is false, or they are of other settings.
    """
    kept = out / "checkpoints"
    _open_run(kept, settings, resume)
    processor = build_processor(VOCABULARY)
    tokenizer = processor.tokenizer
    model = build_model(tokenizer, settings.seed).to(device)
    vq, seed = model.model.vqmodel, settings.seed
    with Shards(device, settings.workers) as shards:
        book = make_codebook(kept, settings.vq.scenes, seed, shards)
        if not train_vq(vq, book, kept, settings.vq, device, shards, out_of_time):
            return False
        # Nobody trains the picture tokenizer any further.
        vq.requires_grad_(False)
        data = training_tokens(book, tokenizer, kept, settings.scenes, shards, out_of_time)
        if data is None:
            return False
        held_out = tokenize(book, tokenizer, range(settings.validation), "held_out", shards)
        history = train_lm(
            model, book, data, held_out, kept, settings.lm, seed, shards, out_of_time
        )
        if history is None:
            return False
    vq_seconds = round((load_state(kept / "vq.pt") or {"seconds": 0.0})["seconds"], 1)
    metrics: dict[str, Any] = {
        "tokenizer": measure_vq(vq, settings.measured, device, book) | {"seconds": vq_seconds},
        "language_model": history,
        "checker": _tune(model, processor, kept, settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "settings": dataclasses.asdict(settings),
        "machine": _machine(device),
    }
    chosen = metrics["checker"]
    model.generation_config = build_generation_config(
        tokenizer, chosen["guidance"], chosen["top_k"]
    )
    save(model.cpu(), processor, out)
    metrics["sha256"] = digest(out / "model.safetensors")
    write_json(out / "metrics.json", metrics)
    return True


def _open_run(kept: Path, settings: Settings, resume: bool) -> None:
    """Makes the checkpoint folder, or sees to it that the one that is there belongs to this run."""
    path = kept / "settings.json"
    mine = json.loads(json.dumps(dataclasses.asdict(settings)))
    if not path.exists():
        kept.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)
        return
    if not resume:
        raise ValueError(f"{kept}: holds checkpoints; resume that run, or choose another --out")
    theirs = json.loads(path.read_text())
    if other := [name for name in mine if mine[name] != theirs.get(name)]:
        raise ValueError(f"{path}: the run to resume has other settings: {', '.join(other)}")


def _tune(
    model: JanusForConditionalGeneration, processor: JanusProcessor, kept: Path, settings: Settings
) -> dict[str, Any]:
    """Chooses how to sample on some held-out captions and measures it on others.

    Each rate is kept as soon as it is known; a single candidate is taken without trying it.
    """
    of_each = settings.tuning_captions
    tuning = [caption for form in FORMS for caption in held_out_captions(of_each, 1, form)]
    path, seed = kept / "checker.pt", settings.seed
    rates: dict[str, float] = load_state(path) or {}
    for guidance, top_k in settings.sampling if len(settings.sampling) > 1 else ():
        name = _name(guidance, top_k)
        if name not in rates:
            rates[name] = pass_rate(model, processor, tuning, guidance, seed, top_k)
            save_state(path, rates)
    best, top_k = max(settings.sampling, key=lambda pair: rates.get(_name(*pair), 0.0))
    found: dict[str, Any] = {"guidance": best, "top_k": top_k, "tuning": rates}
    if settings.captions_per_form:
        forms = captions_by_form(settings.captions_per_form)
        captions = [caption for some in forms.values() for caption in some]
        passed = iter(passes(model, processor, captions, best, seed + 1, top_k))
        found["forms"] = {
            form: {"captions": len(some), "passed": sum(next(passed) for _ in some)}
            for form, some in forms.items()
        }
    return found


def _name(guidance: float, top_k: int) -> str:
    return f"guidance {guidance}, top_k {top_k}"


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sjd2.demo.train", description="Trains the embedded model from nothing."
    )
    usual = Settings()
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the model")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--scenes", type=int, default=usual.scenes)
    parser.add_argument("--vq-steps", type=int, default=usual.vq.steps)
    parser.add_argument("--lm-steps", type=int, default=usual.lm.steps)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0 when the model is finished, 3 when time ran out first."""
    given = _parse(arguments)
    usual = Settings()
    settings = dataclasses.replace(
        usual,
        seed=given.seed,
        scenes=given.scenes,
        vq=dataclasses.replace(usual.vq, steps=given.vq_steps),
        lm=dataclasses.replace(usual.lm, steps=given.lm_steps),
    )
    wanted = given.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    end = time.monotonic() + 60 * given.minutes
    try:
        finished = train(
            given.out,
            settings,
            torch.device(wanted),
            given.resume,
            lambda: time.monotonic() > end,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not finished:
        print(f"time is up; go on with: python -m sjd2.demo.train --out {given.out} --resume")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
