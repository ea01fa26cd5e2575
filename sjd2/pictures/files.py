"""Picture files: their names and formats."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sjd2.files import write_atomically

# By file ending: Pillow's name of the format, and its options.
PICTURE_FORMATS: dict[str, tuple[str, dict[str, int]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".webp": ("WEBP", {"quality": 95}),
}
_LONGEST_NAME = 48  # characters; four bytes each still leave room for a seed under most limits


def file_name(caption: str) -> str:
    """A caption as the readable part of a file name: its words, joined by hyphens."""
    name = re.sub(r"\W+", "-", caption.lower()).strip("-")
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME + 1].rpartition("-")[0] or name[:_LONGEST_NAME]
    return name or "picture"


def picture_paths(out: str, names: Sequence[str]) -> list[Path]:
    """Where pictures go.

    Args:
        out: a file that ends in a picture format: a single picture gets that name, several are
            numbered (cat-1.png, cat-2.png). Anything else is a folder, which takes `names`.
        names: one per picture, without an ending; equal names are numbered.

    Returns:
        One path per picture, all different.

    Raises:
        ValueError: `out` looks like a file of another format.
    """
    path = Path(out).expanduser()
    is_folder = out.endswith(("/", os.sep)) or path.is_dir()
    if is_folder or not path.suffix:
        return [path / f"{name}.png" for name in _numbered(names)]
    if path.suffix.lower() not in PICTURE_FORMATS:
        known = ", ".join(PICTURE_FORMATS)
        raise ValueError(f"{out}: pictures end in {known}; the name of a folder ends in /")
    if len(names) == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{number}") for number in range(1, len(names) + 1)]


def _numbered(names: Sequence[str]) -> list[str]:
    taken: list[str] = []
    for name in names:
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        taken.append(free)
    return taken


def write_picture(path: Path, picture: Image.Image, *, force: bool = False) -> None:
    """Save a picture in the format of the file's ending; raises as `write_atomically`."""
    kind, options = PICTURE_FORMATS[path.suffix.lower()]
    rgb = picture.convert("RGB")
    write_atomically(path, lambda file: rgb.save(file, kind, **options), force=force)
