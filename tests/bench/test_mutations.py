"""The list of mutations fits the code and the tests, and the command can tell who noticed."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from bench.mutation_list import MUTATIONS, NAMED, Mutation
from bench.mutations import ROOT, main, mutated, run

PHILOX = "sjd2/kernels/philox/constants.py"
ANSWERS = ("tests/kernels/test_philox.py::test_philox_gives_the_published_known_answers",)


@cache
def functions(file: Path) -> set[str]:
    """The names of the tests of a file."""
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_mutation_changes_one_place_of_its_file() -> None:
    """Kills: a list that has not followed the code, and a mutation that changes nothing."""
    for mutation in MUTATIONS:
        text = (ROOT / mutation.file).read_text()
        assert mutated(text, mutation) != text
        if mutation.file.endswith(".py"):
            compile(mutated(text, mutation), mutation.file, "exec")
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
    assert len(names) >= 60


def test_every_test_that_a_mutation_names_exists() -> None:
    """Kills: a test that was renamed, whose mutations are then said to be broken."""
    for mutation in MUTATIONS:
        assert mutation.tests
        for test in mutation.tests:
            file, _, name = test.partition("::")
            assert not name or name in functions(ROOT / file), test


def test_text_that_occurs_twice_is_refused() -> None:
    """Kills: a mutation of another place than the one that is meant."""
    twice = Mutation("twice", PHILOX, "0x", "1", ANSWERS)
    with pytest.raises(ValueError, match=r"twice: .* has '0x' 2 times, not once"):
        mutated("0x 0x", twice)
    with pytest.raises(ValueError, match="0 times"):
        mutated("", twice)


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "1/0", "-1/2"])
def test_a_part_that_there_is_not_is_refused(part: str) -> None:
    """Kills: a job of CI that runs nothing and is green."""
    with pytest.raises(SystemExit):
        main([f"--part={part}"])
    with pytest.raises(SystemExit):
        main(["--only=nothing is called this"])


@pytest.mark.slow
def test_a_survivor_fails_the_command_unless_it_is_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Kills: a harness whose mutations are all killed, as its tests fail in any case."""
    old, new = "ROUNDS = 10", "ROUNDS = 2 * 5"
    assert run([Mutation("nine rounds", PHILOX, old, "ROUNDS = 9", ANSWERS)])
    assert not run([Mutation("as before", PHILOX, old, new, ANSWERS)])
    assert run([Mutation("as before", PHILOX, old, new, ANSWERS, "the same number")])
    assert not run([Mutation("no Python", PHILOX, old, "ROUNDS =", ANSWERS)])
    printed = capsys.readouterr().out
    assert printed.count("SURVIVED") == 2
    assert printed.count("BROKEN") == 1


@pytest.mark.slow
def test_shared_random_numbers_are_noticed() -> None:
    """The quick part of the list: every pair of streams, every part of an address.

    Kills: a test of randomness that a mutation of it passes.
    """
    only = "^(stream|philox|corrections are numbered)|^every correction pass"
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "mutations.py"), f"--only={only}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed  ") >= 15
    assert {one.file for one in NAMED} >= {"sjd2/sampler/correction.py", "sjd2/sampler/noise.py"}
