"""The "Kills:" lines of the tests, executed: each mutation of the code must fail the test it names.

    python bench/mutations.py                  # all of them, on one core about 15 minutes
    python bench/mutations.py --part 1/4       # every fourth, for jobs side by side
    python bench/mutations.py --only philox    # those whose name or file matches

The tree is copied to a temporary folder, where one text after another is replaced and the tests run
that are to notice. First the same tests run on the copy as it is: a test that fails anyway kills
nothing. The mutations are in `bench/mutation_list.py`. The exit status is 1 where one survives that
the list does not explain, or where nothing could be said.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

from bench.mutation_list import MUTATIONS, Mutation  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # as tests/conftest.py, before Triton is there

import transformers  # noqa: E402

# Imported once, for all mutations.
_USED = (transformers.JanusForConditionalGeneration, transformers.GenerationMixin)

KILLED, SURVIVED, BROKEN = "killed", "SURVIVED", "BROKEN"
_LIMIT = 600  # seconds, of the tests of one mutation
_PASSED, _FAILED, _NO_STATUS = 0, 1, 128  # the first two are pytest's
_PRINTED = "printed.txt"


def copy_tree(target: Path) -> None:
    """Every file that git knows of or would add, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def mutated(text: str, mutation: Mutation) -> str:
    """The text of a file with the mutation in it.

    Raises:
        ValueError: what is to be replaced does not occur exactly once.
    """
    if (found := text.count(mutation.old)) != 1:
        raise ValueError(
            f"{mutation.name}: {mutation.file} has {mutation.old!r} {found} times, not once"
        )
    return text.replace(mutation.old, mutation.new)


def run_tests(tree: Path, tests: Sequence[str]) -> int:
    """pytest on a copy of the tree, up to the first failure: its exit status, 128 for none.

    In a fork: what takes most of the time is importing torch and transformers, and they are the
    same for all.
    """
    sys.stdout.flush()
    if child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status if status >= 0 else _NO_STATUS
    status = _NO_STATUS
    try:
        signal.alarm(_LIMIT)
        with (tree / _PRINTED).open("w") as printed:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
        os.chdir(tree)
        # Bytecode of one mutation may pass for that of the next: a file as old and as long.
        sys.dont_write_bytecode = True
        # Of processes that tests start.
        os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() != ROOT)]
        for name in [name for name in sys.modules if name.partition(".")[0] == "bench"]:
            del sys.modules[name]
        status = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(status)


def judge(tree: Path, mutation: Mutation) -> str:
    """Whether the tests that a mutation names notice it; the tree is left as it was.

    An endless loop and a crash are noticed, too. A test that cannot even be collected has noticed
    nothing: that is BROKEN.
    """
    path = tree / mutation.file
    text = path.read_text()
    path.write_text(mutated(text, mutation))
    try:
        status = run_tests(tree, mutation.tests)
    finally:
        path.write_text(text)
    return {_PASSED: SURVIVED, _FAILED: KILLED, _NO_STATUS: KILLED}.get(status, BROKEN)


def run(mutations: Sequence[Mutation]) -> bool:
    """Print the table; whether every mutation was killed, or its survival is explained."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        named = sorted({test for mutation in mutations for test in mutation.tests})
        if run_tests(tree, named) != _PASSED:
            print((tree / _PRINTED).read_text()[-3000:])
            print("these tests fail on the code as it is")
            return False
        counts = {KILLED: 0, SURVIVED: 0, BROKEN: 0}
        good = True
        for mutation in mutations:
            started = time.perf_counter()
            verdict = judge(tree, mutation)
            counts[verdict] += 1
            good &= verdict == KILLED or (verdict == SURVIVED and bool(mutation.explanation))
            seconds = time.perf_counter() - started
            why = f"  ({mutation.explanation})" if verdict == SURVIVED else ""
            print(f"{verdict:9} {seconds:5.0f} s  {mutation.name}{why}", flush=True)
    print(", ".join(f"{count} {verdict.lower()}" for verdict, count in counts.items()))
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", default="1/1", metavar="I/N", help="the I-th of N parts")
    parser.add_argument("--only", default="", metavar="REGEX", help="of a name or a file")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"[1-9]\d*/[1-9]\d*", options.part):
        parser.error(f"--part {options.part}: must be I/N")
    part, parts = map(int, options.part.split("/"))
    if part > parts:
        parser.error(f"--part {options.part}: I must be at most N")
    chosen = [
        mutation
        for mutation in MUTATIONS
        if re.search(options.only, mutation.name) or re.search(options.only, mutation.file)
    ][part - 1 :: parts]
    if not chosen:
        parser.error("no mutation is chosen")
    return 0 if run(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
