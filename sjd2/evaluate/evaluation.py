"""`evaluate`: measure a plan, judge its pictures, write the results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import sjd2
from sjd2.companions import Companions, fingerprint
from sjd2.evaluate.measure import Measurement, picture_paths
from sjd2.evaluate.plan import Plan, Unit
from sjd2.evaluate.report import Drawn, as_html, as_markdown
from sjd2.evaluate.summary import Measured, curve_rows, table_rows, timing_rows
from sjd2.evaluate.tables import Row
from sjd2.files import write_json, write_text
from sjd2.models import family_of
from sjd2.pictures.pipeline import Pipeline
from sjd2.progress import Progress
from sjd2.sampler.presets import BASELINE

_CAPTIONS = 6  # of which the report shows pictures


class Judge(Protocol):
    """A measure of the quality of pictures."""

    name: str

    def score(self, pictures: Sequence[Path], captions: Sequence[str]) -> float | None:
        """Of picture files with one caption each; None if there are too few."""


def evaluate(
    pipeline: Pipeline,
    plan: Plan,
    out: Path,
    companions: Companions | None = None,
    judges: Sequence[Judge] = (),
    floor: float = 0.0,
    *,
    show_progress: bool = False,
) -> tuple[Row, Row]:
    """Draw and judge everything in a plan, and write the results.

    Every call of `generate` is on disk as soon as it is done. After a kill, a call with the same
    arguments continues there and ends with the same `results.json`.

    Args:
        pipeline: whose model draws.
        plan: what to measure.
        out: folder. `results.json` gets what does not depend on the speed of the machine,
            `timings.json` what does, `results.md` and `report.html` show both; `parts/` and
            `pictures/` are where an interrupted run continues.
        companions: of the model, for the methods that need them.
        judges: further measures of quality, `Fid` and `ClipScore`.
        floor: total variation that an exact rule shows by chance, if methods have a measured one.
        show_progress: say on stderr how far it is, see `sjd2.progress`.

    Returns:
        The contents of `results.json` and `timings.json`.

    Raises:
        ValueError: a setting or a caption that the model cannot take; the folder holds a report of
            other settings.
        OSError: the folder cannot be written.

    RNG: counter-addressed by the plan's seeds; no global generator is touched.
    """
    _check_folder(out, pipeline, plan, companions or Companions())
    measurement = Measurement(pipeline, plan, companions or Companions(), out)
    measured = measurement.run(show_progress=show_progress)
    rows = table_rows(plan, measured)
    if judges:
        _judge(rows, out, plan, measured, judges, show_progress)
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
    timings = {"environments": _environments(measured), "rows": timing_rows(plan, measured)}
    _write(out, found, timings, _shown(out, plan))
    return found, timings


def _judge(
    rows: list[Row],
    out: Path,
    plan: Plan,
    measured: Measured,
    judges: Sequence[Judge],
    show_progress: bool,
) -> None:
    """Give every row of the table its scores."""
    with Progress("judging", "rows", len(rows), is_shown=show_progress) as progress:
        for row, setting in zip(rows, plan.table(), strict=True):
            units = [unit for unit, _ in measured if unit.setting == setting]
            files = [path for unit in units for path in picture_paths(out, unit)]
            captions = [caption for unit in units for caption in unit.captions]
            row |= {judge.name: judge.score(files, captions) for judge in judges}
            progress.update(progress.done + 1)


def _check_folder(out: Path, pipeline: Pipeline, plan: Plan, companions: Companions) -> None:
    """Keep what a report is of, and refuse a folder with one of something else.

    Raises:
        ValueError: names the settings that differ.
    """
    kinds = {kind for preset in plan.methods.values() for kind in preset.companions}
    used = {kind: getattr(companions, kind) for kind in ("adapter", "corrector")}
    settings = {
        **asdict(plan),
        "methods": list(plan.methods),
        "model": fingerprint(family_of(pipeline.model).backbone),
        **{kind: one and fingerprint(one) for kind, one in used.items() if kind in kinds},
    }
    told = json.loads(json.dumps(settings))
    path = out / "settings.json"
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):  # none yet
        write_json(path, told)
        return
    names = sorted(
        name for name in before.keys() | told.keys() if before.get(name) != told.get(name)
    )
    if names:
        raise ValueError(
            f"{out}: holds a report with other {', '.join(names)}; "
            "choose another folder, or remove it"
        )


def _environments(measured: Measured) -> list[Row]:
    """The machines that the seconds are of: one, unless a run continued elsewhere."""
    found = [account["environment"] for _, account in measured]
    return [where for at, where in enumerate(found) if where not in found[:at]]


def _shown(out: Path, plan: Plan) -> list[Drawn]:
    """The first captions, from the first seed, by every method at its widest window."""
    widest = max(plan.windows)
    settings = [one for one in plan.table() if one.method == BASELINE or one.window == widest]
    drawn = []
    for at, caption in enumerate(plan.captions[:_CAPTIONS]):
        units = [Unit(setting, at, (caption,), plan.seeds[0]) for setting in settings]
        labels = [plan.methods[unit.setting.method].label for unit in units]
        files = [picture_paths(out, unit)[0] for unit in units]
        drawn.append(Drawn(caption, list(zip(labels, files, strict=True))))
    return drawn


def _write(out: Path, found: Row, timings: Row, drawn: list[Drawn]) -> None:
    write_json(out / "results.json", found)
    write_json(out / "timings.json", timings)
    write_text(out / "results.md", as_markdown(found, timings))
    write_text(out / "report.html", as_html(found, timings, drawn))
