"""The picture of the architecture in CONTRIBUTING.md is what the imports say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sjd2"
# What starts a program, or says what the package offers, stands above all rooms.
ABOVE = {PACKAGE / "__init__.py", PACKAGE / "__main__.py", PACKAGE / "demo" / "__main__.py"}


def rooms() -> set[str]:
    """Folders and single files of the package."""
    files = {path.stem for path in PACKAGE.glob("*.py") if path not in ABOVE}
    return files | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def picture() -> dict[str, int]:
    """The row of every room, counted from the top."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = next(one for one in re.findall(r"```\n(.*?)```", text, re.S) if "sampler" in one)
    rows = [line[:34] for line in block.splitlines()]  # what a row holds is said behind it
    known = rooms()
    return {word: at for at, row in enumerate(rows) for word in row.split() if word in known}


def imported(source: str) -> set[str]:
    """The rooms that a module imports anywhere, but for what only types need."""
    tree = ast.parse(source)
    unneeded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in unneeded:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "sjd2":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sjd2."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {one.name.split(".")[1] for one in node.names if one.name[:5] == "sjd2."}
    return found & rooms()


def test_every_room_is_in_the_picture() -> None:
    """Kills: a room that is added, renamed or removed without the picture."""
    assert set(picture()) == rooms()


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p)[len(str(ROOT)) :]
)
def test_arrows_run_down(path: Path) -> None:
    """Kills: an import of a room above or beside one's own, inside functions too."""
    if path in ABOVE:
        return
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    rows = picture()
    upward = {name for name in imported(path.read_text()) - {room} if rows[name] <= rows[room]}
    assert not upward


def test_an_upward_arrow_is_seen() -> None:
    """The power of the test above: imports of every form are found, those of types are not."""
    source = (
        "from sjd2 import demo\nimport sjd2.cli.values\ndef f():\n    from sjd2.app import Page\n"
        "if TYPE_CHECKING:\n    from sjd2.sampler import decode\n"
    )
    assert imported(source) == {"demo", "cli", "app"}
