"""Captioned pictures to learn from: folders, JSON lines and datasets, and their tokens on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sjd2.checkpoint import load_state, save_state
from sjd2.extras import install_line
from sjd2.progress import Progress
from sjd2.protocol import Geometry, ImageModel

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_IMAGE_COLUMNS = ("image", "file_name", "picture", "path")
_CAPTION_COLUMNS = ("text", "caption", "prompt")
_PART = 256  # pictures whose tokens make a file


@dataclass(frozen=True)
class Example:
    """A captioned picture.

    Attributes:
        name: what messages call it.
        caption: what it shows.
        open: gives the picture in RGB; raises ValueError, with the name, where it cannot be read.
    """

    name: str
    caption: str
    open: Callable[[], Image.Image]


def read_examples(source: str) -> list[Example]:
    """The captioned pictures of a source.

    Args:
        source: a folder of pictures, each with its caption in a .txt file of the same name or in
            the folder's metadata.jsonl; a .jsonl file; a folder that `datasets` saved; or the name
            of a dataset that `datasets` can load. JSON lines and datasets have an image or
            file_name, and a text, caption or prompt. Paths are relative to the file.

    Returns:
        One example per picture, in a fixed order.

    Raises:
        ValueError: no such source, no pictures in it, or one without a caption (named).
    """
    path = Path(source).expanduser()
    if path.suffix == ".jsonl":
        examples = _from_lines(path)
    elif (path / "metadata.jsonl").is_file():
        examples = _from_lines(path / "metadata.jsonl")
    elif path.is_dir() and not (path / "state.json").exists():
        examples = _from_folder(path)
    else:
        examples = _from_dataset(source, path)
    if not examples:
        raise ValueError(f"{source}: holds no pictures ({', '.join(PICTURES)})")
    return examples


def _from_folder(folder: Path) -> list[Example]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
    examples = []
    for picture in found:
        text = picture.with_suffix(".txt")
        if not text.is_file():
            raise ValueError(f"{picture}: has no caption; put it into {text.name} beside it")
        examples.append(_example(picture, text.read_text(), str(text)))
    return examples


def _from_lines(file: Path) -> list[Example]:
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    examples = []
    for number, line in enumerate(lines, start=1):
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where}: no JSON object ({error})") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: no JSON object")
        image = _column(entry, _IMAGE_COLUMNS, where)
        caption = _column(entry, _CAPTION_COLUMNS, where)
        examples.append(_example(file.parent / str(entry[image]), entry[caption], where))
    return examples


def _from_dataset(source: str, path: Path) -> list[Example]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{source}: no such folder; to load a dataset of that name: {install_line('train')}"
        ) from error
    try:
        table = (
            datasets.load_from_disk(str(path))
            if path.exists()
            else datasets.load_dataset(source, split="train")
        )
    except Exception as error:
        raise ValueError(f"{source}: not a folder of pictures, nor a dataset ({error})") from error
    names = dict.fromkeys(table.column_names)
    image = _column(names, _IMAGE_COLUMNS, source)
    caption = _column(names, _CAPTION_COLUMNS, source)

    def opener(row: int) -> Callable[[], Image.Image]:
        def read() -> Image.Image:
            try:
                picture: Image.Image = table[row][image].convert("RGB")
            except (OSError, ValueError, AttributeError) as error:
                raise ValueError(f"{source}, row {row}: no readable picture ({error})") from error
            return picture

        return read

    captions = table[caption]
    return [
        Example(f"{source}, row {row}", _caption(text, f"{source}, row {row}"), opener(row))
        for row, text in enumerate(captions)
    ]


def _column(names: Any, wanted: Sequence[str], where: str) -> str:
    for name in wanted:
        if name in names:
            return name
    raise ValueError(f"{where}: has {', '.join(names) or 'nothing'}; needs {' or '.join(wanted)}")


def _caption(text: object, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: the caption is empty")
    return text.strip()


def _example(picture: Path, caption: object, where: str) -> Example:
    def read() -> Image.Image:
        try:
            with Image.open(picture) as opened:
                return opened.convert("RGB")
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise ValueError(f"{picture}: no readable picture ({error})") from error

    return Example(str(picture), _caption(caption, where), read)


def picture_tokens(
    family: ImageModel,
    processor: Any,
    geometry: Geometry,
    examples: Sequence[Example],
    folder: Path,
    batch: int = 16,
    *,
    show_progress: bool = False,
) -> Tensor:
    """Tokens of pictures, computed once and kept in a folder; what is there already is reused.

    Args:
        family: whose tokenizer of pictures is used.
        processor: the model's.
        geometry: of the pictures.
        examples: the pictures.
        folder: receives tokens-*.pt, each written as a whole.
        batch: pictures encoded together.
        show_progress: say on stderr how far it is, see `sjd2.progress`.

    Returns:
        int64 [N, length], on the CPU.

    Raises:
        ValueError: a picture that cannot be read (named); the files before it are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    progress = Progress("pictures to tokens", "pictures", len(examples), is_shown=show_progress)
    for start in range(0, len(examples), _PART):
        some = examples[start : start + _PART]
        key = hashlib.sha256("\n".join(example.name for example in some).encode()).hexdigest()
        path = folder / f"tokens-{start // _PART:05d}.pt"
        state = load_state(path)
        if state is None or state["names"] != key:
            encoded = [
                family.encode(
                    [example.open() for example in some[i : i + batch]], processor, geometry
                )
                for i in range(0, len(some), batch)
            ]
            state = {"names": key, "tokens": torch.cat(encoded).int().cpu()}
            save_state(path, state)
            progress.update(start + len(some))
        else:
            progress.skip(len(some))
        parts.append(state["tokens"].long())
    progress.close()
    return torch.cat(parts)
