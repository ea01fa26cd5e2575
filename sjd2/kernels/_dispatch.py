"""Which implementation of the operations runs, and why."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import Literal, NamedTuple, cast, get_args

import torch

from sjd2.choices import Backend

ENVIRONMENT_VARIABLE = "SJD2_KERNELS"

_MODULES = {"triton": "sjd2.kernels.triton", "eager": "sjd2.kernels.eager"}


class Selection(NamedTuple):
    """The implementation that runs and the reason in words."""

    name: Literal["triton", "eager"]
    reason: str


_FORCED: ContextVar[Selection | None] = ContextVar("_FORCED", default=None)


def select(backend: Backend = "auto", device: torch.device | None = None) -> Selection:
    """Choose the implementation that runs every operation.

    Args:
        backend: "auto" (Triton on a GPU, the eager twins elsewhere), "triton" or "eager". Under
            "auto" the environment variable `SJD2_KERNELS`, where it is set, decides for the whole
            program.
        device: of the tensors; None is a GPU where torch finds one, else the CPU.

    Returns:
        The implementation and why it was chosen.

    Raises:
        ValueError: an unknown name, or an implementation that cannot run on this machine.
    """
    source = f"backend={backend!r}"
    if backend == "auto" and (value := os.environ.get(ENVIRONMENT_VARIABLE)):
        source, backend = f"{ENVIRONMENT_VARIABLE}={value!r}", cast(Backend, value)
    if backend not in get_args(Backend):
        allowed = ", ".join(repr(name) for name in get_args(Backend))
        raise ValueError(f"{source}: unknown backend; allowed are {allowed}")
    kind = _default_device() if device is None else device.type
    obstacle = _obstacle(kind)
    if backend == "triton":
        if obstacle:
            raise ValueError(f"{source}: {obstacle}; use 'auto' or 'eager'")
        return Selection("triton", f"requested by {source}")
    if backend == "eager":
        return Selection("eager", f"requested by {source}")
    if kind == "cuda" and not obstacle:
        return Selection("triton", "Triton on a GPU")
    return Selection("eager", obstacle or "interpreted Triton is for tests: it is slow")


def implementation(device: torch.device) -> ModuleType:
    """The module that implements the operations on a device: as set by `using`, or the default."""
    forced = _FORCED.get()
    name = forced.name if forced else select("auto", device).name
    return import_module(_MODULES[name])


@contextmanager
def using(selection: Selection) -> Iterator[None]:
    """Run every operation inside the block by the selected implementation."""
    token = _FORCED.set(selection)
    try:
        yield
    finally:
        _FORCED.reset(token)


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _obstacle(kind: str) -> str | None:
    """Why Triton kernels cannot run on a kind of device, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it exists for Linux only)"
    from triton import knobs

    if kind == "cuda" or knobs.runtime.interpret:
        return None
    return (
        f"Triton kernels need a GPU, and the tensors are on {kind!r} (TRITON_INTERPRET=1, set "
        "before Triton is imported, interprets them, slowly)"
    )
