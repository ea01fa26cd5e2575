"""Picture files: their names and formats."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sjd2 import __version__
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
    if is_folder(out):
        return [path / f"{name}.png" for name in numbered(names)]
    if path.suffix.lower() not in PICTURE_FORMATS:
        known = ", ".join(PICTURE_FORMATS)
        raise ValueError(f"{out}: pictures end in {known}; the name of a folder ends in /")
    if len(names) == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{number}") for number in range(1, len(names) + 1)]


def is_folder(out: str) -> bool:
    """Whether pictures of this `--out` go into a folder, rather than into one file or several."""
    path = Path(out).expanduser()
    return out.endswith(("/", os.sep)) or path.is_dir() or not path.suffix


def numbered(names: Sequence[str]) -> list[str]:
    """The names, equal ones told apart by numbers."""
    taken: list[str] = []
    for name in names:
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        taken.append(free)
    return taken


def write_picture(
    path: Path,
    picture: Image.Image,
    *,
    force: bool = False,
    text: Mapping[str, str] | None = None,
) -> None:
    """Save a picture in the format of the file's ending; raises as `write_atomically`.

    Args:
        path: where to.
        picture: any mode.
        force: whether an existing file may be replaced.
        text: what the file says of itself, see `picture_text`; PNG alone has room for it.
    """
    kind, options = PICTURE_FORMATS[path.suffix.lower()]
    given: dict[str, Any] = dict(options)
    if kind == "PNG" and text is not None:
        given["pnginfo"] = _chunks(text)
    rgb = picture.convert("RGB")
    write_atomically(path, lambda file: rgb.save(file, kind, **given), force=force)


def picture_text(caption: str, seed: int, settings: Mapping[str, Any]) -> dict[str, str]:
    """What a PNG says of itself, as text by keyword.

    Args:
        caption: what it shows.
        seed: of the picture.
        settings: what it depends on beside these, as plain values.
    """
    return {
        "Description": caption,
        "Seed": str(seed),
        "Settings": json.dumps(dict(settings), sort_keys=True),
        "Software": f"sjd2 {__version__}",
    }


def png_bytes(picture: Image.Image, text: Mapping[str, str]) -> bytes:
    """A picture as a PNG that says these words of itself."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG", pnginfo=_chunks(text))
    return file.getvalue()


def read_text(path: Path) -> dict[str, str]:
    """What a PNG says of itself; nothing where the file says nothing or is none.

    The pixels are not read: of a file written by sjd2 the words come first.
    """
    try:
        with Image.open(path) as picture:
            return {str(name): str(word) for name, word in picture.info.items()}
    except (OSError, ValueError, SyntaxError):
        return {}


def _chunks(text: Mapping[str, str]) -> PngInfo:
    # Words beyond Latin-1 become iTXt chunks, which Pillow chooses by itself.
    info = PngInfo()
    for name, word in text.items():
        info.add_text(name, word)
    return info
