"""Converters of single values: each returns a checked value or says what is allowed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

from sjd2.choices import PresetName
from sjd2.config import checked_seed, nearest
from sjd2.ranges import COUNT, RANGES, Range

T = TypeVar("T")
PRESET_NAMES: tuple[str, ...] = get_args(PresetName)


def value(convert: Callable[[str], T], allows: Callable[[T], bool], wanted: str) -> Any:
    """A converter for argparse that says what is wanted when it gets something else."""

    def read(text: str) -> T:
        try:
            found = convert(text)
        except ValueError:
            found = None
        if found is None or not allows(found):
            raise argparse.ArgumentTypeError(f"{text!r}: must be {wanted}")
        return found

    return read


def within(limits: Range) -> Any:
    """A converter to numbers of a range."""
    return value(limits.kind, limits.__contains__, limits.wanted)


count = within(COUNT)
positive = within(Range(float, lambda x: x > 0, "a number above 0"))
guidance = within(RANGES["guidance_scale"])
temperature = within(RANGES["temperature"])
top_k = within(RANGES["top_k"])
top_p = within(RANGES["top_p"])
seed = value(lambda text: checked_seed(int(text)), lambda seed: True, "from 0 to 2**63 - 1")
caption = value(str.strip, bool, "a caption, not an empty one")
port = value(int, lambda port: 0 < port < 2**16, "an integer from 1 to 65535")
tokens = value(int, lambda tokens: tokens >= 2, "auto or an integer of at least 2")


def several(one: Callable[[str], T], *, or_none: bool = False) -> Callable[[str], tuple[T, ...]]:
    """A converter of values separated by commas, each kept once; "none" is no value at all."""

    def read(text: str) -> tuple[T, ...]:
        if or_none and text.strip() == "none":
            return ()
        return tuple(dict.fromkeys(one(part.strip()) for part in text.split(",")))

    return read


def size(text: str) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None or not (int(found[1]) and int(found[2])):
        raise argparse.ArgumentTypeError(f"{text!r}: must be pixels, such as 768x512")
    return int(found[1]), int(found[2])


def window(text: str) -> Any:
    """Slots of a window, or "auto"."""
    return text if text == "auto" else tokens(text)


def passes(text: str) -> Any:
    """Passes of a corrector, "auto" or "sweep"."""
    return text if text in ("auto", "sweep") else count(text)


def preset(text: str) -> str:
    """The name of a preset.

    Raises:
        argparse.ArgumentTypeError: an unknown one; names the nearest.
    """
    if text not in PRESET_NAMES:
        raise argparse.ArgumentTypeError(f"no method {text!r}: {nearest(text, PRESET_NAMES)}")
    return text


def read_lines(source: str) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        lines = Path(source).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: cannot be read as text ({error})") from error
    return [line.strip() for line in lines if line.strip()]
