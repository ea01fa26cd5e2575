"""Adapters and correctors on disk, and what tells whose they are.

Each is a folder with safetensors and a JSON file that says what they are and whose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sjd2.companions.adapter import Adapter, without_lora
from sjd2.companions.corrector import Corrector
from sjd2.files import write_atomically, write_json

Companion = Adapter | Corrector
Kind = Literal["adapter", "corrector"]
C = TypeVar("C", Adapter, Corrector)

_SAMPLE = 64  # values of a tensor that its fingerprint looks at


def fingerprint(backbone: nn.Module) -> str:
    """What a backbone's weights are recognised by, in any precision from bfloat16 on: hex digits.

    A sample of every tensor is looked at, so that billions of weights take no time. What peft's
    LoRA adds is left out. Tensors whose values cannot be picked out, such as packed or offloaded
    ones, count by their names and shapes.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_weights(backbone), key=itemgetter(0)):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(_sample(tensor))
    return digest.hexdigest()[:32]


def _weights(backbone: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What `state_dict` lists of a model without LoRA.

    That itself is not called: bitsandbytes unpacks weights for it, and not into what they were.
    """
    for path, module in backbone.named_modules(remove_duplicate=False):
        kept = (one for one in module._buffers if one not in module._non_persistent_buffers_set)
        tensors = {**module._parameters, **{name: module._buffers[name] for name in kept}}
        for name, tensor in tensors.items():
            known = without_lora(f"{path}.{name}" if path else name)
            if known is not None and tensor is not None:
                yield known, tensor


def _sample(tensor: Tensor) -> bytes:
    """Values spread over a tensor, ends included, in bfloat16's precision."""
    try:
        flat = tensor.detach().flatten()
        chosen = torch.linspace(0, len(flat) - 1, min(_SAMPLE, len(flat)), dtype=torch.float64)
        values = flat[chosen.long().to(flat.device)].to(torch.bfloat16).float().cpu()
        return values.numpy().tobytes()
    except Exception:
        # A tensor on "meta", or a subclass without these operations, which may raise anything.
        return b"unread"


def save_adapter(adapter: Adapter, folder: str | Path) -> None:
    """Write an adapter into a folder, which is made.

    Each file is replaced as a whole; should a kill fall between the two, `load_adapter` says so.

    Args:
        adapter: of `sjd2.new_adapter` or `load_adapter`.
        folder: receives adapter.safetensors and adapter.json.

    Raises:
        TypeError: it is no adapter.
    """
    _save(adapter, Adapter, "adapter", Path(folder))


def save_corrector(corrector: Corrector, folder: str | Path) -> None:
    """Write a corrector into a folder, which is made.

    Each file is replaced as a whole; should a kill fall between the two, `load_corrector` says so.

    Args:
        corrector: of `sjd2.new_corrector` or `load_corrector`.
        folder: receives corrector.safetensors and corrector.json.

    Raises:
        TypeError: it is no corrector.
    """
    _save(corrector, Corrector, "corrector", Path(folder))


def load_adapter(folder: str | Path) -> Adapter:
    """Read an adapter that `save_adapter` wrote; onto the CPU, in eval mode.

    Raises:
        FileNotFoundError: one of the two files is missing (named).
        ValueError: a file is damaged, or the two do not belong together (named).
    """
    return _load(Adapter, "adapter", Path(folder))


def load_corrector(folder: str | Path) -> Corrector:
    """Read a corrector that `save_corrector` wrote; onto the CPU, in eval mode.

    Raises:
        FileNotFoundError: one of the two files is missing (named).
        ValueError: a file is damaged, or the two do not belong together (named).
    """
    return _load(Corrector, "corrector", Path(folder))


def _save(companion: Companion, wanted: type[Companion], kind: Kind, folder: Path) -> None:
    if not isinstance(companion, wanted):
        raise TypeError(f"{kind} is a {type(companion).__name__}, must be {with_article(kind)}")
    weights, config = _files(folder, kind)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in companion.state_dict().items()
    }
    write_atomically(weights, lambda file: file.write(save(tensors)), force=True)
    write_json(config, {"format": 1, **companion.config(), "sha256": _digest(tensors)})


def _load(make: type[C], kind: Kind, folder: Path) -> C:
    weights, config = _files(folder, kind)
    for path in (config, weights):
        if not path.is_file():
            wanted = f"{with_article(kind)} is {config.name}, {weights.name}"
            raise FileNotFoundError(f"{path}: missing; {wanted}")
    try:
        description: dict[str, Any] = json.loads(config.read_text())
        companion = make.from_config(description)
        expected = str(description["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config}: damaged ({error!r})") from error
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights}: damaged ({error})") from error
    if _digest(tensors) != expected:
        raise ValueError(f"{weights}: damaged, or not the weights of {config.name} beside it")
    try:
        companion.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{config}: damaged, describes other tensors ({error})") from error
    return companion.eval()


def _files(folder: Path, kind: Kind) -> tuple[Path, Path]:
    return folder / f"{kind}.safetensors", folder / f"{kind}.json"


def with_article(kind: Kind) -> str:
    """The kind as messages name one of it."""
    return "an adapter" if kind == "adapter" else "a corrector"


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
