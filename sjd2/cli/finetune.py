"""`sjd2 finetune`: from arguments to a training, and what it leaves in the folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from sjd2.cli.values import read_lines
from sjd2.finetune.corrector import CorrectorSettings
from sjd2.finetune.data import Example, picture_tokens, read_examples
from sjd2.finetune.objective import drawing_request
from sjd2.finetune.settings import FinetuneSettings
from sjd2.finetune.trainer import finetune, finetune_corrector, split
from sjd2.models import family_of
from sjd2.pictures.loading import DEMO
from sjd2.pictures.pipeline import Pipeline

_DEMO_PROMPTS = 4096


def read_captions(given: argparse.Namespace) -> tuple[list[str], list[Example]]:
    """The captions to learn from, and their pictures unless they are for a corrector.

    Raises:
        ValueError: the source that is needed is not given, cannot be read or holds nothing.
    """
    if given.corrector:
        if not given.prompts:
            raise ValueError("--corrector: needs --prompts, a text file with one caption a line")
        return _read_prompts(given.prompts), []
    if not given.data:
        raise ValueError("--data is needed: captioned pictures to learn from")
    examples = read_examples(given.data)
    return [example.caption for example in examples], examples


def train(given: argparse.Namespace, pipeline: Pipeline, examples: list[Example]) -> dict[str, Any]:
    """Run the training that the command line asks for.

    Args:
        given: the arguments, and `captions`, as `read_captions` read them.
        pipeline: whose model is trained, or given an adapter or a corrector.
        examples: the captions' pictures, for a denoiser.

    Returns:
        The history, as `finetune` returns it.

    Raises:
        ValueError: too few captions, a picture that cannot be read, or a run in `--out` that was
            not asked to go on.
    """
    model, processor = pipeline.model, pipeline.processor
    out, family = Path(given.out).expanduser(), family_of(model)
    settings = _corrector_settings(given) if given.corrector else _denoising_settings(given)
    held_out = min(settings.evaluated, len(given.captions) // 5)
    if not held_out:
        source = given.prompts if given.corrector else given.data
        raise ValueError(f"{source}: has {len(given.captions)} captions; at least 5 are needed")
    inputs = {name: rows.cpu() for name, rows in pipeline.inputs(given.captions).items()}
    learned, evaluated = split(inputs, held_out)
    sampling = {"generation_mode": "image", "do_sample": True}
    if given.guidance is not None:
        sampling["guidance_scale"] = given.guidance
    if isinstance(settings, CorrectorSettings):
        _, history = finetune_corrector(
            model, family, learned, evaluated, sampling, out, settings, given.resume
        )
        return history
    tokens = None
    if settings.full:
        geometry = drawing_request(family, evaluated, sampling).geometry
        drawn = examples[:-held_out]
        tokens = picture_tokens(family, processor, geometry, drawn, out / "tokens")
    _, history = finetune(
        model, family, learned, evaluated, tokens, sampling, out, settings, given.resume
    )
    if settings.full and int(os.environ.get("RANK", 0)) == 0:
        model.save_pretrained(out)
        processor.save_pretrained(out)
    return history


def _common(
    given: argparse.Namespace, usual: FinetuneSettings | CorrectorSettings
) -> dict[str, Any]:
    """The settings that all trainings have; those that were not given are as usual."""
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


def _denoising_settings(given: argparse.Namespace) -> FinetuneSettings:
    usual = FinetuneSettings()
    if given.full:
        # Weights that know something already are moved gently: as the paper does.
        usual = FinetuneSettings(steps=500, batch=16, learning_rate=2e-5)
    return FinetuneSettings(
        **_common(given, usual),
        full=given.full,
        denoising_steps=given.denoising_steps,
        schedule=given.schedule,
    )


def _corrector_settings(given: argparse.Namespace) -> CorrectorSettings:
    return CorrectorSettings(**_common(given, CorrectorSettings()))


def _read_prompts(source: str) -> list[str]:
    """Captions, the last of them to evaluate on: of a file's lines, or of the embedded model."""
    if source == DEMO:
        from sjd2.demo.scenes import held_out_captions, sample_scene

        learned = [sample_scene(seed, "train").caption for seed in range(_DEMO_PROMPTS)]
        return learned + held_out_captions(CorrectorSettings.evaluated, seed=4)
    return read_lines(source)
