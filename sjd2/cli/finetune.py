"""`sjd2 finetune`: from captioned pictures to an adapter, or to a tuned model."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from sjd2.cli.drawing import prompt_of
from sjd2.finetune.data import Example, picture_tokens, read_examples
from sjd2.finetune.trainer import FinetuneSettings, caption_inputs, finetune, split
from sjd2.models import family_of


def settings_of(given: argparse.Namespace) -> FinetuneSettings:
    """The recipe that the command line asks for."""
    # Weights that know something already are moved more gently than an adapter that knows nothing.
    usual = 1e-4 if given.full else FinetuneSettings.learning_rate
    return FinetuneSettings(
        full=given.full,
        rank=given.rank,
        steps=given.steps,
        batch=given.batch,
        learning_rate=given.learning_rate or usual,
        window=given.window,
        denoising_steps=given.denoising_steps,
        schedule=given.schedule,
        evaluate_every=min(given.evaluate_every, given.steps),
        seed=given.seed,
    )


def train(
    given: argparse.Namespace, model: Any, processor: Any, examples: list[Example]
) -> dict[str, Any]:
    """Run the training that the command line asks for.

    Args:
        given: the arguments.
        model: to be trained, or to be given an adapter.
        processor: its processor.
        examples: captioned pictures, of `read_examples`.

    Returns:
        The history, as `finetune` returns it.

    Raises:
        ValueError: too few captions, a picture that cannot be read, or a run in `--out` that was
            not asked to go on.
    """
    settings, out = settings_of(given), Path(given.out).expanduser()
    family = family_of(model)
    inputs = caption_inputs(processor, [prompt_of(processor, one.caption) for one in examples])
    held_out = min(settings.evaluated, len(examples) // 5)
    if not held_out:
        raise ValueError(f"{given.data}: has {len(examples)} captions; at least 5 are needed")
    learned, evaluated = split(inputs, held_out)
    tokens = None
    if settings.full:
        tokens = picture_tokens(family, processor, examples[:-held_out], out / "tokens")
    sampling = {"generation_mode": "image", "do_sample": True}
    if given.guidance is not None:
        sampling["guidance_scale"] = given.guidance
    _, history = finetune(
        model, family, learned, evaluated, tokens, sampling, out, settings, given.resume
    )
    if settings.full and int(os.environ.get("RANK", 0)) == 0:
        model.save_pretrained(out)
        processor.save_pretrained(out)
    return history


__all__ = ["read_examples", "settings_of", "train"]
