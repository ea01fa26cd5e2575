"""`sjd2 trace`: one caption drawn by two methods, as a film of both."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sjd2.cli import arguments, values

if TYPE_CHECKING:
    from sjd2.pictures.pipeline import Pipeline
    from sjd2.watch import Trace

_ENDINGS = (".gif", ".png")
_EXAMPLES = """\
examples:
  sjd2 trace "a red ring above a blue square"
  sjd2 trace "two pink discs" --methods maximal --window 64 --out race.gif
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to its parser."""
    parser.usage = "sjd2 trace CAPTION [options]"
    parser.epilog = _EXAMPLES
    arguments.add_captions(parser, 1)
    arguments.add_seed(arguments.add_drawing(parser), "every picture")
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--methods",
        metavar="[A,]B",
        type=_racers,
        help=f"two of {','.join(values.PRESET_NAMES)}; one alone races with ar (default: the "
        "fastest that draws the same picture)",
    )
    arguments.add_window(decoding)
    output = parser.add_argument_group("output")
    arguments.add_out(
        output,
        "a .gif, a .png of its last frame, or a folder, where the name is like "
        "trace-a-red-ring-seed0.gif (default: out/)",
    )
    arguments.add_force(output)
    arguments.add_printing(output)


def run(given: argparse.Namespace) -> int:
    """Draw twice, write the film, print both accounts."""
    from sjd2.cli import common
    from sjd2.files import write_atomically
    from sjd2.kernels._dispatch import select
    from sjd2.pictures.files import write_picture
    from sjd2.pictures.gallery import text_table
    from sjd2.watch import film

    select(given.backend)
    path = _target(given)
    pipeline = common.load_pipeline(given, given.captions)
    (caption,) = given.captions
    traces = _traces(given, pipeline, caption, common.sampling_of(given))
    race = film(caption, *traces)
    if path.suffix.lower() == ".gif":
        write_atomically(path, race.write_gif, force=given.force)
    else:
        write_picture(path, race.frames[-1], force=given.force)
    if given.json:
        common.print_json(
            given,
            model=given.model,
            path=str(path),
            caption=caption,
            seed=given.seed,
            traces=[
                {
                    "label": trace.label,
                    "forwards": trace.forwards,
                    "accept_lengths": list(trace.accept_lengths),
                    "committed_at": trace.committed_at.flatten().tolist(),
                }
                for trace in traces
            ],
        )
        return 0
    if not given.quiet:
        rows = [["method", "forwards", "step compression"]]
        for trace in traces:
            compression = trace.committed_at.size / trace.forwards
            rows.append([trace.label, str(trace.forwards), f"{compression:.2f}x"])
        print(text_table(rows), end="\n\n")
    print(path)
    return 0


def _racers(text: str) -> tuple[str, ...]:
    """Two names of presets, the first of them "ar" where only one is given.

    Raises:
        argparse.ArgumentTypeError: an unknown name, "ar" alone, or more than two.
    """
    names: tuple[str, ...] = values.several(values.preset)(text)
    names = names if len(names) > 1 else tuple(dict.fromkeys(("ar", *names)))
    if len(names) != 2:
        raise argparse.ArgumentTypeError(f"{text!r}: a race is between two methods")
    return names


def _target(given: argparse.Namespace) -> Path:
    """Where the film or its last frame goes.

    Raises:
        ValueError: another format, or a path that cannot be written.
    """
    from sjd2.files import check_target
    from sjd2.pictures.files import file_name

    path = Path(given.out).expanduser()
    if given.out.endswith(("/", os.sep)) or path.is_dir() or not path.suffix:
        path = path / f"trace-{file_name(given.captions[0])}-seed{given.seed}.gif"
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"{given.out}: traces end in .gif or .png; the name of a folder ends in /")
    check_target(path, force=given.force)
    return path


def _traces(
    given: argparse.Namespace, pipeline: Pipeline, caption: str, sampling: dict[str, float]
) -> tuple[Trace, Trace]:
    """The caption by two methods, from the same seed.

    Raises:
        ValueError: a method needs a companion that the model does not have.
    """
    from sjd2.cli import common
    from sjd2.companions import find_companions
    from sjd2.models import family_of
    from sjd2.pictures.drawing import draw
    from sjd2.sampler.presets import BASELINE, choose_presets
    from sjd2.watch import traces_of

    companions = find_companions(pipeline.model, family_of(pipeline.model))
    same = "gumbel" if companions.corrector is None else "corrected-gumbel"
    given_settings = {"window": given.window, "start": given.start, "backend": given.backend}
    settings = {name: value for name, value in given_settings.items() if value is not None}
    settings["progress"] = common.shows_progress(given)
    traces = []
    for preset in choose_presets(given.methods or (BASELINE, same), companions).values():
        method = preset.method(companions, trace=True, **settings)
        drawing = draw(pipeline, [caption], [given.seed], method, **sampling)
        traces += traces_of(drawing, preset.label, pipeline.grid)
    return traces[0], traces[1]
