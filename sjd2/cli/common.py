"""What the commands share once their arguments are parsed; imported by `run` only."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import transformers

from sjd2.config import DecodingConfig
from sjd2.demo import DEMO
from sjd2.kernels._dispatch import select
from sjd2.pictures.drawing import check_captions
from sjd2.pictures.loading import choose_device, load
from sjd2.pictures.pipeline import Pipeline
from sjd2.progress import Progress
from sjd2.sampler import Method


def decoding_config(given: argparse.Namespace, **settings: Any) -> DecodingConfig:
    """The settings of `add_window` and others, checked before a model is loaded.

    Args:
        given: the arguments.
        **settings: further ones of `DecodingConfig`; None is what is usual there, here and above.
    """
    select(given.backend)
    settings |= {"window": given.window, "start": given.start, "backend": given.backend}
    return DecodingConfig(
        progress=shows_progress(given),
        **{name: value for name, value in settings.items() if value is not None},
    )


def refuse_unused(given: argparse.Namespace, methods: Collection[Method]) -> None:
    """Refuse what was given and has no effect on any of the methods that will draw.

    Raises:
        ValueError: names the option, its value and what it would take.
    """
    for name, (needs, is_used) in _EFFECTS.items():
        value = getattr(given, name, None)
        if value in (None, (), "auto", "none") or any(map(is_used, methods)):
            continue
        option = name.replace("_", "-")
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise ValueError(f"--{option} {shown}: has no effect; it takes {needs}")


def _drafts(method: Method) -> bool:
    return method.name != "ar"


def _denoises(method: Method) -> bool:
    return method.name == "sjd2"


def _couples(method: Method) -> bool:
    return _drafts(method) and method.config.verify == "ratio"


_DRAFTS = ("a method other than ar", _drafts)
_DENOISES = ("method sjd2", _denoises)
_CORRECTS = ("a corrector and a method that uses it", lambda method: method.is_corrected)
# What an option takes to have an effect, in words and of a method.
_EFFECTS: dict[str, tuple[str, Callable[[Method], bool]]] = {
    "window": _DRAFTS,
    "windows": _DRAFTS,
    "start": _DRAFTS,
    "verify": _DRAFTS,
    "guidances": _DRAFTS,
    "temperatures": _DRAFTS,
    "coupling": ("verification by ratio and a method other than ar", _couples),
    "adapter": _DENOISES,
    "denoising_steps": _DENOISES,
    "schedule": _DENOISES,
    "corrector": _CORRECTS,
    "corrector_passes": _CORRECTS,
}


def load_pipeline(given: argparse.Namespace, captions: Sequence[str] = ()) -> Pipeline:
    """The model of `add_model`; captions with words that it does not know are refused."""
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # A download is worth bars on a terminal; reading a file is not.
    shows_bars = shows_progress(given) and sys.stderr.isatty()
    if not shows_bars or given.model == DEMO or Path(given.model).exists():
        transformers.utils.logging.disable_progress_bar()
    is_told = shows_progress(given) and not sys.stderr.isatty()
    with Progress(f"loading {given.model}", is_shown=is_told):
        pipeline = load(given.model, choose_device(given.device), given.size, given.vq_decoder)
    check_captions(pipeline, captions)
    return pipeline


def sampling_of(given: argparse.Namespace) -> dict[str, float]:
    """The arguments of `add_sampling` that were given, as `draw` takes them."""
    settings = {
        "guidance_scale": given.guidance,
        "temperature": given.temperature,
        "top_k": given.top_k,
        "top_p": given.top_p,
    }
    return {name: value for name, value in settings.items() if value is not None}


def companions_of(given: argparse.Namespace) -> tuple[str | None, str | None]:
    """Adapter and corrector: a folder, "auto" or None."""
    adapter, corrector = (
        None if folder == "none" else folder for folder in (given.adapter, given.corrector)
    )
    return adapter, corrector


def named_settings(given: argparse.Namespace) -> dict[str, Any]:
    """What of `add_model` and `add_companions` pictures depend on, as plain values."""
    named: dict[str, Any] = {"model": given.model, "size": given.size and list(given.size)}
    for kind in ("adapter", "corrector"):
        if getattr(given, kind) != "auto":
            named[kind] = getattr(given, kind)
    return named


def shows_progress(given: argparse.Namespace) -> bool:
    """Whether stderr says how far work is: a bar on a terminal, else a line every half minute."""
    return not getattr(given, "quiet", False)


def print_json(given: argparse.Namespace, **values: Any) -> None:
    """One object, headed by the command."""
    print(json.dumps({"command": given.command, **values}, indent=2))
