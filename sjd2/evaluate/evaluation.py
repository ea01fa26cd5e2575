"""`evaluate`: measure a plan, judge its pictures, write the results."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import nn

import sjd2
from sjd2.checkpoint import save_json
from sjd2.evaluate.measure import Measurement, picture_paths
from sjd2.evaluate.plan import Plan
from sjd2.evaluate.report import as_html, as_markdown
from sjd2.evaluate.summary import curve_rows, table_rows, timing_rows
from sjd2.evaluate.tables import Row
from sjd2.pictures.files import write_text


class Judge(Protocol):
    """A measure of the quality of pictures."""

    name: str

    def score(self, pictures: Sequence[Path], captions: Sequence[str]) -> float | None:
        """Of files, one caption each; None where there are too few."""


def evaluate(
    model: Any,
    processor: Any,
    plan: Plan,
    out: Path,
    companions: Mapping[str, nn.Module | None] | None = None,
    judges: Sequence[Judge] = (),
    floor: float = 0.0,
    *,
    show_progress: bool = False,
) -> tuple[Row, Row]:
    """Draw and judge everything that a plan asks for, and write it down.

    Every call of `generate` is on disk as soon as it is done. Killed and called again with the
    same arguments, it goes on where it was and ends with the same `results.json`.

    Args:
        model: of a supported family.
        processor: its processor.
        plan: what to measure.
        out: folder. `results.json` takes what does not depend on the machine's pace,
            `timings.json` what does, `results.md` and `report.html` show both; `parts/` and
            `pictures/` are what an interrupted run goes on from.
        companions: "adapter" and "corrector" of the methods that decode with them.
        judges: further measures of quality, `Fid` and `ClipScore`.
        floor: total variation that chance shows for an exact rule, where methods have one.
        show_progress: a bar of pictures on stderr.

    Returns:
        What `results.json` and `timings.json` hold.

    Raises:
        ValueError: a setting or a caption that the model cannot take.
        OSError: the folder cannot be written.

    RNG: counter-addressed by the plan's seeds; no global generator is touched.
    """
    measurement = Measurement(model, processor, plan, companions or {}, out)
    measured = measurement.run(show_progress=show_progress)
    rows = table_rows(plan, measured)
    for row, setting in zip(rows, plan.table(), strict=True):
        units = [unit for unit, _ in measured if unit.setting == setting]
        files = [path for unit in units for path in picture_paths(out, unit)]
        captions = [caption for unit in units for caption in unit.captions]
        row |= {judge.name: judge.score(files, captions) for judge in judges}
    found = {
        "sjd2": sjd2.__version__,
        "model": plan.model_name,
        "captions": list(plan.captions),
        "seeds": list(plan.seeds),
        "batch": plan.batch,
        "sampling": {
            "guidance": plan.guidance,
            "temperature": plan.temperature,
            **plan.sampling,
        },
        "floor": floor,
        "rows": rows,
        "curves": {over: curve_rows(plan, measured, over) for over in ("guidance", "temperature")},
    }
    timings = {"environment": _environment(model), "rows": timing_rows(plan, measured)}
    _write(out, found, timings)
    return found, timings


def _environment(model: Any) -> dict[str, Any]:
    """What the seconds were measured on."""
    is_gpu = model.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(model.device) if is_gpu else "CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def _write(out: Path, found: Row, timings: Row) -> None:
    save_json(out / "results.json", found)
    save_json(out / "timings.json", timings)
    write_text(out / "results.md", as_markdown(found, timings))
    write_text(out / "report.html", as_html(found, timings))
