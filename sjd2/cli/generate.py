"""`sjd2 generate`: draw captions."""

from __future__ import annotations

import argparse
from typing import get_args

from sjd2.choices import Coupling
from sjd2.cli import arguments, values
from sjd2.config import DecodingConfig, MethodName, Schedule, Verification, seeds_for

_EXAMPLES = """\
examples:
  sjd2 generate "a red ring above a blue square"
  sjd2 generate "a green cross on felt" "two pink discs" --n 4 --seed 7 --out crosses/
  sjd2 generate "a dog in the rain" --model deepseek-community/Janus-Pro-1B --out dog.webp
  sjd2 generate --prompts captions.jsonl --batch 16 --out pictures/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to its parser."""
    parser.usage = "sjd2 generate CAPTION [CAPTION ...] [options]"
    parser.usage += "\n       sjd2 generate --prompts FILE --out FOLDER [options]"
    parser.epilog = _EXAMPLES
    arguments.add_captions(parser, "*")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="captions from a file: .txt with one a line, or .jsonl with objects of prompt and, if "
        "you like, id and seed; - reads standard input. Pictures are named by id, a manifest.jsonl "
        "lies beside them, and the same command goes on after a kill",
    )
    drawing = arguments.add_drawing(parser)
    drawing.add_argument(
        "--n", type=values.count, default=1, help="pictures of each caption (default: 1)"
    )
    drawing.add_argument(
        "--batch",
        type=values.count,
        metavar="B",
        default=8,
        help="pictures drawn at a time; more are a queue in which a finished one makes room for "
        "the next (default: 8)",
    )
    arguments.add_seed(drawing, "a caption's first picture; with --prompts of the whole")
    decoding = parser.add_argument_group(
        "decoding",
        "Speed only: every choice samples the model's own distribution.",
    )
    decoding.add_argument("--method", choices=get_args(MethodName), help="default: the fastest")
    decoding.add_argument(
        "--verify",
        choices=get_args(Verification),
        help="gumbel draws the very picture that --method ar draws from the same seed "
        "(default: ratio, the fastest)",
    )
    decoding.add_argument(
        "--coupling",
        choices=get_args(Coupling),
        help="maximal keeps drafts that ratio did not accept as often as exactness allows, "
        "independent draws them again (default: maximal)",
    )
    arguments.add_companions(decoding)
    decoding.add_argument(
        "--corrector-passes",
        type=values.passes,
        metavar="N|auto|sweep",
        help=f"of the corrector over a window (default: {DecodingConfig.corrector_passes})",
    )
    decoding.add_argument(
        "--denoising-steps",
        type=values.count,
        metavar="K",
        help="forwards of sjd2 from pure noise to a token (default: 2)",
    )
    decoding.add_argument(
        "--schedule",
        choices=get_args(Schedule),
        help="spacing of the noise levels of sjd2 (default: karras)",
    )
    arguments.add_window(decoding)
    output = parser.add_argument_group("output")
    arguments.add_out(
        output,
        "a .png, .jpg or .webp file, numbered if there are several pictures, or a folder, where "
        "names are like a-red-ring-seed0.png (default: out/)",
    )
    arguments.add_force(output)
    arguments.add_printing(output)


def run(given: argparse.Namespace) -> int:
    """Draw, write the pictures, print the account."""
    if bool(given.captions) == bool(given.prompts):
        raise ValueError("required: CAPTION or --prompts FILE, one of them (see --help)")
    from sjd2.cli import common, many
    from sjd2.files import check_target
    from sjd2.patching import method_of
    from sjd2.pictures.drawing import draw, verdicts
    from sjd2.pictures.files import (
        file_name,
        is_folder,
        picture_paths,
        picture_text,
        write_picture,
    )
    from sjd2.pictures.many import settings_of, settled

    config = common.decoding_config(
        given,
        method=given.method,
        verify=given.verify,
        coupling=given.coupling,
        denoising_steps=given.denoising_steps,
        schedule=given.schedule,
        corrector_passes=given.corrector_passes,
    )
    if given.method == "sjd2" and given.adapter == "none":
        raise ValueError("--method sjd2: needs --adapter, the folder of a denoising adapter")
    pictures = len(given.captions) * given.n
    if given.prompts or pictures > given.batch:
        if not is_folder(given.out):
            raise ValueError(
                f"--out {given.out}: must be a folder (it ends in /) for --prompts, or for more "
                f"than --batch {given.batch} pictures"
            )
        return many.run(given, config)
    seeds = seeds_for(given.seed, given.n)
    names = [f"{file_name(c)}-seed{seed}" for c in given.captions for seed in seeds]
    paths = picture_paths(given.out, names)
    for path in paths:
        check_target(path, force=given.force)
    pipeline = common.load_pipeline(given, given.captions)
    method, _ = method_of(pipeline.model, config, *common.companions_of(given))
    common.refuse_unused(given, [method])
    sampling = common.sampling_of(given)
    method = settled(pipeline, method, pictures, **sampling)
    settings = settings_of(method, **common.named_settings(given), **sampling)
    drawing = draw(pipeline, given.captions, seeds, method, **sampling)
    drawn = zip(paths, drawing.pictures, drawing.captions, drawing.seeds, strict=True)
    for path, picture, caption, seed in drawn:
        text = picture_text(caption, seed, settings)
        write_picture(path, picture, force=given.force, text=text)
    if given.json:
        keys = ("path", "caption", "seed", "passed")
        passed = verdicts(given.model, drawing)
        rows = zip(map(str, paths), drawing.captions, drawing.seeds, passed, strict=True)
        shown = ("method", "window", "verify", "coupling", "start", "backend")
        common.print_json(
            given,
            model=given.model,
            settings={**{name: getattr(config, name) for name in shown}, **sampling},
            pictures=[dict(zip(keys, row, strict=True)) for row in rows],
            stats=drawing.stats.to_dict(),
        )
        return 0
    if not given.quiet:
        print(drawing.stats, end="\n\n")
    print(*paths, sep="\n")
    return 0
