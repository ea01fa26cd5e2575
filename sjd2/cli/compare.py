"""`sjd2 compare`: draw captions by several methods, side by side."""

from __future__ import annotations

import argparse
import sys

from sjd2.cli import arguments, values

_EXAMPLES = """\
example:
  sjd2 compare "a red ring above a blue square" "two pink discs" --out side-by-side.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to its parser."""
    parser.usage = "sjd2 compare CAPTION [CAPTION ...] [options]"
    parser.epilog = _EXAMPLES
    arguments.add_captions(parser)
    arguments.add_seed(arguments.add_drawing(parser), "every picture")
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--methods",
        metavar="A,B,...",
        type=values.several(values.preset),
        help=f"columns of the picture, of {','.join(values.PRESET_NAMES)} (default: all that the "
        "model allows)",
    )
    arguments.add_window(decoding)
    output = parser.add_argument_group("output")
    arguments.add_out(
        output,
        "a .png, .jpg or .webp file, or a folder, where the name is like "
        "compare-a-red-ring-seed0.png (default: out/)",
    )
    arguments.add_force(output)
    arguments.add_printing(output)


def run(given: argparse.Namespace) -> int:
    """Draw by every method, write one picture, print a table."""
    from sjd2.cli import common
    from sjd2.companions import find_companions
    from sjd2.files import check_target
    from sjd2.models import family_of
    from sjd2.pictures.comparison import compare, comparison_picture, comparison_table
    from sjd2.pictures.files import file_name, picture_paths, write_picture
    from sjd2.sampler.presets import choose_presets

    def announce(what: str) -> None:
        if not given.quiet:
            print(f"drawing: {what}", file=sys.stderr)

    config = common.decoding_config(given)
    name = f"compare-{file_name(given.captions[0])}-seed{given.seed}"
    (path,) = picture_paths(given.out, [name])
    check_target(path, force=given.force)
    pipeline = common.load_pipeline(given, given.captions)
    sampling = common.sampling_of(given)
    companions = find_companions(pipeline.model, family_of(pipeline.model))
    presets = choose_presets(given.methods, companions).values()
    common.refuse_unused(given, [preset.method(companions) for preset in presets])
    contenders = compare(
        pipeline,
        given.captions,
        given.seed,
        config,
        given.methods,
        given.model,
        announce=announce,
        **sampling,
    )
    write_picture(path, comparison_picture(contenders), force=given.force)
    if given.json:
        shown = ("window", "start", "backend")
        common.print_json(
            given,
            model=given.model,
            path=str(path),
            captions=given.captions,
            seed=given.seed,
            settings={**{name: getattr(config, name) for name in shown}, **sampling},
            methods=[contender.to_dict() for contender in contenders],
        )
        return 0
    if not given.quiet:
        print(comparison_table(contenders), end="\n\n")
    print(path)
    return 0
