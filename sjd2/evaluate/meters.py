"""Meters of a drawing: seconds inside the network, and peak memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stopwatch:
    """Seconds that calls of a module take, while `running`.

    On a GPU the device is synchronized on both sides of a call; host work that would have
    overlapped then counts as time outside of it.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    @contextmanager
    def running(self, module: nn.Module) -> Iterator[Stopwatch]:
        """Time the module inside the block."""
        device = next((weight.device for weight in module.parameters()), torch.device("cpu"))

        def now() -> float:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter()

        def start(*_: object) -> None:
            self._started = now()

        def stop(*_: object) -> None:
            self.seconds += now() - self._started

        hooks = (module.register_forward_pre_hook(start), module.register_forward_hook(stop))
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()


def reset_peak_memory(device: torch.device) -> None:
    """Restart the count of `peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _CLEAR.write_text("5")  # Linux: resets the peak resident size


def peak_memory(device: torch.device) -> int | None:
    """The most memory in use since the reset, in bytes; None where the system does not say.

    On a GPU that is what torch allocated; on a CPU the resident size of the whole process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(found[0][1]) * 1024 if found else None
