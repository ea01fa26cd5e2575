"""What interpreted kernels do to memory, access by access.

A GPU reads and writes what it is pointed at. Beyond the end of a tensor that is mostly another
tensor, so that a missing mask shows on some machine, in some month. The interpreter knows every
address before it is used.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from triton.runtime import interpreter

BORDER = 4096  # bytes of poison on either side of a tensor


class Guard:
    """Sees every access of every launch while a test runs.

    In a launch every tensor lies alone in a sea of poison, NaN or a very large number, also between
    rows that lie apart. The programs run from the last to the first: where one needs another before
    it, either this order or the usual one is wrong.

    Args:
        patch: undone when the test ends.
        far: for a kernel an axis and a number: its programs are told to be further along the axis
            by so much, in a grid that is larger by it; what they then read outside of their tensors
            is zero, and they write nothing there.

    Attributes:
        launched: the kernels, by name.

    Raises:
        AssertionError: in the launch, at the first access outside of all tensors that the kernel
            was given, or where two programs write to one place; under `far`, at the first address
            below all tensors: one that a product of 32 bits has turned negative.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, far: dict[str, tuple[int, int]] | None = None
    ) -> None:
        self.far = far or {}
        self.launched: list[str] = []
        self.accesses = self.furthest = 0
        builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
        load, store = builder.create_masked_load, builder.create_masked_store
        set_program = builder.set_grid_idx

        def begin(run: Any, given: Any, named: dict[str, Any]) -> Any:
            self.launched.append(run.fn.__name__)
            self._far_off = self.far.get(run.fn.__name__)
            self._sea = Sea([one for one in (*given, *named.values()) if hasattr(one, "data_ptr")])
            here = [self._sea.place(one) for one in given]
            return here, {name: self._sea.place(one) for name, one in named.items()}

        def end(run: Any, *arguments: Any) -> None:
            self._sea.leave()

        def guarded_load(ptrs: Any, mask: Any, *rest: Any) -> Any:
            return load(ptrs, self._inside(ptrs, mask), *rest)

        def guarded_store(ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
            return store(ptrs, value, self._inside(ptrs, mask, self._program), *rest)

        def backwards(*program: int) -> None:
            program = tuple(n - 1 - at for n, at in zip(builder.grid_dim, program, strict=True))
            self._program = 1 + int(np.ravel_multi_index(program, builder.grid_dim))
            set_program(*program)

        def number(held: Any, axis: int) -> Any:
            moved, further = self._far_off or (axis, 0)
            found = np.array([held[axis] + further * (moved == axis)], np.int32)
            return interpreter.TensorHandle(found, interpreter.tl.int32)

        patch.setattr(executor, "_init_args_hst", begin)
        patch.setattr(executor, "_restore_args_dev", end)
        patch.setattr(builder, "create_masked_load", guarded_load)
        patch.setattr(builder, "create_masked_store", guarded_store)
        patch.setattr(builder, "set_grid_idx", backwards)
        if self.far:
            for asked, held in (("program_id", "grid_idx"), ("num_programs", "grid_dim")):
                told = partial(lambda held, axis: number(getattr(builder, held), axis), held)
                patch.setattr(builder, f"create_get_{asked}", told)

    def _inside(self, ptrs: Any, mask: Any, writer: int = 0) -> Any:
        """The mask of an access, without what is outside; raises as the class says."""
        at, active = np.broadcast_arrays(ptrs.data, mask.data)
        self.accesses += int(active.sum())
        used = at[active]
        if not self._far_off:
            self._sea.use(used, writer)
            return mask
        # Addresses are unsigned: what a negative offset makes of them may also be enormous.
        offset = used - np.uint64(self._sea.start)
        assert (offset < 2**45).all(), "an address was computed with 32 bits"
        if offset.size:
            self.furthest = max(self.furthest, int(offset.max()))
        known = self._sea.is_known(at)
        return interpreter.TensorHandle(np.array(active & known), interpreter.tl.int1)


class Sea:
    """The memory of one launch: its tensors, each alone, in poison.

    Args:
        tensors: those of the launch; several may be views of one buffer.
    """

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self.tensors = tensors
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        buffers = {one.untyped_storage().data_ptr(): one for one in tensors}
        room = sum(one.untyped_storage().nbytes() + 16 + BORDER for one in buffers.values())
        self.memory = torch.empty(room + BORDER, dtype=torch.uint8)
        self.start, at = self.memory.data_ptr(), BORDER
        for address, tensor in buffers.items():
            size = tensor.untyped_storage().nbytes() // 16 * 16 + 16
            here = self.memory[at - BORDER : at + size + BORDER].view(tensor.dtype)
            here.fill_(poison(tensor.dtype))
            there = tensor.new_empty(0).set_(tensor.untyped_storage())
            self._buffers[address] = here[BORDER // tensor.element_size() :], there
            at += size + BORDER
        # Of every byte: whether an element begins there, and the program that has written it.
        self._begins = np.zeros(len(self.memory), bool)
        self._writer = np.zeros(len(self.memory), np.int32)
        is_poison = np.ones(len(self.memory), bool)
        for tensor in tensors:
            here, there = self._buffers[tensor.untyped_storage().data_ptr()]
            elements = elements_of(tensor)
            here[elements] = there[elements]
            size = tensor.element_size()
            bytes_of = (here.data_ptr() - self.start + elements * size).numpy()
            self._begins[bytes_of] = True
            is_poison[(bytes_of[:, None] + np.arange(size)).ravel()] = False
        self._border = np.flatnonzero(is_poison)
        self._before = self.memory.numpy()[self._border]

    def place(self, value: Any) -> Any:
        """Where a tensor of the launch lies in here; other arguments as they are."""
        if not isinstance(value, torch.Tensor):
            return value
        here, _ = self._buffers[value.untyped_storage().data_ptr()]
        return here.as_strided(
            value.shape, value.stride(), here.storage_offset() + value.storage_offset()
        )

    def leave(self) -> None:
        """Bring home what the launch has written."""
        now = self.memory.numpy()[self._border]
        assert (now == self._before).all(), "a kernel wrote beside its tensors"
        for tensor in self.tensors:
            here, there = self._buffers[tensor.untyped_storage().data_ptr()]
            elements = elements_of(tensor)
            there[elements] = here[elements]

    def is_known(self, at: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether elements of tensors begin at these addresses."""
        offset = at - np.uint64(self.start)
        inside = offset < len(self._begins)
        return inside & self._begins[np.where(inside, offset, np.uint64(0)).astype(np.int64)]

    def use(self, at: NDArray[np.uint64], writer: int) -> None:
        """Let a program write, or one of number 0 read; raises as `Guard` says."""
        assert self.is_known(at).all(), "a kernel left the tensors that it was given"
        if writer:
            offset = (at - np.uint64(self.start)).astype(np.int64)
            before = self._writer[offset]
            assert ((before == 0) | (before == writer)).all(), "two programs write to one place"
            self._writer[offset] = writer


def elements_of(tensor: torch.Tensor) -> torch.Tensor:
    """Where the elements of a view are in its buffer."""
    buffer = torch.arange(tensor.untyped_storage().nbytes() // tensor.element_size())
    return buffer.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).flatten()


def poison(dtype: torch.dtype) -> float:
    """What shows wherever it is used."""
    if dtype.is_floating_point:
        return torch.nan
    return True if dtype == torch.bool else torch.iinfo(dtype).max


def spaced(tensor: torch.Tensor, fill: Any) -> torch.Tensor:
    """The same tensor with another stride, in a sea of `fill`: rows lie apart, and not evenly."""
    *outer, last = tensor.shape
    sea = torch.full((*outer, last + 3), fill, dtype=tensor.dtype)
    sea[..., 1 : last + 1] = tensor
    return sea[..., 1 : last + 1]
