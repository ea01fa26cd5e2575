"""Captions from a file or a stream, line by line: never more of them in memory than are drawn."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sjd2.config import checked_seed
from sjd2.pictures.files import file_name, numbered
from sjd2.pictures.many import Wanted, picture_seed

STDIN = "-"
_FORMATS = (".txt", ".jsonl")
_LONGEST_ID = 200  # bytes; with an ending it is a file name on all common systems
_KNOWN = {"id", "prompt", "seed"}


def read_prompts(source: str, seed: int, n: int = 1) -> Iterator[Wanted]:
    """The pictures that a file asks for, in its order.

    A .txt file has a caption a line; ids are the numbers of the lines. A .jsonl file has an object
    a line: "prompt", and "id" and "seed" if need be. Blank lines are skipped. From standard input
    (`-`) come lines of either kind. A picture without a seed gets one that follows from `seed` and
    its id.

    Args:
        source: the file, or "-".
        seed: of the whole.
        n: pictures of each caption; with more than one, their ids end in -1, -2, ...; so do seeds
            that are given rise by one.

    Raises:
        ValueError: it cannot be read; a line is none of these (named by its number).
    """
    for number, line in enumerate(_lines(source), start=1):
        if line.strip():
            where = f"{'standard input' if source == STDIN else source}, line {number}"
            yield from _wanted(line.strip(), number, where, source, seed, n)


def listed(captions: Sequence[str], seed: int, n: int) -> Iterator[Wanted]:
    """Captions given one by one: each `n` times, with the seeds from `seed` on."""
    names = numbered([file_name(caption) for caption in captions])
    for name, caption in zip(names, captions, strict=True):
        for one in range(seed, seed + n):
            yield Wanted(f"{name}-seed{one}", caption, one)


def count_prompts(source: str, n: int = 1) -> int | None:
    """How many pictures a file asks for; None for standard input. Raises as `read_prompts`."""
    if source == STDIN:
        return None
    return n * sum(1 for line in _lines(source) if line.strip())


def share(wanted: Iterable[Wanted], rank: int, world: int) -> Iterator[Wanted]:
    """Every `world`-th picture, for one of as many processes."""
    return (one for number, one in enumerate(wanted) if number % world == rank)


def _lines(source: str) -> Iterator[str]:
    if source == STDIN:
        yield from sys.stdin
        return
    path = Path(source).expanduser()
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(
            f"{source}: captions are read from {' or '.join(_FORMATS)}, or - for stdin"
        )
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: cannot be read as text ({error})") from error


def _wanted(line: str, number: int, where: str, source: str, seed: int, n: int) -> Iterator[Wanted]:
    name, own_seed, caption = f"{number:06d}", None, line
    if source.lower().endswith(".jsonl") or (source == STDIN and line.startswith("{")):
        row = _object(line, where)
        name, own_seed, caption = str(row.get("id", name)), row.get("seed"), row["prompt"].strip()
    if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*", name) or (
        len(name.encode()) > _LONGEST_ID
    ):
        raise ValueError(f"{where}: id {name!r} is no name for a file")
    try:
        first = None if own_seed is None else checked_seed(own_seed)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for picture in range(n):
        numbered = name if n == 1 else f"{name}-{picture + 1}"
        its = picture_seed(seed, numbered) if first is None else checked_seed(first + picture)
        yield Wanted(numbered, caption, its)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise ValueError(f'{where}: must be an object with a text "prompt"')
    if not row["prompt"].strip():
        raise ValueError(f'{where}: its "prompt" is empty')
    if unknown := sorted(row.keys() - _KNOWN):
        raise ValueError(
            f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(_KNOWN))}"
        )
    return row
