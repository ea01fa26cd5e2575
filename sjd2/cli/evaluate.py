"""`sjd2 evaluate`: measure methods on one model, and write a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sjd2.cli import arguments, values
from sjd2.config import seeds_for
from sjd2.demo import DEMO

if TYPE_CHECKING:
    from sjd2.companions import Companions
    from sjd2.evaluate import Plan
    from sjd2.evaluate.evaluation import Judge
    from sjd2.pictures.pipeline import Pipeline

_EXAMPLES = """\
examples:
  sjd2 evaluate --out report/
  sjd2 evaluate --methods ar,gumbel,maximal --windows 16,32,64,96 --seeds 2 --out report/
  sjd2 evaluate --model deepseek-community/Janus-Pro-1B --prompts captions.txt --out report/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to its parser."""
    parser.usage = "sjd2 evaluate [options]"
    parser.epilog = _EXAMPLES
    usual = "(default: %(default)s)"
    measured = parser.add_argument_group("what is measured")
    arguments.add_model(measured)
    measured.add_argument(
        "--prompts",
        metavar="FILE|demo",
        default=DEMO,
        help="captions: a text file, one per line, or captions that the embedded model has never "
        "seen",
    )
    measured.add_argument(
        "--captions", type=values.count, metavar="N", help="at most (default: all; 64 of demo's)"
    )
    measured.add_argument(
        "--seeds", type=values.count, metavar="N", default=1, help=f"pictures per caption {usual}"
    )
    arguments.add_seed(measured, "each caption's first picture")
    measured.add_argument(
        "--methods",
        metavar="A,B,...",
        type=values.several(values.preset),
        help=f"of {', '.join(values.PRESET_NAMES)} (default: all that the model has companions "
        "for)",
    )
    measured.add_argument(
        "--windows",
        metavar="W,W,...",
        type=values.several(values.tokens),
        help="slots (default: 16,32,64)",
    )
    measured.add_argument(
        "--guidances",
        metavar="G,G,...",
        type=values.several(values.guidance, or_none=True),
        help="of a curve, on the first batch (default: 1,3,5; none = no curve)",
    )
    measured.add_argument(
        "--temperatures",
        metavar="T,T,...",
        type=values.several(values.temperature, or_none=True),
        help="of a curve, on the first batch (default: 0.5,1,1.5; none = no curve)",
    )
    measured.add_argument("--batch", type=values.count, default=8, help=f"captions a call {usual}")
    arguments.add_sampling(measured)
    arguments.add_companions(measured)
    arguments.add_backend(measured)
    quality = parser.add_argument_group(
        "quality", "The embedded model's pictures are always checked. Nothing is downloaded."
    )
    quality.add_argument("--fid-reference", metavar="FOLDER", help="pictures to compare with")
    quality.add_argument("--fid-weights", metavar="FILE", help="Inception of torch-fidelity")
    quality.add_argument("--clip", metavar="FOLDER", help="a CLIP model that scores captions")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="for results.json, timings.json, results.md and report.html; an interrupted run "
        "continues there, and one with other settings is refused",
    )
    arguments.add_printing(output, quiet="the path")


def run(given: argparse.Namespace) -> int:
    """Measure, write the report, print its table."""
    from sjd2.cli import common
    from sjd2.companions import find_companions
    from sjd2.evaluate import evaluate
    from sjd2.evaluate.tables import head_and_cells
    from sjd2.files import check_target
    from sjd2.kernels._dispatch import select
    from sjd2.models import family_of
    from sjd2.pictures.gallery import text_table

    select(given.backend)
    captions = _captions(given)
    if bool(given.fid_reference) != bool(given.fid_weights):
        raise ValueError("--fid-reference and --fid-weights: FID needs both")
    out = Path(given.out).expanduser()
    check_target(out / "results.json", force=True)
    pipeline = common.load_pipeline(given, captions)
    model = pipeline.model
    companions = find_companions(model, family_of(model), *common.companions_of(given))
    plan = _plan(given, pipeline, captions, companions)
    methods = [preset.method(companions) for preset in plan.methods.values()]
    common.refuse_unused(given, methods)
    found, timings = evaluate(
        pipeline,
        plan,
        out,
        companions,
        _judges(given),
        show_progress=common.shows_progress(given),
    )
    if given.json:
        common.print_json(given, out=given.out, **found, timings=timings)
        return 0
    if not given.quiet:
        head, cells = head_and_cells(found["rows"], timings["rows"])
        print(text_table([head, *cells]), end="\n\n")
    print(Path(given.out) / "report.html")
    return 0


def _captions(given: argparse.Namespace) -> list[str]:
    """Captions of a file, or some that the embedded model has never seen.

    Raises:
        ValueError: the file cannot be read or is empty.
    """
    if given.prompts == DEMO:
        from sjd2.demo.scenes import held_out_captions

        return held_out_captions(given.captions or 64, seed=2)
    captions = values.read_lines(given.prompts)[: given.captions]
    if not captions:
        raise ValueError(f"{given.prompts}: holds no caption")
    return captions


def _plan(
    given: argparse.Namespace, pipeline: Pipeline, captions: list[str], companions: Companions
) -> Plan:
    """What to measure; the model's own generation settings where none are given.

    Raises:
        ValueError: a method without its companion.
    """
    from sjd2.evaluate import Plan
    from sjd2.sampler.presets import choose_presets

    usual = pipeline.model.generation_config
    sampling = {"top_k": given.top_k, "top_p": given.top_p}
    return Plan(
        model_name=given.model,
        captions=tuple(captions),
        seeds=tuple(seeds_for(given.seed, given.seeds)),
        methods=choose_presets(given.methods, companions),
        windows=given.windows or (16, 32, 64),
        guidance=given.guidance or usual.guidance_scale or 1.0,
        temperature=given.temperature or usual.temperature or 1.0,
        guidances=(1.0, 3.0, 5.0) if given.guidances is None else given.guidances,
        temperatures=(0.5, 1.0, 1.5) if given.temperatures is None else given.temperatures,
        batch=given.batch,
        sampling={name: value for name, value in sampling.items() if value is not None},
        backend=given.backend,
    )


def _judges(given: argparse.Namespace) -> list[Judge]:
    """The measures of quality that were asked for.

    Raises:
        ValueError: weights that cannot be read, or torchmetrics is not installed.
    """
    from sjd2.cli import common
    from sjd2.evaluate.quality import ClipScore, Fid
    from sjd2.progress import Progress

    judges: list[Judge] = []
    if given.fid_reference:
        reference, weights = Path(given.fid_reference), Path(given.fid_weights)
        with Progress(f"reading {reference}", is_shown=common.shows_progress(given)):
            judges.append(Fid(reference.expanduser(), weights.expanduser()))
    if given.clip:
        judges.append(ClipScore(Path(given.clip).expanduser()))
    return judges
