"""Running an iteration: by Python each time, or recorded once and replayed.

An iteration asks a GPU for tens of launches a layer, and small ones wait for Python to ask. A CUDA
graph is asked for once. It reads and writes the addresses that it was recorded with, so the state
is moved onto tensors that stay (`Pinned`), and nothing that changes may be a number of the host's
(`DecodingState.fix`): the iteration's number is in a tensor, rows that are finished stay, and
attention reads to the next of a few extents, each with a recording of its own.

An iteration is two recordings, up to the verdict and from there on: watchers look in between.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from sjd2.kernels import Verdict
from sjd2.placement import is_offloaded
from sjd2.protocol import Geometry
from sjd2.sampler.state import DecodingState
from sjd2.sampler.watchers import Iteration

T = TypeVar("T")

_STEADY = 3  # the first iteration whose window has the shapes of all that follow


class Run(Protocol):
    """The two halves of every iteration of a call."""

    def predict(self, hidden: Tensor | None = None) -> Iteration:
        """Up to the verdict; `hidden` is what a forward has found of it already."""

    def commit(self, now: Iteration) -> None:
        """From the verdict on."""


class Loop(NamedTuple):
    """Each iteration is asked for anew.

    Attributes:
        forward: makes an iteration up to its verdict.
        state: of the call.
        redraft: what becomes of its drafts between two forwards.
    """

    forward: Callable[[Tensor | None], Iteration]
    state: DecodingState
    redraft: Callable[[Iteration], Verdict]

    def predict(self, hidden: Tensor | None = None) -> Iteration:
        """See `Run`."""
        return self.forward(hidden)

    def commit(self, now: Iteration) -> None:
        """See `Run`."""
        self.state.commit(now.verdict)
        self.state.slide(self.redraft(now))


class Recorder(Protocol):
    """Records what a function asks a device to do."""

    def obstacle(self, device: torch.device) -> str | None:
        """Why nothing can be recorded on a device, or None."""

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], object]]:
        """Run a function once; its result, and what writes the result anew without Python."""


class CudaRecorder:
    """Records CUDA graphs, which share one pool of memory."""

    def __init__(self) -> None:
        self.pool: Any = None

    def obstacle(self, device: torch.device) -> str | None:
        """See `Recorder`."""
        return None if device.type == "cuda" else f"the model is on {device.type!r}, not on a GPU"

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], object]]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = function()
        self.pool = self.pool or graph.pool()
        graph.replay()
        return result, graph.replay


@dataclass
class Recorded:
    """An iteration at one extent.

    Attributes:
        now: what its first half wrote last.
        predict: writes it anew.
        commit: goes on from it; None before that half was recorded.
    """

    now: Iteration
    predict: Callable[[], object]
    commit: Callable[[], object] | None = None


@dataclass
class Pinned:
    """Tensors that recordings read and write, in the places that they have in a state.

    Attributes:
        state, redrafting: copies of a call's objects, for the tensors in them.
        recorded: iterations by extent; None where one has run there to get everything loaded.
        drawing: the state that is on these tensors, or was.
    """

    state: DecodingState
    redrafting: object
    recorded: dict[int, Recorded | None] = field(default_factory=dict)
    drawing: weakref.ref[DecodingState] | None = None

    def is_free(self, state: DecodingState) -> bool:
        """Whether no other call is in the middle of its pictures."""
        other = None if self.drawing is None else self.drawing()
        return other is None or other is state or not other.drawing

    def take(self, state: DecodingState) -> None:
        """Move a state onto these tensors, with the values that it has."""
        _moved(state, self.state)


class Graphs:
    """The recordings of a method, for calls of every shape that there was.

    A copy of it has none: recordings belong to the model that they were made with.

    Args:
        recorder: makes them.
        extents, grain: as for `DecodingState.fix`.
    """

    def __init__(self, recorder: Recorder | None = None, extents: int = 4, grain: int = 64) -> None:
        self.recorder, self.extents, self.grain = recorder or CudaRecorder(), extents, grain
        self.pinned: dict[tuple[Any, ...], Pinned] = {}
        self.lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (type(self.recorder)(), self.extents, self.grain)

    def run(self, loop: Loop, obstacle: str | None = None) -> Run:
        """What runs the iterations of a call; the loop itself, with a warning, where it must.

        Args:
            loop: of the call.
            obstacle: why its iterations cannot be recorded, where the method knows of a reason.
        """
        obstacle = obstacle or self.recorder.obstacle(loop.state.rows.device)
        obstacle = obstacle or _obstacle(loop.state)
        if obstacle is None:
            return Replay(self, loop)
        warnings.warn(
            f"cuda_graphs=True: {obstacle}; iterations are launched one by one", stacklevel=8
        )
        return loop

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], object]]:
        """One recording at a time: they share the recorder's memory."""
        with self.lock:
            return self.recorder.record(function)

    def pin(self, loop: Loop) -> Pinned | None:
        """The tensors for calls of this shape; the state of the call is moved onto them.

        None where another call is drawing on them, of another thread or around this one.
        """
        redrafting = getattr(loop.redraft, "__self__", None)
        shape = (_weights(loop.state), *_shape(loop.state), *_shape(redrafting))
        with self.lock:
            if shape not in self.pinned:
                self.pinned[shape] = Pinned(_copied(loop.state), _copied(redrafting))
            pinned = self.pinned[shape]
            if not pinned.is_free(loop.state):
                return None
            pinned.drawing = weakref.ref(loop.state)
        pinned.take(loop.state)
        _moved(redrafting, pinned.redrafting)
        return pinned


class Replay:
    """Iterations that are recorded where they have not been, and replayed where they have."""

    def __init__(self, graphs: Graphs, loop: Loop) -> None:
        self.graphs, self.loop, self.state = graphs, loop, loop.state
        self.pinned: Pinned | None = None
        self.extent = 0

    def predict(self, hidden: Tensor | None = None) -> Iteration:
        """See `Run`."""
        state = self.state
        if state.iteration < _STEADY:
            return self.loop.predict(hidden)
        if not state.is_fixed:
            state.fix(self.graphs.extents, self.graphs.grain)
        # Pictures that began in finished rows have brought tensors of their own.
        if self.pinned is None or state.position is not self.pinned.state.position:
            self.pinned = self.graphs.pin(self.loop)
        if self.pinned is None:
            return self.loop.predict()
        recorded = self.pinned.recorded
        self.extent = state.cache.reach(state.width)
        if self.extent not in recorded:
            return self.loop.predict()
        known = recorded[self.extent]
        if known is None:
            now, again = self.graphs.record(self.loop.predict)
            known = recorded[self.extent] = Recorded(now, again)
        else:
            known.predict()
        # Watchers may keep what the next replay would overwrite.
        verdict = known.now.verdict
        kept = verdict._replace(
            accept_length=verdict.accept_length.clone(),
            accepted=verdict.accepted.clone(),
            tokens=verdict.tokens.clone(),
        )
        return known.now._replace(state=state, verdict=kept)

    def commit(self, now: Iteration) -> None:
        """See `Run`."""
        state, pinned = self.state, self.pinned
        if pinned is None:
            self.loop.commit(now)
            return
        known = pinned.recorded.setdefault(self.extent, None)
        if known is None:
            self._commit(pinned, now)
        elif known.commit is None:
            half = partial(self._commit, pinned, known.now)
            _, known.commit = self.graphs.record(half)
        else:
            known.commit()
            state.count()

    def _commit(self, pinned: Pinned, now: Iteration) -> None:
        self.loop.commit(now)
        pinned.take(self.state)


def _obstacle(state: DecodingState) -> str | None:
    """Why the iterations of a call cannot be recorded, or None."""
    if state.backend != "triton":
        return f"the {state.backend} operations read from the device"
    if state.sampling.processors:
        return "logits processors run on the host"
    if is_offloaded(state.model.backbone):
        return "the weights are brought to the device by hooks"
    return None


def _weights(state: DecodingState) -> tuple[Any, ...]:
    """Where the weights are: a model that was moved has other recordings."""
    return tuple(weight.data_ptr() for weight in state.model.backbone.parameters())


def _names(value: object) -> tuple[str, ...] | None:
    """The attributes by which an iteration reads one of our objects; None of others."""
    return getattr(type(value), "READ_BY_ITERATIONS", None)


def _shape(value: object) -> tuple[Any, ...]:
    """What has to be equal for a recording to serve: all of it but the numbers in tensors."""
    if isinstance(value, Tensor):
        return (value.shape, value.dtype, value.device)
    if isinstance(value, Geometry):
        return (value.length, value.row_width, *_shape(value.grammar))
    if isinstance(value, (list, tuple)):
        return (len(value), *(part for one in value for part in _shape(one)))
    if (names := _names(value)) is not None:
        return (type(value), *(part for name in names for part in _shape(getattr(value, name))))
    return (value,)


def _copied(value: Any) -> Any:
    """The same in objects and tensors of our own; others may hold those that are there."""
    if isinstance(value, list):
        return list(value)  # the keys and values of the layers: the cache alone holds them
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return _like(value, [_copied(one) for one in value])
    if (names := _names(value)) is not None:
        twin = copy.copy(value)
        for name in names:
            setattr(twin, name, _copied(getattr(value, name)))
        return twin
    return value


def _moved(value: Any, onto: Any) -> Any:
    """A value on the tensors of another of the same shape; objects are changed in place."""
    if isinstance(value, Tensor):
        return onto if value is onto else onto.copy_(value)
    if isinstance(value, Geometry):
        return replace(value, grammar=_moved(value.grammar, onto.grammar))
    if isinstance(value, (list, tuple)):
        parts = [_moved(*pair) for pair in zip(value, onto, strict=True)]
        return parts if isinstance(value, list) else _like(value, parts)
    for name in _names(value) or ():
        setattr(value, name, _moved(getattr(value, name), getattr(onto, name)))
    return value


def _like(value: tuple[Any, ...], parts: list[Any]) -> Any:
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
