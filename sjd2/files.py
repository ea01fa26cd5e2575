"""Files that are whole or not there: the one place where the package replaces a file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def check_target(path: Path, *, force: bool) -> None:
    """Refuse before the work what `write_atomically` would refuse after it. Leaves no trace.

    Args:
        path: the file to be written; its folders may be missing.
        force: whether an existing file may be replaced.

    Raises:
        ValueError: the path is a folder, exists (without force), or cannot be written.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{path}: is a folder")
        _check_free(path, force)
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        # Permission bits say nothing about read-only or full disks: trying does.
        probe = _part(folder)
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from error


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], *, force: bool = False
) -> None:
    """Write a file under another name in the same folder, then rename it.

    After a crash at any moment the old file or the new one is there, complete. Each writer has a
    name of its own, so several processes may write the same file; the last one wins.

    Args:
        path: the file; missing folders are created.
        write: gets the open file; if it raises, nothing is left behind and the error passes on.
        force: whether an existing file may be replaced.

    Raises:
        ValueError: without force, the file exists by now.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path.parent)
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        _check_free(path, force)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write or replace a text file in UTF-8; raises as `write_atomically`."""
    write_atomically(path, lambda file: file.write(text.encode()), force=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write or replace a file of readable JSON; raises as `write_atomically`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _check_free(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise ValueError(f"{path}: exists already; --force replaces it")


def _part(folder: Path) -> Path:
    # Not tempfile: its files are readable by their owner alone, and stay so under the final name.
    return folder / f".sjd2-{secrets.token_hex(6)}.part"
