"""Installing, as the documents say: a fresh environment, the extras, and what make leaves alone."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from sjd2 import extras
from tests.test_docs import PAGES, ROOT, commands

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = [
    ROOT / "Makefile",
    *PAGES,
    *(file for room in ("sjd2", "tests", "bench", "hub") for file in (ROOT / room).rglob("*.py")),
]


def call(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)


def planned(target: str, folder: Path) -> str:
    """What make would do for a target where nothing is installed."""
    done = call("make", "-n", target, f"VENV={folder / 'venv'}", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo_is_not_given_development_tools(tmp_path):
    """Kills: `make demo` that installs the tools, and `make test` that does not."""
    assert "-m sjd2.demo" in planned("demo", tmp_path)
    assert "[dev]" not in planned("demo", tmp_path)
    for target in ("install", "test", "lint", "types"):
        assert '--editable ".[dev]"' in planned(target, tmp_path)


def test_clean_keeps_pictures(tmp_path):
    """Kills: a clean that takes what the user has drawn."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = [tmp_path / "out" / "a.png", tmp_path / "report" / "report.html"]
    gone = [tmp_path / ".venv" / "bin" / "python", tmp_path / ".mypy_cache" / "x"]
    for file in kept + gone:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
    assert call("make", "clean", cwd=tmp_path).returncode == 0
    assert [file.exists() for file in kept + gone] == [True, True, False, False]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_git_ignores_what_the_commands_of_the_documents_write():
    """Kills: a checkout that is dirty once the README was tried."""
    written = [
        words[words.index("--out") + 1]
        for page in PAGES
        for words in commands(page)
        if "--out" in words
    ]
    assert "race.gif" in written
    ignored = call("git", "check-ignore", "out/x", *written, cwd=ROOT).stdout.split()
    assert set(written) <= set(ignored)


def test_every_pip_line_names_what_can_be_had():
    """Kills: `pip install sjd2`, which is not on PyPI, and an extra that there is not."""
    for path in SOURCES:
        if path == Path(__file__):
            continue
        for line in re.findall(r"pip install (?:-e |--editable )?(\S+)", path.read_text()):
            assert not re.match(r"['\"`]*sjd2", line), f"{path}: pip install {line}"
            for extra in re.findall(r"\.\[([\w,]+)\]", line):
                assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"]), path


def test_a_missing_extra_is_asked_for_by_the_names_of_its_packages(monkeypatch):
    """Kills: the line of another extra, and a line that only works in a checkout or from PyPI."""
    words = shlex.split(extras.install_line("app"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert [re.split("[<>=]", word)[0] for word in words[4:]] == ["gradio"]
    for extra in ("train", "eval"):
        assert len(shlex.split(extras.install_line(extra))) == 4 + len(
            PROJECT["optional-dependencies"][extra]
        )

    def unknown(name: str) -> list[str]:
        raise extras.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", unknown)
    assert extras.install_line("app").endswith('-m pip install -e ".[app]"')


@pytest.mark.slow
def test_the_wheel_draws_in_a_clean_environment(tmp_path):
    """Kills: a file or a requirement that the wheel lacks, and an install line that fails."""
    environment = tmp_path / "venv"
    python, sjd2 = environment / "bin" / "python", environment / "bin" / "sjd2"
    for command in (
        [sys.executable, "-m", "venv", environment],
        [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
    ):
        assert (done := call(*command, cwd=tmp_path)).returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("sjd2-*.whl")
    done = call(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = call(sjd2, "generate", "a red ring", "--json", "--out", "a.png", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert json.loads(drawn.stdout)["stats"]["images"] == 1
    with Image.open(tmp_path / "a.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 10
    # What is missing is named by a line that pip can follow.
    asked = call(sjd2, "app", cwd=tmp_path)
    assert asked.returncode == 2
    line = re.search(r"needs more: (.*) \(No module", asked.stderr)
    assert line, asked.stderr
    words = shlex.split(line[1])
    assert words[:4] == [str(python), "-m", "pip", "install"]
    done = call(*words, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for extra in ("app", "train", "eval"):
        wanted = f"{ROOT}[{extra}]"
        done = call(python, "-m", "pip", "install", "--dry-run", "-e", wanted, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
