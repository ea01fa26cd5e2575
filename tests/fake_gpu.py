"""A GPU of which there is nothing but the rules: where tensors are, and what the host cannot know.

Under `FakeTensorMode` tensors are on "cuda", have shapes and no numbers. The decode loop runs there
as on a device, with the fakes that our operations register in place of their kernels. What breaks
or stalls it on a device is an error here: a tensor on the CPU beside those of the GPU, and a number
that the host reads, for there is none. What it launches can be counted.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sjd2
from sjd2 import patching
from sjd2.companions import Companions
from sjd2.companions.corrector import Corrector
from sjd2.models import family_of
from sjd2.patching import install
from sjd2.sampler import queue, resolve
from sjd2.sampler.method import Method
from sjd2.sampler.queue import Drawn, Queue, decode_queue
from sjd2.sampler.state import DecodingState
from sjd2.sampler.stats import Account

PACKAGE = str(Path(sjd2.__file__).parent)

# Without a guard for CUDA, a build of torch for CPUs refuses to index its tensors, fake or not.
_GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>)
}
"""

# Kernels of an operation of ours; tests/kernels/test_bounds.py compares them with what runs.
KERNELS = {
    "activate_window": 1,
    "commit_window": 1,
    "correct_window": 2,
    "denoise_step": 1,
    "denoise_window": 1,
    "embed_window": 1,
    "kv_append": 1,
    "kv_compact": 1,
    "kv_truncate": 1,
    "noisy_embed": 1,
    "verify_window": 2,
}

# Allocations: with views and what asks for a shape they launch nothing.
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class StrayTensorError(AssertionError):
    """A tensor of the CPU met one of the GPU between two settlings."""


class Launch(NamedTuple):
    """What a device would be asked to run."""

    name: str
    kernels: int
    place: str  # of the line in sjd2/ that asks for it

    def __str__(self) -> str:
        return f"{self.kernels} {self.name}  {self.place}"


@cache
def obstacle() -> str | None:
    """Why there can be no fake GPU here, or None. The first call builds what it takes.

    The operations alone are faked without it, in tests/kernels/test_custom_ops.py.
    """
    if torch.backends.cuda.is_built():
        return None  # FakeTensorMode sets a guard itself
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        return (
            "a build of torch for CPUs needs a C++ compiler for a fake GPU; the operations alone "
            "are faked in tests/kernels/test_custom_ops.py"
        )
    torch_home = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "guard.cpp", Path(folder) / "guard.so"
        source.write_text(_GUARD)
        flags = ("-shared", "-fPIC", "-std=c++20", f"-I{torch_home / 'include'}")
        links = (f"-L{torch_home / 'lib'}", "-lc10")
        built = subprocess.run(
            [compiler, *flags, str(source), "-o", str(library), *links],
            capture_output=True,
            text=True,
        )
        if built.returncode:
            return f"the guard of a fake GPU does not compile: {built.stderr.strip()[-300:]}"
        ctypes.CDLL(str(library))
    return None


class FakeGpu(TorchDispatchMode):
    """Runs `generate` and `decode_queue` on a GPU that is not here, by the iteration.

    The prompts are read and checked where numbers are, on the CPU: so far `generate` may wait for
    the host as it likes. From the request on everything is on the GPU. The host reads in settlings,
    at the end of the call, once for a corrector's weights and for a family's; there it is told that
    rows advance. What it has made on the CPU itself it may read at any time.

    Args:
        patch: undone when the test ends.
        model: a transformers model on the CPU; it is left as it is.

    Attributes:
        iterations: the launches outside of the model's layers, from one forward to the next.
        settlings: how many there were.

    Raises:
        StrayTensorError, FakeTensorDeviceMismatchError: a tensor of the CPU among those of the GPU.
        DataDependentOutputException, DynamicOutputShapeException: the host reads.
    """

    def __init__(self, patch: pytest.MonkeyPatch, model: Any) -> None:
        super().__init__()
        self.tensors = FakeTensorMode()
        self.twin, self.family = model, family_of(model)
        self.iterations: list[list[Launch]] = []
        self.settlings = 0
        self._told: list[int] | None = None  # what the host reads next; None: it may not
        self._is_counting = True
        self._positions: list[int] = []  # told at the last settling
        self._tables: list[int] = []  # the rows of the tables that are whose
        kind = type(self.family)
        patch.setattr(kind, "request", self._asked(kind.request))
        patch.setattr(kind, "hidden", self._forward(kind.hidden))
        patch.setattr(kind, "logits", self._outside(kind.logits))
        patch.setattr(DecodingState, "settle", self._settled(DecodingState.settle))
        patch.setattr(Queue, "_take_away", self._take(Queue._take_away))
        patch.setattr(Queue, "refill", self._refill(Queue.refill))
        for name in ("prefill", "iterate"):
            patch.setattr(queue, name, self._strict(getattr(queue, name)))
        for owner, name in (
            (Account, "stats"),
            (Corrector, "shifts"),
            (patching, "family_of"),
            (queue, "_check"),
        ):
            patch.setattr(owner, name, self._reading(getattr(owner, name)))
        # So large a tensor that the host has made keeps its numbers.
        patch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", 4096)

    def generate(
        self, inputs: dict[str, Any], companions: Companions | None = None, **options: Any
    ) -> Any:
        """What `generate` makes of inputs that lie on the CPU; `options` are the settings."""
        method, on_gpu = self._method(companions, options)
        model = install(self.put(self.twin), method, on_gpu)
        with self.tensors, self:
            return model.generate(**inputs)

    def queue(
        self,
        inputs: Iterable[dict[str, Any]],
        rows: int,
        companions: Companions | None = None,
        **options: Any,
    ) -> list[Drawn]:
        """The pictures that `decode_queue` draws of inputs that lie on the CPU.

        One row finishes at a settling as long as others wait for it, then the rest.
        """
        method, _ = self._method(companions, options)
        model, drawn = self.put(self.twin), []
        with self.tensors, self:
            family: Any = patching.family_of(model)
            pictures = ((family.request(**one), seed) for seed, one in enumerate(inputs))
            decode_queue(family, pictures, method, rows, drawn.append)
        return drawn

    def _method(self, companions: Companions | None, options: Any) -> tuple[Method, Companions]:
        found = companions or Companions()
        on_gpu = replace(
            found, adapter=self.put(found.adapter), corrector=self.put(found.corrector)
        )
        return resolve(sjd2.DecodingConfig(**options), on_gpu), on_gpu

    def put(self, module: Any) -> Any:
        """A copy of a module on the GPU."""
        if module is None:
            return None
        module, known = deepcopy(module), {}
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for name, tensor in held.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in known:  # weights may be tied
                        known[id(tensor)] = self.moved(tensor.detach())
                        if isinstance(tensor, nn.Parameter):
                            known[id(tensor)] = nn.Parameter(known[id(tensor)], requires_grad=False)
                    held[name] = known[id(tensor)]
        return module

    def moved(self, value: Any) -> Any:
        """Tensors on the GPU, in whatever a request holds them."""
        if isinstance(value, Tensor):
            with self.tensors:
                return self.tensors.from_tensor(value).to("cuda")
        if isinstance(value, tuple):
            parts = [self.moved(one) for one in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if is_dataclass(value):
            return replace(
                value, **{one.name: self.moved(getattr(value, one.name)) for one in fields(value)}
            )
        return value

    def steady(self) -> list[list[Launch]]:
        """The iterations without those that begin or end a picture."""
        return self.iterations[3:-1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_read = func is torch.ops.aten._local_scalar_dense.default
        if self._told is not None and is_read and args[0].constant is None:
            told = self._told.pop(0) if self._told else 0
            return torch.tensor(told).to(args[0].dtype).item() if args[0].is_cuda else told
        if self._told is not None and func is torch.ops.aten.equal.default:
            return True
        result = func(*args, **(kwargs or {}))
        if self.iterations and self._told is None:
            self._look(func, tree_leaves((args, kwargs, result)))
        return result

    def _look(self, func: Any, values: list[Any]) -> None:
        tensors = [one for one in values if isinstance(one, Tensor)]
        if func.namespace not in ("aten", "sjd2"):
            return  # such as asking where a tensor is
        ours = func.namespace == "sjd2"
        name, place = func.overloadpacket.__name__, _place()
        on_gpu = [one for one in tensors if one.is_cuda]
        # A number may be a tensor of the CPU, but for a kernel, which is given an address.
        stray = [one for one in tensors if not one.is_cuda and (one.ndim or ours)]
        if on_gpu and stray:
            raise StrayTensorError(f"{name} meets a tensor of the CPU, at {place}")
        if self._is_counting and on_gpu and not (func.is_view or name in _ALLOCATIONS):
            self.iterations[-1].append(Launch(name, KERNELS[name] if ours else 1, place))

    def _asked(self, request: Callable[..., Any]) -> Callable[..., Any]:
        def asked(family: Any, *args: Any, **kwargs: Any) -> Any:
            with torch.utils._python_dispatch._disable_current_modes():
                made = request(self.family, *args, **kwargs)
            # Names of the tokens are looked up in a table that the family has on the CPU.
            return self.moved(replace(made, finish=lambda tokens: tokens))

        return asked

    def _forward(self, method: Callable[..., Any]) -> Callable[..., Any]:
        run = self._outside(method)

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.iterations.append([])
            return run(*args, **kwargs)

        return forward

    def _outside(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, its launches not counted: they are those of the model's layers."""

        @wraps(method)
        def uncounted(*args: Any, **kwargs: Any) -> Any:
            before, self._is_counting = self._is_counting, False
            try:
                return method(*args, **kwargs)
            finally:
                self._is_counting = before

        return uncounted

    def _settled(self, settle: Callable[[DecodingState], None]) -> Callable[[DecodingState], None]:
        def settled(state: DecodingState) -> None:
            self.settlings += 1
            self._tables = self._tables or list(range(len(state.rows)))
            self._positions = self._positions_in(state)
            with self._host(*self._positions, state.length):
                settle(state)
            if len(state.rows) < len(self._tables):
                places = zip(self._tables, self._positions, strict=True)
                self._tables = [row for row, at in places if at < state.length]

        return settled

    def _positions_in(self, state: DecodingState) -> list[int]:
        """First one of several rows is finished, then few columns are left, then none.

        In a queue one row is finished after the other while pictures wait, then all are.
        """
        rows, length = len(state.rows), state.length
        if state.queue is not None:
            ended = self.settlings - 1 if state.queue.waiting else None
            return [length if ended in (None, row) else length // 3 for row in range(rows)]
        at = {1: length // 3, 2: length - 5}.get(self.settlings, length)
        positions = [at] * rows
        if rows > 1 and self.settlings == 1:
            positions[0] = length
        return positions

    def _take(self, take: Callable[..., None]) -> Callable[..., None]:
        """In a settling of a queue the host reads which rows are whose."""

        def taken(*args: Any) -> None:
            with self._host(*self._tables):
                take(*args)

        return taken

    def _refill(self, refill: Callable[..., None]) -> Callable[..., None]:
        """Where nothing waits any more, the positions are read once more."""

        def refilled(queue: Queue, state: DecodingState, finished: list[int]) -> None:
            refill(queue, state, finished)
            if not queue.waiting:
                self._told = [*self._positions, state.length]

        return refilled

    def _strict(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Forwards of pictures that begin in a settling: the host has told all that it tells."""

        def strict(*args: Any) -> Any:
            before, self._told = self._told, None
            result = method(*args)
            self._told = before
            return result

        return strict

    def _reading(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def reading(*args: Any, **kwargs: Any) -> Any:
            with self._host(), warnings.catch_warnings():
                # A corrector knows its weights by their address, and these have none.
                warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
                return method(*args, **kwargs)

        return reading

    @contextmanager
    def _host(self, *told: int) -> Iterator[None]:
        """Inside the block the host may read: these numbers, and then zeros."""
        before, self._told = self._told, list(told)
        try:
            yield
        finally:
            self._told = before


def _place() -> str:
    """The innermost line of sjd2/ that is being run."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"sjd2{name[len(PACKAGE) :]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside of sjd2/"
