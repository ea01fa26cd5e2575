"""`sjd2 trace`: one caption drawn twice, and how both pictures came to be."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from sjd2.companions import find_companions
from sjd2.files import check_target, write_atomically
from sjd2.models import family_of
from sjd2.pictures.drawing import draw
from sjd2.pictures.files import file_name, write_picture
from sjd2.pictures.pipeline import Pipeline
from sjd2.sampler.presets import BASELINE, choose_presets
from sjd2.watch import Film, Trace, film, traces_of

ENDINGS = (".gif", ".png")


def target(given: argparse.Namespace) -> Path:
    """Where the film or the picture goes.

    Raises:
        ValueError: another format, or nothing can be written there.
    """
    path = Path(given.out).expanduser()
    if given.out.endswith(("/", os.sep)) or path.is_dir() or not path.suffix:
        path = path / f"trace-{file_name(given.captions[0])}-seed{given.seed}.gif"
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{given.out}: traces end in .gif or .png; the name of a folder ends in /")
    check_target(path, force=given.force)
    return path


def draw_traces(
    pipeline: Pipeline,
    caption: str,
    seed: int,
    method: str | None,
    decoding: Any,
    **sampling: float,
) -> tuple[Trace, Trace]:
    """One caption token by token and accelerated, from the same seed.

    Args:
        pipeline: whose model draws.
        caption: what to draw.
        seed: of both pictures.
        method: of `PRESETS`, or None: the one that draws the same picture, corrected where the
            model carries a corrector.
        decoding: further settings of `DecodingConfig` by name, such as `window`.
        **sampling: as `draw` takes it.

    Raises:
        ValueError: the method needs what the model does not carry, or as `draw`.
    """
    companions = find_companions(pipeline.model, family_of(pipeline.model))
    if method is None:
        method = "gumbel" if companions.corrector is None else "corrected-gumbel"
    traces = []
    for preset in choose_presets((BASELINE, method), companions).values():
        chosen = preset.method(companions, trace=True, **decoding)
        drawing = draw(pipeline, [caption], [seed], chosen, **sampling)
        traces += traces_of(drawing, preset.label, pipeline.grid)
    return traces[0], traces[1]


def write(path: Path, made: Film, *, force: bool) -> None:
    """Write all frames as a GIF, or the last one as a picture."""
    if path.suffix.lower() == ".gif":
        write_atomically(path, made.write_gif, force=force)
    else:
        write_picture(path, made.frames[-1], force=force)


def run(given: argparse.Namespace, path: Path, pipeline: Pipeline, sampling: Any) -> Any:
    """Draw and write what the command line asks for; the account, JSON-ready."""
    (caption,) = given.captions
    decoding = {"window": given.window, "start": given.start, "backend": given.backend}
    traces = draw_traces(pipeline, caption, given.seed, given.method, decoding, **sampling)
    write(path, film(caption, *traces), force=given.force)
    return {
        "path": str(path),
        "caption": caption,
        "seed": given.seed,
        "traces": [
            {
                "label": trace.label,
                "forwards": trace.forwards,
                "accept_lengths": list(trace.accept_lengths),
                "committed_at": trace.committed_at.flatten().tolist(),
            }
            for trace in traces
        ],
    }
