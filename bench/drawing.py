"""Shared by the tables of methods: a model that draws held-out captions, rows, result files."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tqdm import tqdm

import sjd2
from sjd2.demo import DEMO
from sjd2.demo.checker import check
from sjd2.demo.scenes import held_out_captions
from sjd2.evaluate.summary import wilson
from sjd2.files import write_json
from sjd2.pictures.loading import load
from sjd2.sampler.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent
# SJD without companions that a model may carry.
METHODS: dict[str, dict[str, Any]] = {
    preset.label: {**preset.settings, "corrector": None}
    for preset in PRESETS.values()
    if preset.settings["method"] == "sjd" and not preset.companions
}


class Drawn(NamedTuple):
    """A batch of pictures."""

    forwards: list[int]  # of every picture
    passed: int  # the checker
    length: int  # tokens in a picture
    seconds: float  # of all, pixels excluded


@dataclass
class Row:
    """One method at one window and batch size, over all captions."""

    method: str
    window: int
    batch: int
    forwards: float  # per picture
    step_compression: float
    seconds: float  # of all pictures, pixels excluded
    passed: int
    pictures: int

    def cells(self) -> list[str]:
        """The row as text."""
        return [
            self.method,
            str(self.window),
            f"{self.forwards:.1f}",
            f"{self.step_compression:.2f}x",
            f"{self.seconds:.1f}",
            share_of(self.passed, self.pictures),
        ]


class Bench:
    """A model and the captions that it draws.

    Args:
        captions: how many, held out of the training of the embedded model.
        device: where to draw.
        weights: "demo", or the folder of a model that was fine-tuned from it.
        seeds: pictures of each caption.
    """

    def __init__(self, captions: int, device: str, weights: str = DEMO, seeds: int = 1) -> None:
        self.pipeline = load(weights, torch.device(device))
        self.model = self.pipeline.model
        self.captions = held_out_captions(captions, seed=2) * seeds
        self.guidance = self.model.generation_config.guidance_scale

    def generate(self, captions: Sequence[str], **options: Any) -> torch.Tensor:
        """Image tokens of the captions, by the model's current `generate`."""
        return self.model.generate(
            **self.pipeline.inputs(captions),
            generation_mode="image",
            do_sample=True,
            guidance_scale=self.guidance,
            **options,
        )

    def drawn(self, first: int, batch: int) -> Drawn:
        """Draw the captions from `first` on by the model's current `generate`.

        Picture `i` has seed `i`, whatever the batch.
        """
        captions = self.captions[first : first + batch]
        tokens = self.generate(captions, seed=first)
        stats = sjd2.decoding_stats(self.model)
        pictures = zip(captions, self.pipeline.pictures(tokens), strict=True)
        passed = sum(check(picture, caption).passed for caption, picture in pictures)
        return Drawn(list(stats.forward_passes), passed, tokens.shape[1], stats.seconds)

    def row(self, label: str, batch: int, **options: Any) -> Row:
        """Draw every caption, `batch` at a time; picture `i` has seed `i` in every method."""
        forwards, passed, seconds = 0, 0, 0.0
        window = options.get("window", 1)
        for first in tqdm(range(0, len(self.captions), batch), f"{label} W={window} B={batch}"):
            with sjd2.accelerated(self.model, **options):
                drawn = self.drawn(first, batch)
            forwards += sum(drawn.forwards)
            passed += drawn.passed
            seconds += drawn.seconds
        pictures = len(self.captions)
        compression = drawn.length * pictures / forwards
        per_picture = forwards / pictures
        return Row(label, window, batch, per_picture, compression, seconds, passed, pictures)


def share_of(passed: int, pictures: int) -> str:
    """How many pictures passed, in percent, with the 95 % interval."""
    low, high = wilson(passed, pictures)
    return f"{passed / pictures:.1%} ({low:.0%} to {high:.0%})"


def environment(model: Any) -> dict[str, Any]:
    """The machine and versions that the numbers were measured with."""
    on_gpu = model.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sjd2": sjd2.__version__,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def machine(where: dict[str, Any]) -> str:
    """The result of `environment` as text."""
    threads = "1 thread" if where["threads"] == 1 else f"{where['threads']} threads"
    return (
        f"{where['cores']} cores, {threads}, torch {where['torch']}, "
        f"transformers {where['transformers']}, float32"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def put_between(path: Path, name: str, text: str) -> None:
    """Replace the text between the markers of that name in a Markdown file."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, rest = path.read_text().split(start)
    after = rest.split(end)[1]
    path.write_text(f"{before}{start}\n{text}\n{end}{after}")


class Results:
    """Rows on disk, each written as soon as it is measured, so that a run can be resumed.

    Args:
        path: JSON file.
        facts: further entries of the file.
        resume: whether to keep the rows of an existing file.
    """

    def __init__(self, path: Path, facts: dict[str, Any], resume: bool) -> None:
        self.path = path
        self.known = json.loads(path.read_text())["rows"] if resume and path.is_file() else []
        asked = [one for one in sys.argv[1:] if one not in ("--resume", "--docs")]
        command = " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *asked])
        self.found: dict[str, Any] = {"command": command, **facts, "rows": []}
        path.parent.mkdir(parents=True, exist_ok=True)

    def row(self, of: dict[str, Any], draw: Any) -> None:
        """Add the row of these settings: the known one, or a new one from `draw`."""
        row = next((row for row in self.known if of.items() <= row.items()), None)
        if row is None:
            made = draw()
            row = {**(asdict(made) if isinstance(made, Row) else made), **of}
        else:
            self.known.remove(row)
        self.found["rows"].append(row)
        # Known rows that are still to come are written too, so that stopping loses none.
        write_json(self.path, {**self.found, "rows": self.found["rows"] + self.known})
