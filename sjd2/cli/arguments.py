"""Groups of arguments that several commands share. Nothing here imports torch.

What depends on the method has no default here: that of `DecodingConfig` counts, and what was given
where it has no effect can be refused.
"""

from __future__ import annotations

import argparse
from typing import get_args

from sjd2.choices import Backend, Start
from sjd2.cli import values
from sjd2.demo import DEMO


def add_model(group: argparse._ActionsContainer) -> None:
    """Which model, and on which device."""
    group.add_argument(
        "--model",
        metavar="demo|FOLDER|HUB_ID",
        default=DEMO,
        help="the small embedded model, which knows coloured shapes on textured grounds, or a "
        "Janus, Emu3, GLM-Image, Lumina-mGPT or Anole (default: demo)",
    )
    group.add_argument(
        "--size",
        type=values.size,
        metavar="WIDTHxHEIGHT",
        help="of the pictures in pixels, for Emu3, GLM-Image and Lumina-mGPT",
    )
    group.add_argument(
        "--vq-decoder",
        metavar="FILE",
        help="weights that turn the tokens of Lumina-mGPT and Anole into pixels, as sjd2 convert "
        "writes them (default: vqgan.safetensors in the model's folder)",
    )
    group.add_argument(
        "--device", metavar="NAME", default="auto", help="cpu, cuda, cuda:1, ... (default: auto)"
    )


def add_captions(parser: argparse.ArgumentParser, number: int | str = "+") -> None:
    """What to draw."""
    parser.add_argument(
        "captions", metavar="CAPTION", nargs=number, type=values.caption, help="what to draw"
    )


def add_drawing(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The model, and how it samples."""
    group = parser.add_argument_group(
        "drawing", "Defaults are the model's own generation settings."
    )
    add_model(group)
    add_sampling(group)
    return group


def add_seed(group: argparse._ActionsContainer, whose: str) -> None:
    """The seed, or the first of several."""
    group.add_argument(
        "--seed", type=values.seed, metavar="S", default=0, help=f"of {whose} (default: 0)"
    )


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
    """The adapter and the corrector."""
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
        help="re-drafts between forwards (default: that in the model's folder, if any)",
    )


def add_window(group: argparse._ActionsContainer) -> None:
    """The window and the drafts that enter it."""
    group.add_argument(
        "--window",
        type=values.window,
        metavar="W",
        help="tokens drafted per forward, at least 2; under ratio the picture of a seed depends on "
        "it (default: by the device and how many are drawn at a time)",
    )
    group.add_argument(
        "--start",
        choices=get_args(Start),
        help="first draft of a token (default: neighbour, drawn from the distribution beside it)",
    )
    add_backend(group)


def add_backend(group: argparse._ActionsContainer) -> None:
    """Which implementation of the operations."""
    group.add_argument(
        "--backend", choices=get_args(Backend), default="auto", help="kernels, see sjd2 info"
    )


def add_out(group: argparse._ActionsContainer, describes: str) -> None:
    """The file or the folder that is written."""
    group.add_argument("--out", metavar="FILE_OR_FOLDER", default="out/", help=describes)


def add_force(group: argparse._ActionsContainer) -> None:
    """Whether files are replaced."""
    group.add_argument("--force", action="store_true", help="replace existing files")


def add_printing(group: argparse._ActionsContainer, quiet: str = "the paths") -> None:
    """What is printed."""
    group = group.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    group.add_argument("--quiet", "-q", action="store_true", help=f"print {quiet}, nothing else")
