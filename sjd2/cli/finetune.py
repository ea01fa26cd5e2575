"""`sjd2 finetune`: train an adapter, a corrector, or the whole model."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sjd2.cli import arguments, values
from sjd2.config import Schedule
from sjd2.demo import DEMO
from sjd2.extras import missing

if TYPE_CHECKING:
    from sjd2.finetune.corrector import CorrectorSettings
    from sjd2.finetune.data import Example
    from sjd2.finetune.settings import FinetuneSettings
    from sjd2.pictures.pipeline import Pipeline

_DEMO_PROMPTS = 4096
_EXAMPLES = """\
examples:
  python -m sjd2.demo.pictures --out pictures/
  sjd2 finetune --data pictures/ --out adapter/
  sjd2 generate "a red ring" --adapter adapter/
  sjd2 finetune --corrector --prompts demo --out corrector/
  sjd2 generate "a red ring" --corrector corrector/
  torchrun --nproc-per-node 8 -m sjd2 finetune --model deepseek-community/Janus-Pro-1B \\
      --data captions.jsonl --out adapter/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to its parser."""
    parser.usage = "sjd2 finetune [options]"
    parser.epilog = _EXAMPLES
    usual = "(default: %(default)s)"
    arguments.add_model(parser)
    parser.add_argument(
        "--data",
        metavar="FOLDER|JSONL|DATASET",
        help="captioned pictures: a folder with a .txt beside each or a metadata.jsonl, a .jsonl "
        "file, or a dataset that `datasets` knows",
    )
    parser.add_argument(
        "--corrector",
        action="store_true",
        help="train a corrector, which re-drafts between forwards; it learns from --prompts",
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE|demo",
        help="captions for the corrector: a text file, one per line, or those of the embedded "
        "model",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="for checkpoints and the result"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="train all parameters, as the paper does; the default is an adapter that acts on "
        "noisy inputs only, so that pictures remain the original model's",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--rank", type=values.count, help="of the adapter or the corrector")
    parser.add_argument("--steps", type=values.count, help="of the optimiser")
    parser.add_argument("--batch", type=values.count, help="pictures per step")
    parser.add_argument("--learning-rate", type=values.positive, metavar="R", help="at its peak")
    parser.add_argument("--guidance", type=values.guidance, metavar="SCALE", help="while drawing")
    parser.add_argument("--window", type=values.tokens, default=64, help=f"slots {usual}")
    parser.add_argument(
        "--denoising-steps",
        type=values.count,
        metavar="K",
        help="forwards from pure noise to a token (default: 2)",
    )
    parser.add_argument("--schedule", choices=get_args(Schedule), help="(default: linear)")
    parser.add_argument(
        "--evaluate-every", type=values.count, metavar="N", default=200, help=f"steps {usual}"
    )
    parser.add_argument("--seed", type=values.seed, default=0, help=usual)
    arguments.add_printing(parser, quiet="the folder")


def run(given: argparse.Namespace) -> int:
    """Train, write checkpoints and the result, print the measurements."""
    _refuse_unused(given)
    # transformers' Trainer takes seconds to import, and needs accelerate.
    try:
        import sjd2.finetune.trainer  # noqa: F401
    except ImportError as error:
        raise missing("fine-tuning", "train", error) from error
    import torch

    from sjd2.cli import common

    captions, examples = _read_captions(given)
    if given.device == "auto" and torch.cuda.is_available():
        # Each process that torchrun starts has a GPU of its own.
        given.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    pipeline = common.load_pipeline(given, captions)
    history = _train(given, pipeline, captions, examples)
    if int(os.environ.get("RANK", 0)):
        return 0
    if given.json:
        common.print_json(given, model=given.model, out=given.out, **history)
        return 0
    if not given.quiet:
        for entry in history["log"]:
            if "eval_step_compression" in entry:
                compression = entry["eval_step_compression"]
                print(f"step {entry['step']}: {compression:.2f}x fewer forwards")
        if measured := history.get("step_compression"):
            print("at the end:", ", ".join(f"{name} {x:.2f}x" for name, x in measured.items()))
        print(f"{history['trained_parameters']} parameters, {history['seconds']:.0f} s")
    print(given.out)
    return 0


def _refuse_unused(given: argparse.Namespace) -> None:
    """Refuse what was given and what this training has no use for.

    Raises:
        ValueError: names the option and the training.
    """
    kind = "--corrector" if given.corrector else "--full" if given.full else "an adapter"
    unused = {
        "--corrector": ("data", "full", "denoising_steps", "schedule"),
        "--full": ("prompts", "rank"),
        "an adapter": ("prompts",),
    }
    for name in unused[kind]:
        if value := getattr(given, name):
            option = f"--{name.replace('_', '-')}" + (f" {value}" if value is not True else "")
            raise ValueError(f"{option}: has no effect with {kind}")


def _read_captions(given: argparse.Namespace) -> tuple[list[str], list[Example]]:
    """The captions to learn from, and their pictures unless a corrector is trained.

    Raises:
        ValueError: the source is missing, cannot be read or is empty.
    """
    from sjd2.finetune.data import read_examples

    if given.corrector:
        if not given.prompts:
            raise ValueError("--corrector: needs --prompts, a text file with one caption per line")
        return _read_prompts(given.prompts), []
    if not given.data:
        raise ValueError(
            "--data is needed: captioned pictures to learn from (or --corrector and --prompts)"
        )
    examples = read_examples(given.data)
    return [example.caption for example in examples], examples


def _read_prompts(source: str) -> list[str]:
    """Captions of a file or of the embedded model; the last ones are for the evaluation."""
    if source != DEMO:
        return values.read_lines(source)
    from sjd2.demo.scenes import held_out_captions, sample_scene
    from sjd2.finetune.corrector import CorrectorSettings

    learned = [sample_scene(seed, "train").caption for seed in range(_DEMO_PROMPTS)]
    return learned + held_out_captions(CorrectorSettings.evaluated, seed=4)


def _train(
    given: argparse.Namespace, pipeline: Pipeline, captions: list[str], examples: list[Example]
) -> dict[str, Any]:
    """Run the training.

    Args:
        given: the arguments.
        pipeline: with the model that is trained, or given an adapter or a corrector.
        captions: to learn from, the last ones to evaluate on.
        examples: their pictures, for a denoiser.

    Returns:
        The history, as `finetune` returns it.

    Raises:
        ValueError: too few captions, a picture that cannot be read, or a run in `--out` without
            `--resume`.
    """
    from sjd2.cli import common
    from sjd2.finetune.data import picture_tokens
    from sjd2.finetune.objective import drawing_request
    from sjd2.finetune.trainer import finetune, finetune_corrector, split
    from sjd2.models import family_of

    model, processor = pipeline.model, pipeline.processor
    out, family = Path(given.out).expanduser(), family_of(model)
    corrector = _corrector_settings(given) if given.corrector else None
    denoiser = _denoiser_settings(given)
    held_out = min((corrector or denoiser).evaluated, len(captions) // 5)
    if not held_out:
        source = given.prompts if given.corrector else given.data
        raise ValueError(f"{source}: has {len(captions)} captions; at least 5 are needed")
    inputs = {name: rows.cpu() for name, rows in pipeline.inputs(captions).items()}
    learned, evaluated = split(inputs, held_out)
    sampling = {"generation_mode": "image", "do_sample": True}
    if given.guidance is not None:
        sampling["guidance_scale"] = given.guidance
    shown = {"show_progress": common.shows_progress(given)}
    if corrector is not None:
        _, history = finetune_corrector(
            model, family, learned, evaluated, sampling, out, corrector, given.resume, **shown
        )
        return history
    tokens = None
    if denoiser.full:
        geometry = drawing_request(family, evaluated, sampling).geometry
        drawn = examples[:-held_out]
        tokens = picture_tokens(family, processor, geometry, drawn, out / "tokens", **shown)
    _, history = finetune(
        model, family, learned, evaluated, tokens, sampling, out, denoiser, given.resume, **shown
    )
    if denoiser.full and int(os.environ.get("RANK", 0)) == 0:
        model.save_pretrained(out)
        processor.save_pretrained(out)
    return history


def _denoiser_settings(given: argparse.Namespace) -> FinetuneSettings:
    from sjd2.finetune.settings import FinetuneSettings

    usual = FinetuneSettings()
    if given.full:
        # Trained weights are moved gently, as the paper does.
        usual = FinetuneSettings(steps=500, batch=16, learning_rate=2e-5)
    return FinetuneSettings(
        **_training_settings(given, usual),
        full=given.full,
        denoising_steps=given.denoising_steps or usual.denoising_steps,
        schedule=given.schedule or usual.schedule,
    )


def _corrector_settings(given: argparse.Namespace) -> CorrectorSettings:
    from sjd2.finetune.corrector import CorrectorSettings

    return CorrectorSettings(**_training_settings(given, CorrectorSettings()))


def _training_settings(
    given: argparse.Namespace, usual: FinetuneSettings | CorrectorSettings
) -> dict[str, Any]:
    """The settings of every training; what was not given is as usual."""
    steps = given.steps or usual.steps
    return {
        "steps": steps,
        "batch": given.batch or usual.batch,
        "learning_rate": given.learning_rate or usual.learning_rate,
        "rank": given.rank or usual.rank,
        "window": given.window,
        "evaluate_every": min(given.evaluate_every, steps),
        "seed": given.seed,
    }
