"""FID and CLIP score: what torchmetrics is given, and what comes out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sjd2.evaluate import quality
from sjd2.evaluate.quality import ClipScore, Fid

pytest.importorskip("torchmetrics")


def folder_of_pictures(folder: Path, count: int, seed: int, size: int = 24) -> list[Path]:
    folder.mkdir()
    generator = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        colour = generator.integers(0, 256, 3)
        levels = np.clip(colour + generator.normal(0, 20, (size, size, 3)), 0, 255)
        paths.append(folder / f"{number}.png")
        Image.fromarray(levels.astype(np.uint8)).save(paths[-1])
    return paths


class MeanColours(nn.Module):
    """Three features instead of Inception's 2048, as `FrechetInceptionDistance` takes them."""

    num_features = 3

    def forward(self, pictures: Tensor) -> Tensor:
        assert pictures.dtype == torch.uint8
        return pictures.float().mean(dim=(2, 3)) / 64


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inception's weights are not to be had here: another extractor stands in for them."""
    real = quality._torchmetrics

    def fetched(module: str, name: str) -> Any:
        metric = real(module, name)

        def made(feature_extractor_weights_path: str, **options: Any) -> Any:
            assert Path(feature_extractor_weights_path).is_file()
            return metric(feature=MeanColours(), **options)

        return made

    monkeypatch.setattr(quality, "_torchmetrics", fetched)
    file = tmp_path / "inception.pth"
    file.write_bytes(b"")
    return file


def distance(ours: list[Path], theirs: list[Path]) -> float:
    """The Frechet distance of mean colours, by its formula."""
    sides = []
    for paths in (ours, theirs):
        pictures = [np.asarray(Image.open(path), np.float64).mean(axis=(0, 1)) for path in paths]
        features = np.stack(pictures) / 64
        sides.append((features.mean(axis=0), np.cov(features, rowvar=False)))
    (mean, cov), (other_mean, other_cov) = sides
    roots = np.sqrt(np.linalg.eigvals(cov @ other_cov).astype(complex)).real.sum()
    spread = np.trace(cov) + np.trace(other_cov) - 2 * roots
    return float(((mean - other_mean) ** 2).sum() + spread)


def test_fid_is_the_distance_to_the_reference_each_time(tmp_path: Path, weights: Path) -> None:
    """Kills: pictures of the last method left in, a reference that is reset, real for drawn,
    channels last, pictures as floats.
    """
    theirs = folder_of_pictures(tmp_path / "reference", 40, seed=1)
    metric = Fid(tmp_path / "reference", weights)
    for seed in (2, 3):
        ours = folder_of_pictures(tmp_path / f"drawn{seed}", 20, seed)
        assert metric.score(ours, []) == pytest.approx(distance(ours, theirs), rel=1e-3)
    assert metric.score(theirs, []) == pytest.approx(0, abs=1e-4)
    assert metric.score(theirs[:1], []) is None


def test_a_reference_of_one_picture_is_refused(tmp_path: Path, weights: Path) -> None:
    """Kills: a covariance of one."""
    folder_of_pictures(tmp_path / "reference", 1, seed=1)
    with pytest.raises(ValueError, match="holds 1 pictures; at least 2 are needed"):
        Fid(tmp_path / "reference", weights)


def tiny_clip(folder: Path) -> None:
    """A CLIP of random weights that reads letters."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
    )

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    start, end = len(names) - 2, len(names) - 1
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
    size = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 4}
    text = {"vocab_size": len(names), "bos_token_id": start, "eos_token_id": end, **size}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config=text | {"max_position_embeddings": 40},
            vision_config={"image_size": 32, "patch_size": 8, **size},
            projection_dim=16,
        )
    )
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


def test_clip_score_is_the_mean_agreement_of_pictures_with_their_captions(tmp_path: Path) -> None:
    """Kills: captions of another batch, a mean of batches of unequal size, the last call kept."""
    from transformers import CLIPModel, CLIPProcessor

    tiny_clip(tmp_path / "clip")
    paths = folder_of_pictures(tmp_path / "drawn", quality._BATCH + 3, seed=1, size=32)
    captions = [f"{'abcdefghijklmnopqrs'[at]} ring" for at in range(len(paths))]
    metric = ClipScore(tmp_path / "clip")
    metric.score(paths[:2], captions[:2])
    found = metric.score(paths, captions)

    model = CLIPModel.from_pretrained(tmp_path / "clip").eval()
    processor = CLIPProcessor.from_pretrained(tmp_path / "clip")
    pictures = [Image.open(path) for path in paths]
    with torch.no_grad():
        made = model(**processor(text=captions, images=pictures, return_tensors="pt", padding=True))
    agreement = F.cosine_similarity(made.image_embeds, made.text_embeds)
    assert agreement.std() > 0.01
    assert found == pytest.approx(100 * float(agreement.mean().clamp(min=0)), abs=1e-2)
