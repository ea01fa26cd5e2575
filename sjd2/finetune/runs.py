"""The folder of a training: what it was started with, and the checkpoint that it goes on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from sjd2.companions import fingerprint
from sjd2.files import write_json
from sjd2.finetune.settings import TrainingSettings
from sjd2.protocol import ImageModel

Record = dict[str, Any]


def record_of(
    family: ImageModel,
    settings: TrainingSettings,
    sampling: Mapping[str, Any],
    **data: Mapping[str, Tensor] | Tensor | None,
) -> Record:
    """What a training depends on: two runs of equal records end the same.

    Args:
        family: the model, untrained.
        settings: the recipe.
        sampling: keyword arguments of `generate`.
        **data: what is learned from and evaluated on.
    """
    record = {
        "training": type(settings).__name__.removesuffix("Settings"),
        "model": fingerprint(family.backbone),
        "sampling": dict(sampling),
        **{name: _digest(value) for name, value in data.items()},
        **asdict(settings),
    }
    as_read: Record = json.loads(json.dumps(record))
    return as_read


def find_checkpoint(out: Path, record: Record, resume: bool) -> Path | None:
    """The checkpoint that a training goes on from, None where it starts at the beginning.

    Args:
        out: its folder.
        record: of the training that is asked for.
        resume: whether to go on.

    Raises:
        ValueError: checkpoints without `resume`, `resume` without a training, or one of another
            record.
    """
    last = last_checkpoint(out)
    if not resume:
        if last is not None:
            raise ValueError(f"{out}: holds checkpoints; --resume goes on from them")
        return None
    try:
        before = json.loads(_record_path(out).read_text())
    except (OSError, ValueError):
        raise ValueError(
            f"{out}: holds no training to go on with; without --resume one is started"
        ) from None
    if other := sorted(name for name in record if record[name] != before.get(name)):
        raise ValueError(f"{out}: the training to go on with has other {', '.join(other)}")
    return last


def write_record(out: Path, record: Record) -> None:
    """Keep what a training was started with, for `find_checkpoint`."""
    write_json(_record_path(out), record)


def last_checkpoint(out: Path) -> Path | None:
    """The last checkpoint that was written to its end; a kill may leave one that was not."""
    found = sorted(
        (out / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])
    )
    for folder in reversed(found):
        # Trainer writes this file last.
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return folder
    return None


def _record_path(out: Path) -> Path:
    return out / "checkpoints" / "settings.json"


def _digest(value: Mapping[str, Tensor] | Tensor | None) -> str | None:
    if value is None:
        return None
    named = {"": value} if isinstance(value, Tensor) else value
    digest = hashlib.sha256()
    for name, tensor in sorted(named.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
