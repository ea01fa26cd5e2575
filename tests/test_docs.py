"""The documents: links resolve, code compiles, commands parse, tables are what was measured."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from sjd2.cli import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "hub" / "README.md"]
PAGES += [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `sjd2 ...` in the shell blocks of a page."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:3] == ["python", "-m", "sjd2"]:
                words = words[2:]
            if words and Path(words[0]).name == "sjd2":
                found.append(words[1:])
    return found


def test_the_readme_is_short_and_has_one_table():
    """Kills: a README that grows back into a manual."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 160
    assert sum(bool(re.fullmatch(r"\|(-+\|)+", line)) for line in lines) == 1


@each_page
def test_every_link_leads_somewhere(page):
    """Kills: a page that was renamed, and a heading that a link still names."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_page
def test_every_path_of_the_repository_exists(page):
    """Kills: a path in backticks that was moved."""
    if page.name == "CHANGELOG.md":
        pytest.skip("says what was once so")
    named = re.findall(r"`((?:sjd2|tests|bench|docs|hub)/[\w./-]*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@each_page
def test_python_compiles(page):
    """Kills: an example with a typing error."""
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


@each_page
def test_every_command_parses(page):
    """Kills: an option that was renamed in the commands, but not in the documents."""
    for arguments in commands(page):
        parse(arguments)


@pytest.mark.parametrize(
    "module",
    [
        "sjd2",
        "sjd2.patching",
        "sjd2.demo",
        "sjd2.models",
        "sjd2.sampler.method",
        "sjd2.pictures.generator",
    ],
)
def test_the_examples_of_docstrings_run(module, monkeypatch):
    """Kills: an example that shows what the library no longer does."""
    monkeypatch.setattr("sjd2.models._REGISTERED", {})
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


def test_commands_are_found():
    """Kills: a pattern that finds no command, so that the test above checks nothing."""
    shown = {arguments[0] for arguments in commands(ROOT / "README.md")}
    assert shown == {
        *("generate", "compare", "trace", "app", "evaluate", "finetune", "convert", "info")
    }


@pytest.mark.parametrize(
    ("page", "report"), [("README.md", "brief"), ("docs/results.md", "report")]
)
def test_the_table_is_what_was_measured(page, report, monkeypatch):
    """Kills: a figure changed by hand, and a result file that the documents do not show."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])
    import bench_decode

    found = json.loads((ROOT / "bench" / "results" / "decode-cpu.json").read_text())
    start, end = "<!-- bench_decode: start -->\n", "\n<!-- bench_decode: end -->"
    shown = (ROOT / page).read_text().split(start)[1].split(end)[0]
    assert shown == getattr(bench_decode, report)(found)


@pytest.fixture
def docs_pictures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("docs_pictures")


def test_the_pictures_are_those_of_the_model_that_ships(docs_pictures):
    """Kills: a picture of weights, captions or a layout that are no longer there."""
    kept = json.loads((docs_pictures.DOCS / docs_pictures.RECORD).read_text())
    files = kept.pop("files")
    stale = [name for name, value in docs_pictures.made_of().items() if kept[name] != value]
    assert not stale, f"docs/*.png and docs/*.gif are stale ({', '.join(stale)}): make pictures"
    for name in docs_pictures.NAMES:
        assert docs_pictures.digest(docs_pictures.DOCS / name) == files[name], name


@pytest.mark.slow
def test_making_the_pictures_twice_gives_the_same(docs_pictures, tmp_path):
    """Kills: seconds, or anything else that no two runs share, in a picture."""
    docs_pictures.make(tmp_path / "one")
    docs_pictures.make(tmp_path / "other")
    for name in (*docs_pictures.NAMES, docs_pictures.RECORD):
        one, other = (tmp_path / folder / name for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes(), name


def test_the_tables_of_many_pictures_are_what_was_measured(monkeypatch):
    """Kills: a figure changed by hand."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])
    import bench_many

    found = json.loads((ROOT / "bench" / "results" / "many-cpu.json").read_text())
    start, end = "<!-- bench_many: start -->\n", "\n<!-- bench_many: end -->"
    shown = (ROOT / "docs" / "scale.md").read_text().split(start)[1].split(end)[0]
    assert shown == bench_many.report(found)


def test_options_of_the_documents_are_those_of_the_library():
    """Kills: an option without a line, in the table or in the README's list."""
    from dataclasses import fields

    from sjd2 import DecodingConfig

    options = {field.name for field in fields(DecodingConfig)} | {"adapter", "corrector"}
    section = (ROOT / "docs" / "options.md").read_text().split("\n## ")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == options
    brief = (ROOT / "README.md").read_text().split("\n## Options\n")[1].split("\n## ")[0]
    assert options <= set(re.findall(r"`(\w+)`", brief))
