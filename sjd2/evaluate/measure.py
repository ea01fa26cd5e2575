"""Draws what a plan asks for and keeps every call's account on disk, so that a run can go on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import sjd2
from sjd2.companions import Companions, fingerprint
from sjd2.evaluate.meters import Stopwatch, peak_memory, reset_peak_memory
from sjd2.evaluate.plan import Plan, Unit
from sjd2.files import write_json
from sjd2.models import family_of
from sjd2.pictures.drawing import Drawing, draw, verdicts
from sjd2.pictures.files import write_picture
from sjd2.pictures.pipeline import Pipeline
from sjd2.placement import device_of
from sjd2.progress import Progress

# Of one call: what `decoding_stats` says of every picture, what was judged, what it cost.
Account = dict[str, Any]


class Measurement:
    """Measures the units of a plan on one model.

    Args:
        pipeline: whose model draws.
        plan: what to draw.
        companions: at hand.
        out: folder; takes `parts/`, an account per call, and `pictures/`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        plan: Plan,
        companions: Companions,
        out: Path,
    ) -> None:
        self.pipeline, self.model = pipeline, pipeline.model
        self.plan, self.out = plan, out
        self.companions = companions
        self._backbone = family_of(self.model).backbone
        self._of_model = {
            "sjd2": sjd2.__version__,
            "model": fingerprint(self._backbone),
            "device": str(device_of(self.model)),
            "dtype": str(self.model.dtype),
        }
        self._warm = False

    def run(self, *, show_progress: bool = False) -> list[tuple[Unit, Account]]:
        """Every unit with its account; what an earlier run has measured is not drawn again.

        Raises:
            ValueError: a setting or a caption that the model cannot take.
            OSError: the folder cannot be written.
        """
        (self.out / "parts").mkdir(parents=True, exist_ok=True)
        units = list(self.plan.units())
        total = sum(len(unit.captions) for unit in units)
        accounts = []
        with Progress("measuring", "pictures", total, is_shown=show_progress) as progress:
            for unit in units:
                progress.update(progress.done, unit.setting.slug)
                if account := self._kept(unit):
                    progress.skip(len(unit.captions))
                else:
                    account = self._drawn(unit)
                    progress.update(progress.done + len(unit.captions), unit.setting.slug)
                accounts.append((unit, account))
        return accounts

    def _kept(self, unit: Unit) -> Account | None:
        """The account of a unit, if it is on disk with all its pictures."""
        try:
            account: Account = json.loads(self._path(unit).read_text())
        except (OSError, ValueError):  # not there, or written by half when the disk was full
            return None
        whole = all(picture.is_file() for picture in picture_paths(self.out, unit))
        return account if whole else None

    def _drawn(self, unit: Unit) -> Account:
        """The account of a unit, drawn and put on disk."""
        account, drawing = self._draw(unit)
        for where, picture in zip(picture_paths(self.out, unit), drawing.pictures, strict=True):
            write_picture(where, picture, force=True)
        # Last, so that an account is never there without its pictures.
        write_json(self._path(unit), account)
        return account

    def _path(self, unit: Unit) -> Path:
        return self.out / "parts" / f"{self._key(unit)}.json"

    def _draw(self, unit: Unit) -> tuple[Account, Drawing]:
        if not self._warm:
            # One picture that does not count: only a first call pays for set-up.
            self._call(unit, unit.captions[:1])
            self._warm = True
        reset_peak_memory(device_of(self.model))
        with Stopwatch().running(self._backbone) as watch:
            drawing = self._call(unit, unit.captions)
        stats = drawing.stats
        return {
            "setting": asdict(unit.setting),
            "first": unit.first,
            "seed": unit.seed,
            "tokens": stats.tokens,
            "forward_passes": list(stats.forward_passes),
            "accept_lengths": [list(lengths) for lengths in stats.accept_lengths],
            "digests": [_digest(row) for row in drawing.tokens],
            "passed": verdicts(self.plan.model_name, drawing),
            "seconds": stats.seconds,
            "forward_seconds": watch.seconds,
            "peak_memory": peak_memory(device_of(self.model)),
            "environment": _environment(self.model),
        }, drawing

    def _call(self, unit: Unit, captions: tuple[str, ...]) -> Drawing:
        setting = unit.setting
        return draw(
            self.pipeline,
            captions,
            [unit.seed],
            self.plan.method(setting, self.companions),
            guidance_scale=setting.guidance,
            temperature=setting.temperature,
            **self.plan.sampling,
        )

    def _key(self, unit: Unit) -> str:
        """Names everything that an account depends on."""
        preset = self.plan.methods[unit.setting.method]
        companions = {kind: getattr(self.companions, kind) for kind in preset.companions}
        inputs = self.pipeline.inputs(unit.captions)
        key = {
            **self._of_model,
            "companions": {kind: fingerprint(one) for kind, one in companions.items()},
            "config": asdict(self.plan.method(unit.setting, self.companions).config),
            "method": (unit.setting.method, preset.label),
            "setting": asdict(unit.setting),
            "sampling": dict(self.plan.sampling),
            "captions": unit.captions,
            # The size of the pictures is in there, where a family leaves a choice.
            "inputs": {name: rows.tolist() for name, rows in inputs.items()},
            "first": unit.first,
            "seed": unit.seed,
        }
        text = json.dumps(key, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def picture_paths(out: Path, unit: Unit) -> list[Path]:
    """Where the pictures of a unit lie."""
    folder = out / "pictures" / unit.setting.slug
    numbers = range(unit.first, unit.first + len(unit.captions))
    return [folder / f"{number:04d}-seed{unit.seed}.png" for number in numbers]


def _digest(tokens: Tensor) -> str:
    """What tells a picture's tokens from those of others."""
    return hashlib.sha256(tokens.long().numpy().tobytes()).hexdigest()[:16]


def _environment(model: Any) -> dict[str, Any]:
    """What the seconds were measured on."""
    device = device_of(model)
    is_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else "CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }
