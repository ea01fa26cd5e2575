"""The ranges of what is done to logits: one table for the library, the commands and the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsFloat


@dataclass(frozen=True)
class Range:
    """The values that a number may have.

    Attributes:
        kind: int or float; a float may be given as any number.
        allows: whether a value of that kind is in range.
        wanted: the range in words, as it follows "must be".
    """

    kind: type[int] | type[float]
    allows: Callable[[Any], bool]
    wanted: str

    def __contains__(self, value: object) -> bool:
        if self.kind is int:
            return isinstance(value, int) and self.allows(value)
        if not isinstance(value, SupportsFloat):
            return False
        number = float(value)
        return math.isfinite(number) and self.allows(number)

    def check(self, name: str, value: object, hint: str = "") -> None:
        """Refuse a value that is out of range.

        Args:
            name: of the argument, for the message.
            value: to check.
            hint: a remedy, appended to the message.

        Raises:
            ValueError: names the argument, its value and what is allowed.
        """
        if value not in self:
            raise ValueError(f"{name}={value!r}: must be {self.wanted}{hint}")


COUNT = Range(int, lambda n: n >= 1, "an integer of at least 1")
RANGES = {
    "guidance_scale": Range(float, lambda g: g >= 1, "a number of at least 1 (1 = off)"),
    "temperature": Range(float, lambda t: t > 0, "a number above 0"),
    "top_k": Range(int, lambda k: k >= 0, "an integer of at least 0 (0 = off)"),
    "top_p": Range(float, lambda p: 0 < p <= 1, "a number above 0 and at most 1 (1 = off)"),
}
