"""Data parallelism among the cores of one CPU: each thread takes a part of the batch.

PyTorch's own threads wait for each other after every operation, which wastes a core as soon as
another process wants one. Here each core computes whole gradients alone, and they meet once a step.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor


def half_precision(device: torch.device) -> torch.autocast:
    """A context of bfloat16 products where the hardware has units for them, of float32 elsewhere.

    A CPU that merely has instructions for them (AVX-512) is half as fast with them as without.
    """
    fast = device.type != "cpu"
    if not fast and hasattr(torch.cpu, "get_capabilities"):  # not in torch 2.9
        fast = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    # The cache of casts is shared by all threads, and theirs are different graphs.
    return torch.autocast(device.type, torch.bfloat16, enabled=fast, cache_enabled=False)


class Shards:
    """A pool of single-threaded workers for gradients; on a GPU it is one worker, this thread.

    Use it as a context manager: PyTorch's number of threads is 1 within, and restored after. So
    sums are taken in the same order, and come out the same, however many cores there are.

    Args:
        device: where the model is.
        workers: how many parts a batch is split into on a CPU.
    """

    def __init__(self, device: torch.device, workers: int) -> None:
        self.threads = torch.get_num_threads()
        self.count = workers if device.type == "cpu" else 1
        self.pool = ThreadPoolExecutor(self.count)

    def __enter__(self) -> "Shards":
        torch.set_num_threads(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pool.shutdown()
        torch.set_num_threads(self.threads)

    def backward(
        self,
        loss_of: Callable[[int, Sequence[Tensor]], Tensor],
        batch: Sequence[Tensor],
        parameters: Sequence[Tensor],
    ) -> None:
        """Sets `.grad` of the parameters to that of the mean loss.

        Args:
            loss_of: the mean loss of a part, given its number and its tensors; it runs in a thread,
                so autocast and the like must be entered inside.
            batch: tensors with the batch first.
            parameters: to be differentiated by; those that play no part get no gradient.
        """
        parts = list(zip(*(tensor.chunk(self.count) for tensor in batch), strict=True))

        def gradients(number: int) -> tuple[Tensor | None, ...]:
            loss = loss_of(number, parts[number]) * (len(parts[number][0]) / len(batch[0]))
            return torch.autograd.grad(loss, parameters, allow_unused=True)

        # In the order of the parts, so that sums round the same way every time.
        first, *others = self.pool.map(gradients, range(len(parts)))
        for parameter, gradient in zip(parameters, first, strict=True):
            parameter.grad = gradient
        for more in others:
            for parameter, gradient in zip(parameters, more, strict=True):
                if parameter.grad is not None and gradient is not None:
                    parameter.grad += gradient
