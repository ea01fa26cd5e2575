"""Single values of the command line: read, checked, or refused with what is wanted instead."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sjd2.config import checked_seed, nearest
from sjd2.sampler.presets import PRESETS

T = TypeVar("T")


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


_INFINITY = float("inf")
count = value(int, lambda n: n >= 1, "an integer of at least 1")
guidance = value(float, lambda g: 1 <= g < _INFINITY, "a number of at least 1 (1 = off)")
temperature = value(float, lambda t: 0 < t < _INFINITY, "a number above 0")
positive = value(float, lambda rate: 0 < rate < _INFINITY, "a number above 0")
top_k = value(int, lambda k: k >= 0, "an integer of at least 0 (0 = off)")
top_p = value(float, lambda p: 0 < p <= 1, "a number above 0 and at most 1 (1 = off)")
seed = value(lambda text: checked_seed(int(text)), lambda seed: True, "from 0 to 2**63 - 1")
caption = value(str.strip, bool, "a caption, not an empty one")
port = value(int, lambda port: 0 < port < 2**16, "an integer from 1 to 65535")
tokens = value(int, lambda tokens: tokens >= 2, "auto or an integer of at least 2")


def several(one: Callable[[str], T], *, or_none: bool = False) -> Callable[[str], tuple[T, ...]]:
    """A converter of values with commas between them, each kept once; "none" is no value at all."""

    def read(text: str) -> tuple[T, ...]:
        if or_none and text.strip() == "none":
            return ()
        return tuple(dict.fromkeys(one(part.strip()) for part in text.split(",")))

    return read


def read_lines(source: str) -> list[str]:
    """The lines of a text file that say something.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        lines = Path(source).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: cannot be read as text ({error})") from error
    return [line.strip() for line in lines if line.strip()]


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
    """Passes of a corrector, or "sweep"."""
    return text if text == "sweep" else count(text)


def methods(text: str) -> tuple[str, ...]:
    """Names of methods to compare, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in PRESETS:
            raise argparse.ArgumentTypeError(f"no method {name!r}: {nearest(name, PRESETS)}")
    return names
