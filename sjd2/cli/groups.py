"""Groups of arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import get_args

from sjd2.cli import values
from sjd2.kernels._dispatch import Backend
from sjd2.kernels.types import Start
from sjd2.pictures.loading import DEMO


def add_model(group: argparse._ActionsContainer) -> None:
    """Which model, and where."""
    group.add_argument(
        "--model",
        metavar="demo|FOLDER|HUB_ID",
        default=DEMO,
        help="the small embedded model, which knows coloured shapes on textured grounds, or a "
        "Janus, Emu3, Lumina-mGPT or Anole (default: demo)",
    )
    group.add_argument(
        "--size",
        type=values.size,
        metavar="WIDTHxHEIGHT",
        help="of the pictures in pixels, for Emu3 and Lumina-mGPT",
    )
    group.add_argument(
        "--vq-decoder",
        metavar="FILE",
        help="what makes pixels of the tokens of Lumina-mGPT and Anole, as sjd2 convert writes it "
        "(default: vqgan.safetensors in the model's folder)",
    )
    group.add_argument(
        "--device", metavar="NAME", default="auto", help="cpu, cuda, cuda:1, ... (default: auto)"
    )


def add_drawing(
    parser: argparse.ArgumentParser, is_single: bool = False, captions: int | str = "+"
) -> None:
    """What to draw, and what is done to the logits; `is_single` is for one picture a caption."""
    parser.add_argument(
        "captions", metavar="CAPTION", nargs=captions, type=values.caption, help="what to draw"
    )
    group = parser.add_argument_group(
        "drawing", "What is not given is as in the model's own generation settings."
    )
    add_model(group)
    if is_single:
        group.add_argument(
            "--seed", type=values.seed, metavar="S", default=0, help="of every picture (default: 0)"
        )
    else:
        group.add_argument(
            "--n", type=values.count, default=1, help="pictures of each caption (default: 1)"
        )
        group.add_argument(
            "--seed",
            type=values.seed,
            metavar="S",
            default=0,
            help="of a caption's first picture (default: 0)",
        )
    add_sampling(group)


def add_sampling(group: argparse._ActionsContainer) -> None:
    """What is done to the logits."""
    group.add_argument(
        "--guidance", type=values.guidance, metavar="SCALE", help="at least 1 (1 = off)"
    )
    group.add_argument("--temperature", type=values.temperature, metavar="T", help="above 0")
    group.add_argument("--top-k", type=values.top_k, metavar="K", help="0 = off")
    group.add_argument(
        "--top-p", type=values.top_p, metavar="P", help="above 0, at most 1 (1 = off)"
    )


def add_companions(group: argparse._ActionsContainer) -> None:
    """What a method may decode with."""
    group.add_argument(
        "--adapter",
        metavar="auto|none|FOLDER",
        default="auto",
        help="the denoising adapter of --method sjd2 (default: that in the model's folder, if any)",
    )
    group.add_argument(
        "--corrector",
        metavar="auto|none|FOLDER",
        default="auto",
        help="what re-drafts between forwards (default: that in the model's folder, if any)",
    )


def add_backend(group: argparse._ActionsContainer) -> None:
    """Which implementation of the operations."""
    group.add_argument(
        "--backend", choices=get_args(Backend), default="auto", help="kernels, see sjd2 info"
    )


def add_decoding(group: argparse._ArgumentGroup) -> None:
    """How windows are made."""
    group.add_argument(
        "--window",
        type=values.window,
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
    add_backend(group)


def add_output(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """What is printed, and whether files are replaced."""
    group = parser.add_argument_group("output")
    group.add_argument("--force", action="store_true", help="replace files that are there")
    group.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    group.add_argument("--quiet", "-q", action="store_true", help="print the paths, nothing else")
    return group
