"""How far long work has got: a bar on a terminal, and elsewhere a line every half minute."""

from __future__ import annotations

import sys
import time
import weakref
from threading import Event, Thread
from types import TracebackType
from typing import Self

from tqdm import tqdm

EVERY = 30.0  # seconds between two lines


class Progress:
    """What is done, how much of it, and how long it will still take; on stderr.

    Lines do not wait for the work: a thread writes them, until the work is closed or forgotten.

    Args:
        what: is done.
        unit: of the work, in the plural; "" where it is one piece.
        total: how many there are; None where nobody knows.
        done: how many there were before.
        is_shown: False is silent.
    """

    def __init__(
        self,
        what: str,
        unit: str = "",
        total: int | None = None,
        done: int = 0,
        is_shown: bool = True,
    ) -> None:
        self.what, self.unit, self.total, self.done = what, unit, total, done
        self._first, self._began, self._note = done, time.monotonic(), ""
        self._is_over = Event()
        self._bar: tqdm | None = None
        if is_shown and sys.stderr.isatty():
            self._bar = tqdm(desc=what, unit=f" {unit}", total=total, initial=done)
        elif is_shown:
            Thread(target=_tell, args=(weakref.ref(self), self._is_over), daemon=True).start()

    def update(self, done: int, note: str = "") -> None:
        """So many are done by now, and something else that is worth knowing."""
        moved, self.done, self._note = done - self.done, done, note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(moved)

    def skip(self, number: int = 1) -> None:
        """So many more were done before: they say nothing about how long the rest takes."""
        self._first += number
        self.update(self.done + number, self._note)

    def close(self) -> None:
        """The work is over."""
        self._is_over.set()
        if self._bar is not None:
            self._bar.close()

    def line(self) -> str:
        """Where the work is."""
        seconds = time.monotonic() - self._began
        of = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.done}{of} {self.unit}"] * bool(self.unit)
        parts.append(f"{duration(seconds)} so far")
        moved = self.done - self._first
        if self.total is not None and moved:
            parts.append(f"about {duration(seconds / moved * (self.total - self.done))} to go")
        return f"{self.what}: " + ", ".join([*parts, *filter(None, [self._note])])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def duration(seconds: float) -> str:
    """A time in words: two units of it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _tell(progress: weakref.ref[Progress], is_over: Event) -> None:
    while not is_over.wait(EVERY):
        present = progress()
        if present is None:
            return
        print(present.line(), file=sys.stderr, flush=True)
        del present
