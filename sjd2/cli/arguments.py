"""The arguments of the command line: what may be asked, and what a wrong request is told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

from sjd2 import __version__
from sjd2.cli import groups, values
from sjd2.config import DecodingConfig, MethodName, Schedule, Verification
from sjd2.kernels.types import Coupling
from sjd2.pictures.loading import DEMO
from sjd2.sampler.presets import PRESETS

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
_TRACE = """\
examples:
  sjd2 trace "a red ring above a blue square"
  sjd2 trace "two pink discs" --method maximal --window 64 --out race.gif
"""
_APP = """\
example:
  sjd2 app
"""
_EVALUATE = """\
examples:
  sjd2 evaluate --out report/
  sjd2 evaluate --methods ar,gumbel,maximal --windows 16,32,64,96 --seeds 2 --out report/
  sjd2 evaluate --model deepseek-community/Janus-Pro-1B --prompts captions.txt --out report/
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
    groups.add_drawing(generate)
    decoding = generate.add_argument_group(
        "decoding",
        "Speed only: every choice samples the model's own distribution.",
    )
    decoding.add_argument(
        "--method", choices=get_args(MethodName), default="auto", help="default: the fastest"
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
    groups.add_companions(decoding)
    decoding.add_argument(
        "--corrector-passes",
        type=values.passes,
        metavar="N|sweep",
        default=DecodingConfig.corrector_passes,
        help="of the corrector over a window (default: %(default)s)",
    )
    decoding.add_argument(
        "--denoising-steps",
        type=values.count,
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
    groups.add_decoding(decoding)
    output = groups.add_output(generate)
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
    groups.add_drawing(side_by_side, is_single=True)
    decoding = side_by_side.add_argument_group("decoding")
    decoding.add_argument(
        "--methods",
        metavar="A,B,...",
        type=values.methods,
        help=f"columns of the picture, of {','.join(PRESETS)} (default: all that the model allows)",
    )
    groups.add_decoding(decoding)
    output = groups.add_output(side_by_side)
    output.add_argument(
        "--out",
        metavar="FILE_OR_FOLDER",
        default="out/",
        help="a .png, .jpg or .webp file, or a folder that takes a name like "
        "compare-a-red-ring-seed0.png (default: out/)",
    )

    _add_tracing(commands)

    app = _command(commands, "app", "a local page to watch decoding on", _APP)
    groups.add_model(app)
    app.add_argument(
        "--port", type=values.port, metavar="N", help="to listen at (default: a free one)"
    )
    app.add_argument("--no-browser", action="store_true", help="do not ask a browser to show it")

    evaluation = _command(
        commands, "evaluate", "measure methods: forwards, seconds, memory and quality", _EVALUATE
    )
    _add_evaluation(evaluation)

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
    files = {"convert": "CHECKPOINT SAFETENSORS ", "trace": "CAPTION "}
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


def _add_tracing(commands: Any) -> None:
    parser = _command(
        commands, "trace", "show when each token was accepted, as a race with ar", _TRACE
    )
    groups.add_drawing(parser, is_single=True, captions=1)
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--method",
        choices=[name for name in PRESETS if name != "ar"],
        help="what races with ar (default: the fastest that draws the same picture)",
    )
    groups.add_decoding(decoding)
    output = groups.add_output(parser)
    output.add_argument(
        "--out",
        metavar="FILE_OR_FOLDER",
        default="out/",
        help="a .gif, a .png of its last frame, or a folder that takes a name like "
        "trace-a-red-ring-seed0.gif (default: out/)",
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    usual = "(default: %(default)s)"
    measured = parser.add_argument_group("what is measured")
    groups.add_model(measured)
    measured.add_argument(
        "--prompts",
        metavar="FILE|demo",
        default=DEMO,
        help="captions: a text file, one a line, or some that the embedded model has never seen",
    )
    measured.add_argument(
        "--captions", type=values.count, metavar="N", help="at most (default: all; 64 of demo's)"
    )
    measured.add_argument(
        "--seeds", type=values.count, metavar="N", default=1, help=f"pictures of each {usual}"
    )
    measured.add_argument(
        "--seed", type=values.seed, metavar="S", default=0, help=f"of the first {usual}"
    )
    measured.add_argument(
        "--methods",
        metavar="A,B,...",
        type=values.several(str),
        help=f"of {', '.join(PRESETS)} (default: all that the model has what they need for)",
    )
    measured.add_argument(
        "--windows",
        metavar="W,W,...",
        type=values.several(values.tokens),
        default=(16, 32, 64),
        help="slots (default: 16,32,64)",
    )
    measured.add_argument(
        "--guidances",
        metavar="G,G,...",
        type=values.several(values.guidance, or_none=True),
        default=(1.0, 3.0, 5.0),
        help="of a curve, on the first batch (default: 1,3,5; none = no curve)",
    )
    measured.add_argument(
        "--temperatures",
        metavar="T,T,...",
        type=values.several(values.temperature, or_none=True),
        default=(0.5, 1.0, 1.5),
        help="of a curve, on the first batch (default: 0.5,1,1.5; none = no curve)",
    )
    measured.add_argument("--batch", type=values.count, default=8, help=f"captions a call {usual}")
    groups.add_sampling(measured)
    groups.add_companions(measured)
    groups.add_backend(measured)
    quality = parser.add_argument_group(
        "quality", "The embedded model's pictures are checked in any case. Nothing is downloaded."
    )
    quality.add_argument("--fid-reference", metavar="FOLDER", help="pictures to be close to")
    quality.add_argument("--fid-weights", metavar="FILE", help="Inception of torch-fidelity")
    quality.add_argument("--clip", metavar="FOLDER", help="a CLIP model that scores captions")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="takes results.json, timings.json, results.md and report.html; a run that was "
        "stopped goes on there",
    )
    output.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    output.add_argument("--quiet", "-q", action="store_true", help="print the path, nothing else")


def _add_finetuning(parser: argparse.ArgumentParser) -> None:
    usual = "(default: %(default)s)"
    groups.add_model(parser)
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
    parser.add_argument("--rank", type=values.count, help="of what is trained beside the model")
    parser.add_argument("--steps", type=values.count, help="of the optimiser")
    parser.add_argument("--batch", type=values.count, help="pictures of a step")
    parser.add_argument("--learning-rate", type=values.positive, metavar="R", help="at its peak")
    parser.add_argument("--guidance", type=values.guidance, metavar="SCALE", help="to draw under")
    parser.add_argument("--window", type=values.tokens, default=64, help=f"slots {usual}")
    parser.add_argument(
        "--denoising-steps",
        type=values.count,
        metavar="K",
        default=4,
        help=f"noise to token {usual}",
    )
    parser.add_argument("--schedule", choices=get_args(Schedule), default="linear", help=usual)
    parser.add_argument(
        "--evaluate-every", type=values.count, metavar="N", default=200, help=f"steps {usual}"
    )
    parser.add_argument("--seed", type=values.seed, default=0, help=usual)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--quiet", "-q", action="store_true", help="print the folder, nothing else")
