"""FID and CLIP score of drawn pictures, by torchmetrics, from local weights.

Nothing is downloaded: without weights there is no score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from sjd2.extras import missing
from sjd2.pictures.files import PICTURE_FORMATS

_BATCH = 16


class Fid:
    """Frechet inception distance to the pictures of a folder.

    Args:
        reference: folder with at least 2 pictures, its own folders included.
        weights: the Inception weights of torch-fidelity, a .pth file.

    Raises:
        ValueError: no pictures, no weights, or torchmetrics is not installed.
    """

    name = "fid"

    def __init__(self, reference: Path, weights: Path) -> None:
        endings = tuple(PICTURE_FORMATS)
        found = sorted(p for p in reference.rglob("*") if p.suffix.lower() in endings)
        if len(found) < 2:
            raise ValueError(f"{reference}: holds {len(found)} pictures; at least 2 are needed")
        if not weights.is_file():
            raise ValueError(f"{weights}: no such file of Inception weights")
        metric = _torchmetrics("image.fid", "FrechetInceptionDistance")
        try:
            self.metric = metric(
                reset_real_features=False, feature_extractor_weights_path=str(weights)
            )
        except (ImportError, RuntimeError, OSError) as error:
            raise ValueError(f"FID with {weights}: {error}") from error
        for pictures in _batches(found):
            self.metric.update(pictures, real=True)

    def score(self, pictures: Sequence[Path], captions: Sequence[str]) -> float | None:
        """The distance; None for fewer than 2 pictures. Captions are ignored."""
        if len(pictures) < 2:
            return None
        self.metric.reset()
        for batch in _batches(pictures):
            self.metric.update(batch, real=False)
        return float(self.metric.compute())


class ClipScore:
    """Mean agreement of pictures with their captions, 0 to 100.

    Args:
        weights: folder of a CLIP model and its processor, as `save_pretrained` writes them.

    Raises:
        ValueError: the folder cannot be read, or torchmetrics is not installed.
    """

    name = "clip_score"

    def __init__(self, weights: Path) -> None:
        if not (weights / "config.json").is_file():
            raise ValueError(f"{weights}: no folder of a CLIP model")
        metric = _torchmetrics("multimodal.clip_score", "CLIPScore")
        try:
            both = _Clip.from_pretrained(weights), CLIPProcessor.from_pretrained(weights)
            # As a function: torchmetrics would take a string for the name of a model on the Hub.
            self.metric = metric(model_name_or_path=lambda: both)
        except (ImportError, OSError, ValueError) as error:
            raise ValueError(f"CLIP score with {weights}: {error}") from error

    def score(self, pictures: Sequence[Path], captions: Sequence[str]) -> float | None:
        """The mean over the pictures; one caption each."""
        self.metric.reset()
        for first, batch in zip(range(0, len(pictures), _BATCH), _batches(pictures), strict=True):
            self.metric.update(list(batch), list(captions[first : first + _BATCH]))
        return float(self.metric.compute())


class _Clip(CLIPModel):
    """A CLIP model whose features are tensors, as torchmetrics expects."""

    def get_image_features(self, *args: Any, **kwargs: Any) -> Tensor:
        features: Tensor = super().get_image_features(*args, **kwargs).pooler_output
        return features

    def get_text_features(self, *args: Any, **kwargs: Any) -> Tensor:
        features: Tensor = super().get_text_features(*args, **kwargs).pooler_output
        return features


def _torchmetrics(module: str, name: str) -> Any:
    try:
        return getattr(import_module(f"torchmetrics.{module}"), name)
    except ImportError as error:
        raise missing(name, "eval", error) from error


def _batches(paths: Sequence[Path]) -> Iterator[Tensor]:
    """Pictures as uint8 [B, 3, H, W], resized to the size of the first."""
    size = Image.open(paths[0]).size
    for first in range(0, len(paths), _BATCH):
        pictures = [Image.open(path).convert("RGB") for path in paths[first : first + _BATCH]]
        levels = np.stack([np.asarray(picture.resize(size)) for picture in pictures])
        yield torch.from_numpy(levels).permute(0, 3, 1, 2)
