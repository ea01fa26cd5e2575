"""Checkpoints that survive a kill at any moment, and random streams that need no checkpoint.

No random state is kept between steps: whatever a step draws comes from a generator keyed by (seed,
names, step). So a resumed run needs weights, optimiser state and the step, and repeats an
uninterrupted one bit for bit on the same machine.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sjd2.files import write_atomically


def keyed_generator(seed: int, *names: str | int) -> torch.Generator:
    """A fresh CPU generator for one purpose of one step.

    Args:
        seed: the run's seed.
        names: what the numbers are for, such as ("dropout", step); another name, another stream.
    Returns:
        torch.Generator: seeded by SHA-256 of the key, so neighbouring steps are unrelated.
    """
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers and nested dicts of them; a kill leaves the previous file."""
    write_atomically(path, lambda file: torch.save(dict(state), file), force=True)


def load_state(path: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU, or None where there is nothing yet.

    Raises:
        ValueError: the file is damaged or holds anything but tensors and plain values.
    """
    if not path.exists():
        return None
    try:
        # weights_only: a pickle that runs code must not pass for a checkpoint.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a checkpoint")
    return state
