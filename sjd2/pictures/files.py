"""Files of the command line: what they are called, and that each is whole or not there."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

# By the ending of the file: Pillow's name of the format, and how it is saved.
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
        out: a file that ends in a picture format: one picture gets that very name, several are
            numbered (cat-1.png, cat-2.png). Anything else is a folder, which takes `names`.
        names: one per picture, without an ending; names that agree are numbered.

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


def check_target(path: Path, *, force: bool) -> None:
    """Refuse before the work what `write_atomically` would refuse after it. Leaves no trace.

    Args:
        path: the file to be written; its folders may be missing.
        force: whether a file that is there may be replaced.

    Raises:
        ValueError: a folder or, without force, a file is there, or nothing can be written there.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{path}: is a folder")
        if path.exists() and not force:
            raise ValueError(f"{path}: exists already; --force replaces it")
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        # Permission bits do not tell of read-only or full disks: trying does.
        probe = _part(folder)
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from error


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], *, force: bool = False
) -> None:
    """Write a file under another name in the same folder, then give it its own.

    Args:
        path: the file; its folders are made.
        write: gets the open file; whatever it raises leaves no trace and passes on.
        force: whether a file that is there may be replaced.

    Raises:
        ValueError: without force, a file is there by now.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path.parent)
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists() and not force:
            raise ValueError(f"{path}: exists already; --force replaces it")
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_picture(path: Path, picture: Image.Image, *, force: bool = False) -> None:
    """Save a picture in the format of the file's ending; Raises as `write_atomically`."""
    kind, options = PICTURE_FORMATS[path.suffix.lower()]
    rgb = picture.convert("RGB")
    write_atomically(path, lambda file: rgb.save(file, kind, **options), force=force)


def write_text(path: Path, text: str) -> None:
    """Write or replace a text file in UTF-8; Raises as `write_atomically`."""
    data = text.encode()
    write_atomically(path, lambda file: file.write(data), force=True)


def _part(folder: Path) -> Path:
    # Not tempfile: its files are readable by their owner alone, and stay so under the final name.
    return folder / f".sjd2-{secrets.token_hex(6)}.part"
