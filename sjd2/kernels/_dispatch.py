"""Which implementation of an operation runs, and why."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple, cast, get_args

Backend = Literal["auto", "triton", "eager"]
ENVIRONMENT_VARIABLE = "SJD2_KERNELS"


class Selection(NamedTuple):
    """The implementation that runs and the reason in words."""

    name: Literal["eager"]
    reason: str


def select(backend: Backend = "auto") -> Selection:
    """Choose the implementation of every operation.

    Args:
        backend: "auto", "triton" or "eager". Under "auto" the environment variable `SJD2_KERNELS`
            decides where it is set, so that a whole program can be switched from outside.

    Returns:
        The implementation and why it was chosen.

    Raises:
        ValueError: the name is none of the three, or the implementation cannot run here.
    """
    source = f"backend={backend!r}"
    if backend == "auto" and (value := os.environ.get(ENVIRONMENT_VARIABLE)):
        source, backend = f"{ENVIRONMENT_VARIABLE}={value!r}", cast(Backend, value)
    if backend not in get_args(Backend):
        allowed = ", ".join(repr(name) for name in get_args(Backend))
        raise ValueError(f"{source}: unknown backend; allowed are {allowed}")
    if backend == "triton":
        raise ValueError(
            f"{source}: this version of sjd2 has no Triton kernels yet, only their eager twins in "
            "plain torch; use 'auto' or 'eager'"
        )
    if backend == "eager":
        return Selection("eager", f"asked for by {source}")
    return Selection("eager", "this version has the plain-torch twins only; they run on any device")
