"""What is trained beside a frozen model and belongs to it, on disk: adapters and correctors.

Each is a folder with safetensors and a JSON file that says what they are and whose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sjd2.models.adapter import Adapter, linear_layers
from sjd2.models.base import ImageModel
from sjd2.models.corrector import Corrector, neighbour_offsets

Companion = Adapter | Corrector
Kind = Literal["adapter", "corrector"]
C = TypeVar("C", Adapter, Corrector)

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
    _check_rank(rank, 0)
    table = family.embedding_table()
    layers = linear_layers(family.backbone)
    return Adapter(layers, table.shape[1], rank, fingerprint(family.backbone)).to(table.device)


def make_corrector(family: ImageModel, rank: int, row_width: int | None = None) -> Corrector:
    """A fresh corrector for a model, on its device, in float32.

    Args:
        family: the model.
        rank: inner width.
        row_width: tokens in a row of the pictures; None is that of the size the model is known for.

    Raises:
        ValueError: a rank below 1.

    RNG: torch's default generator.
    """
    _check_rank(rank, 1)
    table = family.embedding_table()
    offsets = neighbour_offsets(row_width or family.geometry.row_width)
    vocab_size, dimensions = table.shape
    base = fingerprint(family.backbone)
    # A backbone's states have the dimensions of its inputs.
    return Corrector(offsets, dimensions, 2 * dimensions, vocab_size, rank, base).to(table.device)


def save_adapter(adapter: Adapter, folder: str | Path) -> None:
    """Write an adapter into a folder, which is made.

    Each file is replaced as a whole; should a kill fall between the two, `load_adapter` says so.

    Args:
        adapter: of `sjd2.new_adapter` or `load_adapter`.
        folder: receives adapter.safetensors and adapter.json.
    """
    _save(adapter, "adapter", Path(folder))


def save_corrector(corrector: Corrector, folder: str | Path) -> None:
    """Write a corrector into a folder, which is made.

    Each file is replaced as a whole; should a kill fall between the two, `load_corrector` says so.

    Args:
        corrector: of `sjd2.new_corrector` or `load_corrector`.
        folder: receives corrector.safetensors and corrector.json.
    """
    _save(corrector, "corrector", Path(folder))


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


@dataclass(frozen=True)
class Companions:
    """The adapter and the corrector that a model draws with, if any.

    Attributes:
        adapter_is_named: whether somebody asked for this very adapter, rather than for whatever
            the model carries.
    """

    adapter: Adapter | None = None
    corrector: Corrector | None = None
    adapter_is_named: bool = True

    def only(self, kinds: Iterable[str]) -> Companions:
        """Those of the given kinds."""
        return replace(
            self,
            adapter=self.adapter if "adapter" in kinds else None,
            corrector=self.corrector if "corrector" in kinds else None,
        )


def find_companions(
    model: Any,
    family: ImageModel,
    adapter: Adapter | str | Path | None = "auto",
    corrector: Corrector | str | Path | None = "auto",
    known: Companions | None = None,
) -> Companions:
    """The companions that a call asks for, seen to belong to the model, on its device.

    Args:
        model: the transformers model.
        family: of the model.
        adapter, corrector: one of them, its folder, "auto" for what the model carries, or None.
        known: what the model was given before; "auto" takes these first, then the folders beside
            the model's weights.

    Raises:
        FileNotFoundError: there is none in the folder.
        TypeError: something else than a companion or a folder.
        ValueError: a damaged one, or another model's.
    """
    known = known or Companions()
    is_named = adapter != "auto"
    if adapter == "auto" and known.adapter is not None:
        adapter, is_named = known.adapter, known.adapter_is_named
    if corrector == "auto" and known.corrector is not None:
        corrector = known.corrector
    return Companions(
        _found(model, family, "adapter", Adapter, load_adapter, adapter),
        _found(model, family, "corrector", Corrector, load_corrector, corrector),
        is_named,
    )


def _found(
    model: Any,
    family: ImageModel,
    kind: Kind,
    wanted: type[C],
    load: Callable[[Path], C],
    given: Any,
) -> C | None:
    if isinstance(given, str) and given == "auto":
        given = carried(model, kind)
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        given = load(Path(given)).to(family.embedding_table().device)
    if not isinstance(given, wanted):
        raise TypeError(
            f"{kind} is a {type(given).__name__}, must be a {wanted.__name__} or its folder"
        )
    check_base(given, kind, family)
    return given


def carried(model: Any, kind: Kind) -> Path | None:
    """The folder of the companion that lies beside a model's weights, if there is one."""
    beside = Path(getattr(model, "name_or_path", None) or "/nowhere") / kind
    return beside if (beside / f"{kind}.json").is_file() else None


def check_base(companion: Companion, kind: Kind, family: ImageModel) -> None:
    """See to it that an adapter or a corrector is used with the model that it was trained on.

    Raises:
        ValueError: it is another model.
    """
    mine = fingerprint(family.backbone)
    if companion.base != mine:
        raise ValueError(
            f"{kind}: trained on a model with fingerprint {companion.base}, this one has {mine}; "
            f"load the weights it was trained on, or fine-tune {_with_article(kind)} for these"
        )


def _save(companion: Companion, kind: Kind, folder: Path) -> None:
    weights, config = _files(folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in companion.state_dict().items()
    }
    told = {"format": 1, **companion.config(), "sha256": _digest(tensors)}
    part = folder / f".{weights.name}.part"
    save_file(tensors, part)
    part.chmod(0o644)
    part.replace(weights)
    part = folder / f".{config.name}.part"
    part.write_text(json.dumps(told, indent=1) + "\n")
    part.replace(config)


def _load(make: type[C], kind: Kind, folder: Path) -> C:
    weights, config = _files(folder, kind)
    for path in (config, weights):
        if not path.is_file():
            wanted = f"{_with_article(kind)} is {config.name}, {weights.name}"
            raise FileNotFoundError(f"{path}: missing; {wanted}")
    try:
        told: dict[str, Any] = json.loads(config.read_text())
        companion = make.from_config(told)
        expected = str(told["sha256"])
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


def _with_article(kind: Kind) -> str:
    return "an adapter" if kind == "adapter" else "a corrector"


def _check_rank(rank: int, least: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < least:
        raise ValueError(f"rank={rank!r}: must be an integer of at least {least}")


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
