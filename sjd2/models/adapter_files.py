"""Adapters on disk: safetensors, and a JSON file that says what they belong to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sjd2.models.adapter import Adapter, linear_layers
from sjd2.models.base import ImageModel

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"
_SAMPLE = 64  # values of a tensor that its fingerprint looks at


def fingerprint(backbone: nn.Module) -> str:
    """What a backbone's weights are recognised by, in any precision from bfloat16 on: hex digits.

    A sample of every tensor is looked at, so that billions of weights take no time.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        flat = tensor.detach().flatten()
        # Spread over the whole, ends included.
        chosen = torch.linspace(0, len(flat) - 1, min(_SAMPLE, len(flat)), dtype=torch.float64)
        values = flat[chosen.long().to(flat.device)].to(torch.bfloat16).float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:32]


def make_adapter(family: ImageModel, rank: int) -> Adapter:
    """A fresh adapter for a model, on its device, in float32.

    Raises:
        ValueError: a rank below 0.

    RNG: torch's default generator.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
        raise ValueError(f"rank={rank!r}: must be an integer of at least 0")
    table = family.embedding_table()
    layers = linear_layers(family.backbone)
    return Adapter(layers, table.shape[1], rank, fingerprint(family.backbone)).to(table.device)


def save_adapter(adapter: Adapter, folder: str | Path) -> None:
    """Write an adapter into a folder, which is made.

    Each file is replaced as a whole; should a kill fall between the two, `load_adapter` says so.

    Args:
        adapter: of `sjd2.new_adapter` or `load_adapter`.
        folder: receives adapter.safetensors and adapter.json.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in adapter.state_dict().items()
    }
    config = {
        "format": 1,
        "rank": adapter.rank,
        "dimensions": adapter.dimensions,
        "base": adapter.base,
        "layers": adapter.layers,
        "sha256": _digest(tensors),
    }
    part = folder / f".{WEIGHTS}.part"
    save_file(tensors, part)
    part.chmod(0o644)
    part.replace(folder / WEIGHTS)
    part = folder / f".{CONFIG}.part"
    part.write_text(json.dumps(config, indent=1) + "\n")
    part.replace(folder / CONFIG)


def load_adapter(folder: str | Path) -> Adapter:
    """Read an adapter that `save_adapter` wrote; onto the CPU, in eval mode.

    Raises:
        FileNotFoundError: one of the two files is missing (named).
        ValueError: a file is damaged, or the two do not belong together (named).
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: missing; an adapter is {CONFIG}, {WEIGHTS}")
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        layers = {str(name): (int(a), int(b)) for name, (a, b) in config["layers"].items()}
        rank, dimensions = int(config["rank"]), int(config["dimensions"])
        adapter = Adapter(layers, dimensions, rank, str(config["base"]))
        expected = str(config["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG}: damaged ({error!r})") from error
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: damaged ({error})") from error
    if _digest(tensors) != expected:
        raise ValueError(f"{folder / WEIGHTS}: damaged, or not the weights of {CONFIG} beside it")
    adapter.load_state_dict(tensors)
    return adapter.eval()


def check_base(adapter: Adapter, family: ImageModel) -> None:
    """See to it that an adapter is used with the model that it was trained on.

    Raises:
        ValueError: it is another model.
    """
    mine = fingerprint(family.backbone)
    if adapter.base != mine:
        raise ValueError(
            f"adapter: trained on a model with fingerprint {adapter.base}, this one has {mine}; "
            "load the weights it was trained on, or fine-tune an adapter for these"
        )


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
