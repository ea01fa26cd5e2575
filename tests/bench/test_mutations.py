"""The list of mutations does not go stale, and a part of it is put to the test."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from bench.mutations import ROOT, Mutation, main, part_of, read

MUTATIONS = read()
PARTS = 4  # of some minutes each; a day has one


def test_every_mutation_can_be_put_into_the_tree() -> None:
    """Kills: text that has changed, or that occurs twice; a mutation that is no Python, or none."""
    assert [one.name for one in MUTATIONS if one.is_stale] == []
    assert len({one.name for one in MUTATIONS}) == len(MUTATIONS) >= 60
    for one in MUTATIONS:
        right = (ROOT / one.file).read_text()
        assert ast.dump(ast.parse(right)) != ast.dump(ast.parse(right.replace(one.old, one.new)))


def test_every_mutation_names_a_test_that_exists() -> None:
    """Kills: a test that was renamed, and that nobody misses."""
    for one in MUTATIONS:
        path, _, name = one.test.partition("::")
        defined = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        assert defined, one.test
        assert not name or name.partition("[")[0] in defined, one.test


def test_every_place_where_exactness_is_decided_has_mutations() -> None:
    """Kills: a list of one file's bugs."""
    files = {one.file for one in MUTATIONS}
    for room in ("kernels/philox", "kernels/verify_window", "kernels/correct_window", "sampler"):
        assert sum(f"sjd2/{room}/" in file for file in files) >= 2, room
    for room in ("kernels/target", "kernels/noisy_embed", "kernels/kv_cache", "models", "finetune"):
        assert sum(f"sjd2/{room}/" in file for file in files) >= 2, room
    assert sum("/triton" in one.file for one in MUTATIONS) >= 25


def test_parts_are_the_whole_list() -> None:
    """Kills: a mutation that is in no part, or a part that nobody asked for."""
    parts = [part_of(MUTATIONS, f"{number}/5") for number in range(1, 6)]
    assert sorted((one for part in parts for one in part), key=MUTATIONS.index) == MUTATIONS
    with pytest.raises(ValueError, match="must be 1/n to n/n"):
        part_of(MUTATIONS, "6/5")


@pytest.mark.slow
def test_mutations_of_the_day_are_killed() -> None:
    """Kills: the list itself, a test of it that can no longer fail."""
    number = date.today().toordinal() % PARTS + 1
    words = [sys.executable, "bench/mutations.py", "--part", f"{number}/{PARTS}"]
    here = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_what_is_not_killed_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills: a survivor, a stale text or a failing test that counts as killed."""
    outcomes = {"a": "killed", "b": "SURVIVED", "c": "stale", "d": "broken"}
    some = [Mutation(name, "README.md", "", "x", "") for name in outcomes]
    monkeypatch.setattr("bench.mutations.read", lambda: some)
    monkeypatch.setattr("bench.mutations.preload", lambda: None)
    monkeypatch.setattr("bench.mutations.Tree", lambda folder: Pretended(outcomes))
    assert main([]) == 1
    assert "1 SURVIVED, 1 broken, 1 killed, 1 stale" in capsys.readouterr().out
    assert main(["--only", "^a$"]) == 0


class Pretended:
    """A tree whose outcomes are known."""

    def __init__(self, outcomes: dict[str, str]) -> None:
        self.outcomes = outcomes

    def outcome(self, mutation: Mutation) -> str:
        return self.outcomes[mutation.name]


def test_a_tree_knows_killed_from_survived(tmp_path: Path) -> None:
    """Kills: a mutation that is not undone, and a test of another tree than the mutated one."""
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from bench import mutations
mutations.ROOT = Path({str(tmp_path)!r})
for name in ("sjd2/demo/weights", "tests", "bench"):
    (mutations.ROOT / name).mkdir(parents=True)
for name in ("pyproject.toml", "sjd2/__init__.py", "tests/__init__.py"):
    (mutations.ROOT / name).touch()
(mutations.ROOT / "sjd2/one.py").write_text("ONE = 1\\nTWO = 2\\n")
(mutations.ROOT / "tests/test_one.py").write_text(
    "from sjd2.one import ONE\\ndef test_one():\\n    assert ONE == 1\\n"
)
folder = mutations.ROOT / "copy"
folder.mkdir()
tree = mutations.Tree(folder)
def outcome(old, new):
    return tree.outcome(mutations.Mutation("", "sjd2/one.py", old, new, "tests/test_one.py"))
print(outcome("ONE = 1", "ONE = 3"), outcome("TWO = 2", "TWO = 3"), outcome("ONE = 1", "1 = ONE"))
print(outcome("THREE", ""), outcome("ONE = 1", "ONE = 4"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["killed", "SURVIVED", "broken", "stale", "killed"]
