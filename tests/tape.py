"""A stand-in for CUDA graphs on a CPU: what a function does to tensors, done again without it.

As in a graph, every operation is known by the addresses that it read and wrote when it was
recorded: a replay runs the same operations on the same tensors. What Python did between them, a
number that it counted or a tensor that it put in the place of another, is not done again. So
whatever a graph would get wrong goes wrong here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class Tape:
    """A `Recorder` on the CPU.

    Attributes:
        recordings: how many were made.
        replays: how many were replayed.
    """

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def obstacle(self, device: torch.device) -> str | None:
        return None

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], object]]:
        self.recordings += 1
        operations = _Operations()
        with operations:
            result = function()

        def replay() -> None:
            self.replays += 1
            operations.replay()

        return result, replay


class _Operations(TorchDispatchMode):
    """Operations in their order; one of ours is a single one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outputs = tree_leaves(result)
        for one in outputs:
            if isinstance(one, bool | float | int) and "attention" not in func.name():
                raise AssertionError(f"{func.name()}: gives the host a {type(one).__name__}")
        if not self._is_view(func, args, kwargs, outputs):
            self.seen.append((func, args, kwargs, outputs))
        return result

    @staticmethod
    def _is_view(func: Any, args: Any, kwargs: Any, outputs: list[Any]) -> bool:
        """Whether an operation writes nothing: its result is memory that was there before."""
        if func._schema.is_mutable:
            return False
        inputs = {_memory(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        return any(_memory(one) in inputs for one in outputs if isinstance(one, Tensor))

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, outputs in self.seen:
            again = tree_leaves(func(*args, **kwargs))
            if func._schema.is_mutable:
                continue
            for old, new in zip(outputs, again, strict=True):
                if isinstance(old, Tensor) and old.numel():
                    old.copy_(new)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
