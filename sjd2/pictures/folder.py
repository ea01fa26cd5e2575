"""A folder of pictures and its manifest: what is drawn is kept, whatever happens afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sjd2.pictures.files import picture_text, read_text, write_picture
from sjd2.pictures.many import Finished, Wanted

_COMPARED = ("Description", "Seed", "Settings")


class PictureFolder:
    """Takes pictures one by one; each is there completely or not at all.

    A picture's line is written before the picture gets its name, so that a kill leaves at most the
    last line of a manifest without its picture; that line goes when the folder is opened again.

    Args:
        path: of the folder.
        settings: what pictures depend on beside caption and seed, as plain values.
        force: replace pictures of other captions, seeds or settings.
        rank: of this process among those that fill the folder; each has a manifest of its own.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, force: bool = False, rank: int = 0
    ) -> None:
        self.path, self.settings, self.force = path, dict(settings), force
        self.manifest = path / (f"manifest-{rank}.jsonl" if rank else "manifest.jsonl")

    def picture(self, name: str) -> Path:
        """The file of the picture with this id."""
        return self.path / f"{name}.png"

    def has(self, wanted: Wanted) -> bool:
        """Whether a picture is there already, as it would be drawn now.

        Raises:
            ValueError: another one of its name is there, and force is not.
        """
        path = self.picture(wanted.id)
        if not path.exists():
            return False
        there = read_text(path)
        asked = picture_text(wanted.caption, wanted.seed, self.settings)
        odd = [name for name in _COMPARED if there.get(name) != asked[name]]
        if odd and not self.force:
            raise ValueError(f"{path}: {_difference(there, asked)}; --force draws it again")
        return not odd

    @contextmanager
    def opened(self) -> Iterator[PictureFolder]:
        """Inside the block pictures may be added.

        Raises:
            ValueError: the folder cannot be written, or was last written with other settings and
                force is not.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            before = self._mend()
            if before is not None and before != self.settings and not self.force:
                odd = _first_difference(before, self.settings)
                raise ValueError(f"{self.path}: {odd}; --force goes on with these settings")
            self.lines = self.manifest.open("a", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be written ({error.strerror})") from error
        with self.lines:
            yield self

    def add(self, drawn: Finished) -> Path:
        """Write a picture and its line; the path of the picture."""
        wanted = drawn.wanted
        path = self.picture(wanted.id)
        row = {
            "id": wanted.id,
            "prompt": wanted.caption,
            "seed": wanted.seed,
            "settings": self.settings,
            "forwards": drawn.forward_passes,
            "seconds": round(drawn.seconds, 3),
        }
        self.lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.lines.flush()
        os.fsync(self.lines.fileno())
        text = picture_text(wanted.caption, wanted.seed, self.settings)
        # What may be replaced was looked at before it was drawn.
        write_picture(path, drawn.picture, force=True, text=text)
        return path

    def _mend(self) -> dict[str, Any] | None:
        """Cut off a last line that is torn, or whose picture never got its name.

        Returns:
            The settings of that line, if it is one.
        """
        if not self.manifest.exists():
            return None
        with self.manifest.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            start = _start_of_last_line(file, end)
            file.seek(start)
            line = file.read(end - start)
            try:
                row = json.loads(line)
                found, is_whole = dict(row["settings"]), line.endswith(b"\n")
                is_whole = is_whole and self.picture(str(row["id"])).exists()
            except (ValueError, KeyError, TypeError):
                found, is_whole = None, False
            if not is_whole:
                file.truncate(start)
            return found


def _start_of_last_line(file: Any, end: int) -> int:
    """Where the last line starts, read from the end: a manifest may be long."""
    at, tail = end, b""
    while at > 0 and b"\n" not in tail[:-1]:
        step = min(4096, at)
        at -= step
        file.seek(at)
        tail = file.read(step) + tail
    return at + tail.rfind(b"\n", 0, max(0, len(tail) - 1)) + 1


def _difference(there: Mapping[str, str], asked: Mapping[str, str]) -> str:
    """What makes two pictures different, in words."""
    if not all(name in there for name in _COMPARED):
        return "exists already, and does not say how it was drawn"
    for name, called in (("Description", "caption"), ("Seed", "seed")):
        if there[name] != asked[name]:
            return f"drawn for {called} {there[name]!r}, not {asked[name]!r}"
    return _first_difference(*(json.loads(one["Settings"]) for one in (there, asked)))


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    odd = next(name for name in sorted({*before, *now}) if before.get(name) != now.get(name))
    return f"drawn with {odd}={before.get(odd)!r}, not {now.get(odd)!r}"
