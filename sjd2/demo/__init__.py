"""The embedded text-to-image model: captioned scenes, their checker, and a very small Janus.

`load` needs no network. `python -m sjd2.demo.train` makes the weights from nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import JanusForConditionalGeneration

    from sjd2.demo.processor import CaptionProcessor

__all__ = ["DEMO", "WEIGHTS", "load"]

DEMO = "demo"  # its name wherever a model is named

WEIGHTS = Path(__file__).parent / "weights"


def load(
    device: str | torch.device = "cpu", folder: Path = WEIGHTS
) -> tuple[JanusForConditionalGeneration, CaptionProcessor]:
    """The embedded model and its processor, ready for `generate(..., generation_mode="image")`.

    Args:
        device: where to put the model.
        folder: the weights that ship with the package, or the `--out` of `sjd2.demo.train`.
    Returns:
        tuple: a float32 model in eval mode, and a `JanusProcessor` that refuses captions which the
        model was not taught.
    Raises:
        ValueError: a file of the folder is missing, damaged, not this model's, or a pickle; the
            message names it. The device is not available.

    Example: what the processor understands, and whether a picture shows it.

        >>> import sjd2
        >>> from sjd2.demo.checker import check
        >>> from sjd2.demo.scenes import render, sample_scene
        >>> model, processor = sjd2.demo.load()
        >>> scene = sample_scene(3, "train")
        >>> check(render(scene), scene.caption).passed
        True
    """
    import torch
    from transformers import JanusForConditionalGeneration

    from sjd2.demo.processor import CaptionProcessor

    folder = Path(folder)
    _check_files(folder)
    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device={device!r}: not available; weights elsewhere are named by folder= ({reason})"
        ) from error
    try:
        model, report = JanusForConditionalGeneration.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        # Not torchvision's class, even where it is installed: upstream it cannot give PIL images.
        processor = CaptionProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder}: not a readable Janus model ({error})") from error
    # Upstream only warns of these, and draws with untrained weights.
    if wrong := {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}:
        raise ValueError(f"{folder / 'model.safetensors'}: weights of another model; {wrong}")
    return model.to(device).eval(), processor


def _check_files(folder: Path) -> None:
    """Raises ValueError unless the weights are one intact safetensors file, as `train` wrote it."""
    from safetensors import SafetensorError, safe_open

    weights = folder / "model.safetensors"
    if not weights.is_file():
        pickles = sorted(p.name for kind in ("*.bin", "*.pt", "*.pth") for p in folder.glob(kind))
        refused = f"; pickles are refused: {', '.join(pickles)}" if pickles else ""
        raise ValueError(f"{weights}: no such file{refused}")
    try:
        with safe_open(weights, framework="pt"):  # also compares the file's length with its header
            pass
    except SafetensorError as error:
        raise ValueError(f"{weights}: damaged, or no safetensors file ({error})") from error
    if digest(weights) != _metrics(folder).get("sha256"):
        raise ValueError(f"{weights}: not the file that {folder / 'metrics.json'} describes")


def digest(path: Path) -> str:
    """The SHA-256 of a file, by which it is recognised."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shipped() -> dict[str, str]:
    """The `digest` of every file of weights in the package, companions too, by its path."""
    paths = sorted(WEIGHTS.rglob("*.safetensors"))
    return {path.relative_to(WEIGHTS).as_posix(): digest(path) for path in paths}


def _metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: missing or damaged ({error})") from error
    if not isinstance(metrics, dict):
        raise ValueError(f"{path}: holds a {type(metrics).__name__}, not an object")
    return metrics
