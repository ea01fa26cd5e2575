"""Lumina-mGPT's published checkpoints, made into folders that transformers loads as they are.

They hold `q_norm` and `k_norm` as the training had them, a row for each of the devices that a layer
was split over; transformers wants a row for every head. A row serves consecutive heads.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sjd2.files import write_json
from sjd2.progress import Progress

_NORM = re.compile(r"\.self_attn\.([qk])_norm\.(weight|bias)$")
_INDEX = "model.safetensors.index.json"
# Weights in other formats, and what transformers would take for weights of this one.
_OTHER_WEIGHTS = {".bin", ".ckpt", ".h5", ".msgpack", ".pt", ".pth"}


def convert_checkpoint(
    source: str | Path, out: str | Path, *, force: bool = False, show_progress: bool = False
) -> int:
    """Copy a checkpoint with the rows of its query and key norms repeated for every head.

    Weights are read one file after the other. A checkpoint that has a row for every head already
    is copied as it is. `out` is whole or not there.

    Args:
        source: a folder with config.json and safetensors, such as a copy of
            "Alpha-VLLM/Lumina-mGPT-7B-768".
        out: the folder to be made.
        force: whether an existing folder may be replaced.
        show_progress: say on stderr how far it is, see `sjd2.progress`.

    Returns:
        How many tensors were widened.

    Raises:
        ValueError: no checkpoint of a Chameleon, rows that do not divide the heads, weights that
            are missing or damaged, or an `out` that exists.
    """
    source, out = Path(source), Path(out)
    config = _config_of(source)
    if out.exists() and not force:
        raise ValueError(f"{out}: exists already; --force replaces it")
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise ValueError(f"{out}: would replace the checkpoint itself")
    heads = {"q": config["num_attention_heads"]}
    heads["k"] = config.get("num_key_value_heads") or heads["q"]
    shards = sorted(source.glob("*.safetensors"))
    shards = [shard for shard in shards if shard.name.startswith(("model", "pytorch_model"))]
    if not shards:
        raise ValueError(f"{source}: no model*.safetensors in it; pickled weights are not read")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.parent / f".sjd2-{secrets.token_hex(6)}.part"
    part.mkdir()
    progress = Progress("converting", "files", len(shards), is_shown=show_progress)
    try:
        widened = size = 0
        for shard in shards:
            tensors = {name: _widened(name, value, heads) for name, value in _read(shard).items()}
            widened += sum(is_wider for _, is_wider in tensors.values())
            weights = {name: value for name, (value, _) in tensors.items()}
            size += sum(value.nbytes for value in weights.values())
            save_file(weights, part / shard.name, metadata={"format": "pt"})
            progress.update(progress.done + 1)
        for file in source.iterdir():
            if file.is_file() and file not in shards and file.suffix not in _OTHER_WEIGHTS:
                shutil.copy2(file, part / file.name)
        # transformers has the class under this name only.
        config["architectures"] = ["ChameleonForConditionalGeneration"]
        write_json(part / "config.json", config)
        if (source / _INDEX).is_file():
            index = json.loads((source / _INDEX).read_text())
            index["metadata"] = {**index.get("metadata", {}), "total_size": size}
            write_json(part / _INDEX, index)
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        progress.close()
    return widened


def _config_of(source: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{source}: no config.json in it") from error
    except ValueError as error:
        raise ValueError(f"{source}/config.json: damaged ({error})") from error
    if config.get("model_type") != "chameleon" or "num_attention_heads" not in config:
        raise ValueError(
            f"{source}: its model_type is {config.get('model_type')!r}; only checkpoints of a "
            "Chameleon, such as Lumina-mGPT's, are converted"
        )
    return config


def _read(shard: Path) -> dict[str, Tensor]:
    try:
        with safe_open(shard, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{shard}: damaged ({error})") from error


def _widened(name: str, value: Tensor, heads: Mapping[str, int]) -> tuple[Tensor, bool]:
    """A tensor as transformers wants it, and whether it was another before."""
    norm = _NORM.search(name)
    if norm is None or value.ndim != 2 or len(value) == heads[norm[1]]:
        return value, False
    repeats, odd = divmod(heads[norm[1]], len(value))
    if odd or not repeats:
        raise ValueError(f"{name}: {len(value)} rows for {heads[norm[1]]} heads")
    return value.repeat_interleave(repeats, 0), True
