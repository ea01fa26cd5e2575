"""The arguments of the command line: what may be asked, and what a wrong request is told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, get_args

from sjd2 import __version__
from sjd2.cli.compare import METHODS
from sjd2.cli.drawing import DEMO
from sjd2.config import DecodingConfig, Method, Schedule, Verification, checked_seed, nearest
from sjd2.kernels._dispatch import Backend
from sjd2.kernels.types import Coupling, Start

T = TypeVar("T")

_GENERATE = """\
examples:
  sjd2 generate "a red ring above a blue square"
  sjd2 generate "a green cross on felt" "two pink discs" --n 4 --seed 7 --out crosses/
  sjd2 generate "a dog in the rain" --model deepseek-community/Janus-Pro-1B --out dog.webp
"""
_COMPARE = """\
example:
  sjd2 compare "a red ring above a blue square" "two pink discs" --out side-by-side.png
"""
_FINETUNE = """\
examples:
  python -m sjd2.demo.pictures --out pictures/
  sjd2 finetune --data pictures/ --out adapter/
  sjd2 generate "a red ring" --adapter adapter/
  sjd2 finetune --corrector --prompts demo --out corrector/
  sjd2 generate "a red ring" --corrector corrector/
  torchrun --nproc-per-node 8 -m sjd2 finetune --model deepseek-community/Janus-Pro-1B \\
      --data captions.jsonl --out adapter/
"""
_CONVERT = """\
example:
  sjd2 convert vqgan.ckpt vqgan.safetensors
"""
_INFO = """\
example:
  sjd2 info --json
"""


def complain(message: str) -> None:
    """Say on one line of stderr why a request cannot be met."""
    print("sjd2: error:", " ".join(message.split()), file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The request, its single values checked.

    Args:
        arguments: those of the command line, without the name of the program; None reads it.

    Raises:
        SystemExit: after help (0) or a wrong argument (2).
    """
    return _parser().parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    """Answers a wrong argument with one line."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sjd2",
        description="Autoregressive text-to-image models, several times faster, drawing what they "
        "always drew.",
        epilog='start with: sjd2 generate "a red ring above a blue square"',
    )
    parser.add_argument("--version", action="version", version=f"sjd2 {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    generate = _command(commands, "generate", "draw captions", _GENERATE)
    _add_drawing(generate)
    decoding = generate.add_argument_group(
        "decoding",
        "Speed only: every choice samples the model's own distribution.",
    )
    decoding.add_argument(
        "--method", choices=get_args(Method), default="auto", help="default: the fastest"
    )
    decoding.add_argument(
        "--verify",
        choices=get_args(Verification),
        default="ratio",
        help="gumbel draws the very picture that --method ar draws from the same seed "
        "(default: ratio, the fastest)",
    )
    decoding.add_argument(
        "--coupling",
        choices=get_args(Coupling),
        default="maximal",
        help="what becomes of drafts that ratio did not accept (default: maximal)",
    )
    decoding.add_argument(
        "--adapter",
        metavar="auto|none|FOLDER",
        default="auto",
        help="the denoising adapter of --method sjd2 (default: that in the model's folder, if any)",
    )
    decoding.add_argument(
        "--corrector",
        metavar="auto|none|FOLDER",
        default="auto",
        help="what re-drafts between forwards (default: that in the model's folder, if any)",
    )
    decoding.add_argument(
        "--corrector-passes",
        type=_passes,
        metavar="N|sweep",
        default=DecodingConfig.corrector_passes,
        help="of the corrector over a window (default: %(default)s)",
    )
    decoding.add_argument(
        "--denoising-steps",
        type=_count,
        metavar="K",
        default=4,
        help="forwards that sjd2 takes from pure noise to a token (default: 4)",
    )
    decoding.add_argument(
        "--schedule",
        choices=get_args(Schedule),
        default="karras",
        help="how the noise levels of sjd2 are spaced (default: karras)",
    )
    _add_decoding(decoding)
    output = _add_output(generate)
    output.add_argument(
        "--out",
        metavar="FILE_OR_FOLDER",
        default="out/",
        help="a .png, .jpg or .webp file, numbered if there are several pictures, or a folder that "
        "takes names like a-red-ring-seed0.png (default: out/)",
    )

    side_by_side = _command(
        commands, "compare", "draw captions by several methods, side by side", _COMPARE
    )
    _add_drawing(side_by_side, is_single=True)
    decoding = side_by_side.add_argument_group("decoding")
    decoding.add_argument(
        "--methods",
        metavar="A,B,...",
        type=_methods,
        default=tuple(METHODS),
        help=f"columns of the picture (default: {','.join(METHODS)})",
    )
    _add_decoding(decoding)
    output = _add_output(side_by_side)
    output.add_argument(
        "--out",
        metavar="FILE_OR_FOLDER",
        default="out/",
        help="a .png, .jpg or .webp file, or a folder that takes a name like "
        "compare-a-red-ring-seed0.png (default: out/)",
    )

    learning = _command(
        commands,
        "finetune",
        "train what makes a model need fewer forwards",
        _FINETUNE,
    )
    _add_finetuning(learning)

    convert = _command(
        commands,
        "convert",
        "make a safetensors file of an old checkpoint of Chameleon's picture decoder",
        _CONVERT,
    )
    convert.add_argument("source", metavar="CHECKPOINT", help="a .ckpt file; no code in it is run")
    convert.add_argument("out", metavar="SAFETENSORS", help="takes the decoder's weights")
    convert.add_argument("--force", action="store_true", help="replace a file that is there")

    info = _command(commands, "info", "versions, device and kernels", _INFO)
    info.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _command(commands: Any, name: str, does: str, examples: str) -> argparse.ArgumentParser:
    files = {"convert": "CHECKPOINT SAFETENSORS "}
    captions = "CAPTION [CAPTION ...] " if name in ("generate", "compare") else files.get(name, "")
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        usage=f"sjd2 {name} {captions}[options]",
        help=does,
        description=does[0].upper() + does[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_model(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--model",
        metavar="demo|FOLDER|HUB_ID",
        default=DEMO,
        help="the small embedded model, which knows coloured shapes on textured grounds, or a "
        "Janus model (default: demo)",
    )
    group.add_argument(
        "--device", metavar="NAME", default="auto", help="cpu, cuda, cuda:1, ... (default: auto)"
    )


def _add_drawing(parser: argparse.ArgumentParser, is_single: bool = False) -> None:
    parser.add_argument(
        "captions", metavar="CAPTION", nargs="+", type=_caption, help="what to draw"
    )
    group = parser.add_argument_group(
        "drawing", "What is not given is as in the model's own generation settings."
    )
    _add_model(group)
    if is_single:
        group.add_argument(
            "--seed", type=_seed, metavar="S", default=0, help="of every picture (default: 0)"
        )
    else:
        group.add_argument(
            "--n", type=_count, default=1, help="pictures of each caption (default: 1)"
        )
        group.add_argument(
            "--seed",
            type=_seed,
            metavar="S",
            default=0,
            help="of a caption's first picture (default: 0)",
        )
    group.add_argument("--guidance", type=_guidance, metavar="SCALE", help="at least 1 (1 = off)")
    group.add_argument("--temperature", type=_temperature, metavar="T", help="above 0")
    group.add_argument("--top-k", type=_top_k, metavar="K", help="0 = off")
    group.add_argument("--top-p", type=_top_p, metavar="P", help="above 0, at most 1 (1 = off)")


def _add_finetuning(parser: argparse.ArgumentParser) -> None:
    usual = "(default: %(default)s)"
    _add_model(parser)
    parser.add_argument(
        "--data",
        metavar="FOLDER|JSONL|DATASET",
        help="captioned pictures: a folder with a .txt beside each or a metadata.jsonl, a .jsonl "
        "file, or a dataset that `datasets` knows",
    )
    parser.add_argument(
        "--corrector",
        action="store_true",
        help="train a corrector, which re-drafts between forwards; it learns from --prompts",
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE|demo",
        help="captions for the corrector: a text file, one a line, or those of the embedded model",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="takes checkpoints and the adapter"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="train all parameters, as the paper does; the default is an adapter that acts on "
        "noisy inputs only, so that pictures remain the original model's",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--rank", type=_count, help="of what is trained beside the model")
    parser.add_argument("--steps", type=_count, help="of the optimiser")
    parser.add_argument("--batch", type=_count, default=16, help=f"pictures of a step {usual}")
    parser.add_argument("--learning-rate", type=_positive, metavar="R", help="at its peak")
    parser.add_argument("--guidance", type=_guidance, metavar="SCALE", help="to draw under")
    parser.add_argument("--window", type=_tokens, default=64, help=f"slots {usual}")
    parser.add_argument(
        "--denoising-steps", type=_count, metavar="K", default=4, help=f"noise to token {usual}"
    )
    parser.add_argument("--schedule", choices=get_args(Schedule), default="linear", help=usual)
    parser.add_argument(
        "--evaluate-every", type=_count, metavar="N", default=200, help=f"steps {usual}"
    )
    parser.add_argument("--seed", type=_seed, default=0, help=usual)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--quiet", "-q", action="store_true", help="print the folder, nothing else")


def _add_decoding(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--window",
        type=_window,
        metavar="W",
        default="auto",
        help="tokens guessed at in one forward, at least 2 (default: 64, on a CPU 32)",
    )
    group.add_argument(
        "--start",
        choices=get_args(Start),
        default="neighbour",
        help="first guess at a token (default: neighbour, a draw from the law beside it)",
    )
    group.add_argument(
        "--backend", choices=get_args(Backend), default="auto", help="kernels, see sjd2 info"
    )


def _add_output(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("output")
    group.add_argument("--force", action="store_true", help="replace files that are there")
    group.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    group.add_argument("--quiet", "-q", action="store_true", help="print the paths, nothing else")
    return group


def _value(convert: Callable[[str], T], allows: Callable[[T], bool], wanted: str) -> Any:
    """A converter for argparse that says what is wanted when it gets something else."""

    def read(text: str) -> T:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not allows(value):
            raise argparse.ArgumentTypeError(f"{text!r}: must be {wanted}")
        return value

    return read


_INFINITY = float("inf")
_count = _value(int, lambda n: n >= 1, "an integer of at least 1")
_guidance = _value(float, lambda g: 1 <= g < _INFINITY, "a number of at least 1 (1 = off)")
_temperature = _value(float, lambda t: 0 < t < _INFINITY, "a number above 0")
_positive = _value(float, lambda rate: 0 < rate < _INFINITY, "a number above 0")
_top_k = _value(int, lambda k: k >= 0, "an integer of at least 0 (0 = off)")
_top_p = _value(float, lambda p: 0 < p <= 1, "a number above 0 and at most 1 (1 = off)")
_seed = _value(lambda text: checked_seed(int(text)), lambda seed: True, "from 0 to 2**63 - 1")
_caption = _value(str.strip, bool, "a caption, not an empty one")
_tokens = _value(int, lambda tokens: tokens >= 2, "auto or an integer of at least 2")


def _window(text: str) -> Any:
    return text if text == "auto" else _tokens(text)


def _passes(text: str) -> Any:
    return text if text == "sweep" else _count(text)


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(f"no method {name!r}: {nearest(name, METHODS)}")
    return names
