"""Shared by the kernel benchmarks: the device, and timing with a cold cache.

Every benchmark runs one operation in several implementations on the same inputs, asserts that the
result is right before it takes the time, and leaves its figures in pytest-benchmark's `extra_info`:
median microseconds on the device, bytes that must move, GB/s, percent of peak, launches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Bytes per second of memory by name of device; percent of peak is left out for others.
PEAKS = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.04e12, "MI300X": 5.3e12}
_ROUNDS, _WARM_UP = 50, 3
_FLUSH = 256 * 2**20  # bytes; larger than any L2


def implementations(eager: Callable[..., Any], triton: Callable[..., Any]) -> dict[str, Any]:
    """The implementations to compare, by name; each takes the same arguments."""
    return {"eager": eager, "compile": torch.compile(eager, dynamic=False), "triton": triton}


def skip_without(name: str) -> None:
    """Skips implementations that are timed on a GPU only: the CPU only tests the benchmark."""
    if DEVICE == "cpu" and name != "eager":
        pytest.skip(f"{name} is timed on a GPU only")


def median_microseconds(call: Callable[[], object]) -> tuple[float, bool]:
    """Time on the device, every call with a cold L2, and whether a CUDA graph was replayed.

    A graph excludes the host's time; a call that cannot be captured is timed as it is launched.
    """
    for _ in range(_WARM_UP):
        call()
    torch.cuda.synchronize()
    run, captured = call, False
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
        run, captured = graph.replay, True
    except RuntimeError:
        torch.cuda.synchronize()
    flush = torch.empty(_FLUSH, dtype=torch.int8, device=DEVICE)
    times = []
    for _ in range(_ROUNDS):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(1000 * start.elapsed_time(end))
    return float(torch.tensor(times).median()), captured


def launches_of(call: Callable[[], object]) -> int:
    """Kernels, copies and fills that a call starts on the GPU."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    return sum(event.count for event in profiler.key_averages() if event.device_time_total > 0)


def record(benchmark: Any, call: Callable[[], object], moved: int) -> None:
    """Times a call that has been found correct.

    Args:
        benchmark: pytest-benchmark's fixture.
        call: without arguments.
        moved: bytes that any implementation must read and write.
    """
    if DEVICE == "cpu":
        benchmark.pedantic(call, rounds=3, warmup_rounds=1)
        return
    microseconds, captured = median_microseconds(call)
    benchmark.extra_info |= {
        "microseconds": microseconds,
        "cuda_graph": captured,
        "bytes": moved,
        "gb_per_s": moved / microseconds / 1e3,
        "launches": launches_of(call),
    }
    name = torch.cuda.get_device_name()
    for known, peak in PEAKS.items():
        if known in name:
            benchmark.extra_info["percent_of_peak"] = 100 * moved / (microseconds * 1e-6) / peak
    benchmark.pedantic(call, rounds=1)


def bytes_of(*tensors: Tensor) -> int:
    """Their size."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
