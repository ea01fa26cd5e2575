"""`sjd2 evaluate`: from arguments to a plan, and what is printed of its results."""

from __future__ import annotations

import argparse
from pathlib import Path

from sjd2.cli.values import read_lines
from sjd2.companions import find_companions
from sjd2.config import seeds_for
from sjd2.evaluate import Plan, evaluate
from sjd2.evaluate.evaluation import Judge
from sjd2.evaluate.quality import ClipScore, Fid
from sjd2.evaluate.tables import Row, head_and_cells
from sjd2.files import check_target
from sjd2.kernels._dispatch import select
from sjd2.models import family_of
from sjd2.pictures.loading import DEMO
from sjd2.pictures.pipeline import Pipeline
from sjd2.sampler.presets import choose_presets


def check(given: argparse.Namespace) -> None:
    """Read the captions and refuse what cannot be met, before a model is loaded.

    Args:
        given: the arguments; gets `captions`.

    Raises:
        ValueError: no captions, an unknown method or backend, weights of a measure of quality
            without its other half, or a folder that cannot be written.
    """
    select(given.backend)
    given.captions = _captions(given.prompts, given.captions)
    if bool(given.fid_reference) != bool(given.fid_weights):
        raise ValueError("--fid-reference and --fid-weights: FID needs both of them")
    if given.methods:
        choose_presets(given.methods, None)
    check_target(Path(given.out).expanduser() / "results.json", force=True)


def run(given: argparse.Namespace, pipeline: Pipeline, show_progress: bool) -> Row:
    """Measure what the command line asks for.

    Args:
        given: the arguments, as `check` left them.
        pipeline: whose model draws.
        show_progress: a bar on stderr.

    Returns:
        The results with their timings, JSON-ready.

    Raises:
        ValueError: a method without its companion, or a measure of quality that cannot be had.
    """
    folders = (None if one == "none" else one for one in (given.adapter, given.corrector))
    companions = find_companions(pipeline.model, family_of(pipeline.model), *folders)
    settings = pipeline.model.generation_config
    guidance = given.guidance or settings.guidance_scale or 1.0
    temperature = given.temperature or settings.temperature or 1.0
    sampling = {"top_k": given.top_k, "top_p": given.top_p}
    plan = Plan(
        model_name=given.model,
        captions=tuple(given.captions),
        seeds=tuple(seeds_for(given.seed, given.seeds)),
        methods=choose_presets(given.methods, companions),
        windows=given.windows,
        guidance=guidance,
        temperature=temperature,
        guidances=given.guidances,
        temperatures=given.temperatures,
        batch=given.batch,
        sampling={name: value for name, value in sampling.items() if value is not None},
        backend=given.backend,
    )
    judges = _judges(given)
    out = Path(given.out).expanduser()
    found, timings = evaluate(pipeline, plan, out, companions, judges, show_progress=show_progress)
    return {**found, "timings": timings}


def printed(found: Row) -> list[list[str]]:
    """The table for a terminal, its head first."""
    head, cells = head_and_cells(found["rows"], found["timings"]["rows"])
    return [head, *cells]


def _captions(source: str, most: int | None) -> list[str]:
    """Captions of a file, or of those that the embedded model has never seen."""
    if source == DEMO:
        from sjd2.demo.scenes import held_out_captions

        return held_out_captions(most or 64, seed=2)
    captions = read_lines(source)[:most]
    if not captions:
        raise ValueError(f"{source}: holds no caption")
    return captions


def _judges(given: argparse.Namespace) -> list[Judge]:
    judges: list[Judge] = []
    if given.fid_reference:
        reference, weights = Path(given.fid_reference), Path(given.fid_weights)
        judges.append(Fid(reference.expanduser(), weights.expanduser()))
    if given.clip:
        judges.append(ClipScore(Path(given.clip).expanduser()))
    return judges
