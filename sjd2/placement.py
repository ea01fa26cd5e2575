"""Where a model computes, which is not always where its weights lie.

accelerate's hooks keep weights on the CPU, on disk or on "meta" until a module's forward needs
them. They say where it computes, and act when a module is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def device_of(model: Any) -> torch.device:
    """Where a transformers model takes its tokens: the device of prompts and of what is drawn."""
    embedding = model.get_input_embeddings()
    for module in (embedding, model):
        for hook in _hooks(module):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return _as_tensors_say(torch.device(device))
    weight = next(embedding.parameters(), None)
    return torch.device(model.device if weight is None else weight.device)


def bring(model: Any) -> None:
    """Bring a model to where it computes, if it is brought as a whole.

    accelerate's `cpu_offload_with_hook`, which is diffusers' `enable_model_cpu_offload`, does so
    when the model's own forward is called, and sends the model before it away. Windows are fed to
    its decoder, past that forward.
    """
    for hook in _hooks(model):
        if any(kind.__name__ == "CpuOffload" for kind in type(hook).__mro__):
            hook.pre_forward(model)


def is_offloaded(module: nn.Module) -> bool:
    """Whether weights of a module, or of a part of it, are brought to where it computes."""
    return any(True for part in module.modules() for _ in _hooks(part))


def _as_tensors_say(device: torch.device) -> torch.device:
    """A device as the tensors on it call theirs: the CPU without a number, others with theirs."""
    if device.type == "cpu":
        return torch.device("cpu")
    index: int | None = device.index
    if index is None and torch.accelerator.is_available():
        return torch.device(device.type, torch.accelerator.current_device_index())
    return device


def _hooks(module: Any) -> Iterator[Any]:
    """accelerate's hooks of a module, one by one."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
