"""What interpreted kernels do to memory, access by access.

A GPU reads and writes what it is pointed at. Beyond the end of a tensor that is mostly another
tensor, so that a missing mask shows on some machine, in some month. The interpreter knows every
address before it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from triton.runtime import interpreter

Addresses = NDArray[np.uint64]


class Guard:
    """Sees every access of every launch while a test runs.

    Args:
        patch: undone when the test ends.
        far: programs of these axes are told to be that number, in a grid that is larger by it; what
            they then read outside of their tensors is zero, and they write nothing there.

    Raises:
        AssertionError: in the launch, at the first access outside of all tensors that the kernel
            was given or, under `far`, at the first address below all of them: one that a product
            of 32 bits has turned negative.
    """

    def __init__(self, patch: pytest.MonkeyPatch, far: dict[int, int] | None = None) -> None:
        self.far = far or {}
        self.spans: list[tuple[int, int]] = []
        self.accesses = self.furthest = 0
        builder = interpreter.interpreter_builder
        load, store = builder.create_masked_load, builder.create_masked_store
        begun = interpreter.GridExecutor._init_args_hst

        def begin(executor: Any, given: Any, named: dict[str, Any]) -> Any:
            args = begun(executor, given, named)
            tensors = [one for one in (*args[0], *args[1].values()) if hasattr(one, "data_ptr")]
            self.spans = [span(one) for one in tensors if one.numel()]
            return args

        def guarded_load(ptrs: Any, mask: Any, *rest: Any) -> Any:
            return load(ptrs, self.inside(ptrs, mask), *rest)

        def guarded_store(ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
            return store(ptrs, value, self.inside(ptrs, mask), *rest)

        def program(axis: int) -> Any:
            number = builder.grid_idx[axis] + self.far.get(axis, 0)
            return interpreter.TensorHandle(np.array([number], np.int32), interpreter.tl.int32)

        def programs(axis: int) -> Any:
            number = builder.grid_dim[axis] + self.far.get(axis, 0)
            return interpreter.TensorHandle(np.array([number], np.int32), interpreter.tl.int32)

        patch.setattr(interpreter.GridExecutor, "_init_args_hst", begin)
        patch.setattr(builder, "create_masked_load", guarded_load)
        patch.setattr(builder, "create_masked_store", guarded_store)
        if self.far:
            patch.setattr(builder, "create_get_program_id", program)
            patch.setattr(builder, "create_get_num_programs", programs)

    def inside(self, ptrs: Any, mask: Any) -> Any:
        """The mask of an access, without what is outside; raises as the class says."""
        at, active = np.broadcast_arrays(ptrs.data, mask.data)
        size = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
        known = np.zeros(at.shape, bool)
        for start, end in self.spans:
            known |= (at >= start) & (at + np.uint64(size) <= end)
        self.accesses += int(active.sum())
        if not self.far:
            assert known[active].all(), "a kernel left the tensors that it was given"
            return mask
        lowest = min(start for start, _ in self.spans)
        # Addresses are unsigned: what a negative offset makes of them may also be enormous.
        assert (at[active] >= lowest).all(), "an address was computed with 32 bits"
        assert (at[active] < lowest + 2**45).all(), "an address was computed with 32 bits"
        if active.any():
            self.furthest = max(self.furthest, int(at[active].max()) - lowest)
        return interpreter.TensorHandle(np.array(active & known), interpreter.tl.int1)


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte of a view and the byte behind its last element."""
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


def spaced(tensor: torch.Tensor, fill: Any) -> torch.Tensor:
    """The same tensor with another stride, in a sea of `fill`: rows lie apart, and not evenly."""
    *outer, last = tensor.shape
    sea = torch.full((*outer, last + 3), fill, dtype=tensor.dtype)
    sea[..., 1 : last + 1] = tensor
    return sea[..., 1 : last + 1]
