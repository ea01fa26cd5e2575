"""The pictures of the README: `python bench/docs_pictures.py` writes them into docs/.

They show nothing that depends on the machine's speed, and docs/pictures.json keeps what they were
made of: `tests/test_docs.py` says when they are stale.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

import torch

from sjd2.cli import main as sjd2
from sjd2.config import DecodingConfig
from sjd2.demo import DEMO, digest, shipped
from sjd2.demo.__main__ import captions
from sjd2.files import write_json
from sjd2.pictures.comparison import compare, comparison_picture
from sjd2.pictures.files import write_picture
from sjd2.pictures.loading import load

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RECORD = "pictures.json"
NAMES = ("demo.png", "race.gif")
# What lays the pictures out.
_CODE = ("pictures/comparison.py", "pictures/gallery.py", "watch/film.py", "watch/trace.py")


def race() -> list[str]:
    """The arguments of the README's own race."""
    line = re.search(r"^sjd2 (trace .*race\.gif)$", (ROOT / "README.md").read_text(), re.M)
    assert line, "the README shows no `sjd2 trace ... --out race.gif`"
    return shlex.split(line[1])


def made_of() -> dict[str, Any]:
    """What the pictures depend on: weights, words and the code that lays them out."""
    # The tree, not the text: a comment makes no other picture.
    code = [ast.dump(ast.parse((ROOT / "sjd2" / name).read_text())) for name in _CODE]
    return {
        "weights": shipped(),
        "captions": captions(),
        "race": race(),
        "code": hashlib.sha256("\n".join(code).encode()).hexdigest(),
    }


def make(folder: Path) -> None:
    """Draw both, and write what they were made of."""
    torch.set_num_threads(1)  # sums in one order, whatever the machine
    pipeline = load(DEMO, torch.device("cpu"))
    contenders = compare(pipeline, captions(), 0, DecodingConfig(), model_name=DEMO)
    picture = comparison_picture(contenders, shows_seconds=False)
    write_picture(folder / "demo.png", picture, force=True)
    words = race()
    words[words.index("--out") + 1] = str(folder / "race.gif")
    if status := sjd2([*words, "--force", "--quiet"]):
        raise SystemExit(status)
    record(folder)


def record(folder: Path) -> None:
    """Write what the pictures of a folder were made of."""
    files = {name: digest(folder / name) for name in NAMES}
    write_json(folder / RECORD, {**made_of(), "files": files})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS, metavar="FOLDER")
    make(parser.parse_args().out)
