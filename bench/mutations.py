"""Bugs put into a copy of the tree one at a time, each with the test that must notice it.

python bench/mutations.py                 all of bench/mutations.toml, as a table
python bench/mutations.py --part 2/8      every eighth, from the second on
python bench/mutations.py --only philox   those whose name, file or test matches

A mutation is "killed" if its test fails, and its test passes in the tree as it is. One that
SURVIVED is a missing test or code that does nothing; "stale" ones no longer occur exactly once in
their file; "broken" ones, or tests, cannot even be imported. One that is `equivalent` on this
machine says why, and is not run. Exit status 1 unless all are killed or explained.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")
COPIED = ("sjd2", "tests", "bench", "pyproject.toml")
SECONDS = 240  # a mutation may loop for ever; its test does not take as long


@dataclass(frozen=True)
class Mutation:
    """A bug and the test that must notice it.

    Attributes:
        name: what is wrong, in words.
        file: that it is in, from the root of the repository.
        old: text that occurs exactly once in the file.
        new: what stands there instead.
        test: pytest's name of the test, a whole file, or one test with its parameters.
        equivalent: why no test can notice it, or empty.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    equivalent: str = ""

    @property
    def is_stale(self) -> bool:
        """Whether it cannot be put into the tree as it is."""
        path = ROOT / self.file
        return not path.is_file() or path.read_text().count(self.old) != 1

    def matches(self, pattern: str) -> bool:
        """Whether a regular expression is found in name, file or test."""
        return any(re.search(pattern, text) for text in (self.name, self.file, self.test))


def read() -> list[Mutation]:
    """The list; raises TypeError where an entry has other fields."""
    return [Mutation(**entry) for entry in tomllib.loads(LIST.read_text())["mutation"]]


class Tree:
    """A copy of the repository, in which one file at a time is another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            if (ROOT / name).is_dir():
                skipped = shutil.ignore_patterns("__pycache__", "weights")
                shutil.copytree(ROOT / name, folder / name, ignore=skipped)
            else:
                shutil.copy(ROOT / name, folder / name)
        weights = Path("sjd2", "demo", "weights")
        (folder / weights).symlink_to(ROOT / weights)
        self.passing: dict[str, bool] = {}

    def outcome(self, mutation: Mutation) -> str:
        """What becomes of a mutation."""
        if mutation.is_stale:
            return "stale"
        if mutation.test not in self.passing:
            self.passing[mutation.test] = self.run(mutation.test) == 0
        if not self.passing[mutation.test]:
            return "broken"
        path = self.folder / mutation.file
        right = path.read_text()
        path.write_text(right.replace(mutation.old, mutation.new))
        try:
            status = self.run(mutation.test)
        finally:
            path.write_text(right)
        if status < 0:
            return "killed"  # by a signal: a test that crashes is noticed, too
        return {0: "SURVIVED", 1: "killed"}.get(status, "broken")

    def run(self, test: str) -> int:
        """pytest's exit status for a test in this tree; 1 where it does not end."""
        child = os.fork()
        if child == 0:
            os.setsid()
            self._run_here(test)
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return 1

    def _run_here(self, test: str) -> None:
        """Become that test."""
        import pytest

        os.chdir(self.folder)
        os.environ["PYTHONPATH"] = str(self.folder)
        sys.path[:] = [str(self.folder), *(p for p in sys.path if p not in ("", str(ROOT)))]
        with Path("printed.txt").open("w") as printed:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
        options = ["-x", "-q", "-m", "not gpu", "-p", "no:cacheprovider", "--rootdir", "."]
        status = int(pytest.main([*options, test]))
        # No clean-up: what threads and handles there are belong to the parent.
        os._exit(status)


def preload() -> None:
    """Import what every test imports, once: a run is then a fork. sjd2 must not be among it."""
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    import pytest
    import torch
    import transformers
    from PIL import Image
    from transformers import JanusForConditionalGeneration, JanusProcessor

    assert all((pytest, Image, transformers, JanusForConditionalGeneration, JanusProcessor))
    torch.set_num_threads(1)
    try:
        import triton

        assert triton.knobs.runtime.interpret
    except ImportError:
        pass
    assert "sjd2" not in sys.modules


def part_of(mutations: Sequence[Mutation], part: str) -> list[Mutation]:
    """The part "i/n" of a list, i from 1; raises ValueError for no such part."""
    number, parts = (int(word) for word in part.split("/"))
    if not 1 <= number <= parts:
        raise ValueError(f"--part {part}: must be 1/n to n/n")
    return list(mutations[number - 1 :: parts])


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", default="1/1", metavar="i/n", help="every n-th, from the i-th")
    parser.add_argument("--only", default="", metavar="REGEX", help="by name, file or test")
    asked = parser.parse_args(words)
    mutations = part_of([one for one in read() if one.matches(asked.only)], asked.part)
    preload()
    found: Counter[str] = Counter()
    print("| mutation | file | test | outcome | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        for one in mutations:
            began = time.monotonic()
            outcome = "explained" if one.equivalent and not one.is_stale else tree.outcome(one)
            found[outcome] += 1
            cells = (one.name, one.file, one.test, outcome, f"{time.monotonic() - began:.1f}")
            print("| " + " | ".join(cells) + " |", flush=True)
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.items())))
    return int(not set(found) <= {"killed", "explained"})


if __name__ == "__main__":
    sys.exit(main())
