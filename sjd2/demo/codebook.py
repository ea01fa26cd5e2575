"""Which code a patch of a picture gets: the first half of the picture tokenizer.

A code stands for the pixels of one token, 4x4, and for nothing around them. Left to itself an
autoencoder spends nearly all its codes on the ground and lets the decoder guess the colour of an
object from its neighbours, so that no token says "red" and a language model cannot be taught to.
Here the ground and each colour have codes of their own. Those of a colour are numbered by one set
of patterns for all of them, edges and shades, so that what is learned of red rings holds for blue.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sjd2.checkpoint import keyed_generator, load_state, save_state
from sjd2.demo.build import CODES, GRID, PICTURE
from sjd2.demo.checker import nearest_hue
from sjd2.demo.scenes import COLOURS, Split, render, sample_scene
from sjd2.demo.shards import Shards
from sjd2.progress import Progress

PATCH = PICTURE // GRID  # pixels on a side of a token
PER_COLOUR = 32  # codes of each colour; the ground has the rest
GROUND = CODES - PER_COLOUR * len(COLOURS)
SIZES = (GROUND, *(PER_COLOUR for _ in COLOURS))  # codes of each kind, kind 0 being the ground
LEAST_CHROMA = 0.26  # of the third most colourful pixel of a patch that shows an object
_ENOUGH = 131_072  # patches for a k-means
COLOUR_WEIGHT = 2.0  # of chroma beside brightness in the distance between patches of the ground


def kinds(device: torch.device | str = "cpu") -> Tensor:
    """The kind of every code, [codes] int64: 0 for the ground, then one for each colour."""
    return torch.repeat_interleave(torch.tensor(SIZES)).to(device)


def pictures(seeds: range, split: Split = "train") -> Tensor:
    """Rendered scenes as the model sees them: [len(seeds), 3, 96, 96] float32 in -1..1."""
    rendered = np.stack([render(sample_scene(seed, split)) for seed in seeds])
    # Contiguous: left as channels-last, every convolution is two to three times slower on a CPU.
    return torch.from_numpy(rendered).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def patches(drawn: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in -1..1 cut into tokens: [B, h * w, 16, 3] in 0..1."""
    count, channels, height, width = drawn.shape
    cut = drawn.view(count, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, PATCH * PATCH, channels) / 2 + 0.5


def patch_kinds(cut: Tensor) -> Tensor:
    """What patches [..., 16, 3] show: [...] int64, kinds as `kinds` numbers them."""
    chroma = _chroma(cut)
    # The hue of all the colourful pixels together: the most colourful few are often highlights.
    weights = (chroma - LEAST_CHROMA).clamp(min=1e-9)[..., None]
    mean = (weights * cut).sum(-2) / weights.sum(-2)
    colour = torch.from_numpy(nearest_hue(mean.cpu().numpy())).to(cut.device)
    third = chroma.topk(3, dim=-1).values[..., -1]
    return torch.where(third > LEAST_CHROMA, 1 + colour, 0)


@dataclass(frozen=True)
class Codebook:
    """What each code stands for, float32 each.

    Attributes:
        ground: [GROUND, 48], patches of the ground as `_features` has them.
        patterns: [PER_COLOUR, 16], how far the pixels of a patch have the colour of an object.
        looks: [codes, 48], the average patch of every code as `_features` has it.
    """

    ground: Tensor
    patterns: Tensor
    looks: Tensor

    def codes(self, drawn: Tensor) -> Tensor:
        """Code numbers [B, h * w] int64 of pictures [B, 3, H, W] in -1..1."""
        return _codes(patches(drawn), self.ground, self.patterns)

    def directions(self, dimensions: int) -> Tensor:
        """The codes as unit vectors [codes, dimensions], similar patches side by side."""
        left, _, _ = torch.linalg.svd(self.looks - self.looks.mean(0), full_matrices=False)
        return torch.nn.functional.normalize(left[:, :dimensions], dim=-1)


def _codes(cut: Tensor, ground: Tensor, patterns: Tensor) -> Tensor:
    """Code numbers of patches [..., 16, 3]: the nearest among those of their kind."""
    shown = patch_kinds(cut)
    grain = _closeness(_features(cut), ground.to(cut.device)).argmax(-1)
    pattern = _closeness(_strength(cut, shown), patterns.to(cut.device)).argmax(-1)
    return torch.where(shown == 0, grain, GROUND + (shown - 1) * PER_COLOUR + pattern)


def _strength(cut: Tensor, shown: Tensor) -> Tensor:
    """How far each pixel of patches [..., 16, 3] has the colour they show: [..., 16], near 0..1."""
    full = torch.tensor([1.0, *(max(rgb) - min(rgb) for rgb in COLOURS.values())])
    return _chroma(cut) / full.to(cut.device)[shown][..., None]


def _chroma(cut: Tensor) -> Tensor:
    """Largest less smallest channel of pixels [..., 3]."""
    return cut.amax(-1) - cut.amin(-1)


def _features(cut: Tensor) -> Tensor:
    """Patches [..., 16, 3] as vectors [..., 48] whose distances are those of how they look."""
    grey = cut.mean(-1, keepdim=True)
    return torch.cat([3**0.5 * grey, COLOUR_WEIGHT * (cut - grey)[..., :2]], -1).flatten(-2)


def _closeness(vectors: Tensor, centres: Tensor) -> Tensor:
    """[..., number of centres]: largest where the Euclidean distance is least."""
    return vectors @ centres.T - 0.5 * centres.square().sum(-1)


def _k_means(vectors: Tensor, size: int, generator: torch.Generator, rounds: int = 20) -> Tensor:
    """`size` centres of `vectors` [N, D]; one that few vectors choose restarts at one of them."""
    vectors = vectors[torch.randperm(len(vectors), generator=generator)[:_ENOUGH]]
    centres = vectors[:size].clone()
    for i in range(rounds):
        nearest = torch.cat(
            [_closeness(v, centres).argmax(-1) for v in torch.split(vectors, 16384)]
        )
        counts = torch.bincount(nearest, minlength=size).float()
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        if i < rounds - 5:
            few = (counts < 0.1 * counts.mean()).nonzero().flatten()
            chosen = torch.randint(len(vectors), (len(few),), generator=generator)
            centres[few] = vectors[chosen]
    return centres


def make_codebook(folder: Path, scenes: int, seed: int, shards: Shards) -> Codebook:
    """The codebook of the first `scenes` training scenes, kept in `folder`.

    Args:
        folder: where `codebook.pt` is kept.
        scenes: how many pictures to look at; enough to show CODES patches of objects.
        seed: of the k-means.
        shards: whose threads draw.
    """
    path = folder / "codebook.pt"
    if state := load_state(path):
        return Codebook(**state)
    blocks = [range(i, min(i + 64, scenes)) for i in range(0, scenes, 64)]
    parts = []
    with Progress("drawing for the codebook", "pictures", scenes) as progress:
        drawn = shards.pool.map(lambda some: patches(pictures(some)), blocks)
        for block, part in zip(blocks, drawn, strict=True):
            parts.append(part)
            progress.update(block.stop)
    with Progress("choosing the codes"):
        book = _codebook(torch.cat(parts).flatten(0, 1), seed)
    save_state(path, {"ground": book.ground, "patterns": book.patterns, "looks": book.looks})
    return book


def _codebook(cut: Tensor, seed: int) -> Codebook:
    """The codebook of patches [N, 16, 3]."""
    shown, vectors = patch_kinds(cut), _features(cut)
    strength = _strength(cut, shown)[shown > 0]
    if len(strength) < CODES:
        raise ValueError(f"scenes must be enough for {CODES} patches of objects: {len(strength)}")
    ground = _k_means(vectors[shown == 0], GROUND, keyed_generator(seed, "ground"))
    patterns = _k_means(strength, PER_COLOUR, keyed_generator(seed, "patterns"))
    codes = _codes(cut, ground, patterns)
    uses = torch.bincount(codes, minlength=CODES).clamp(min=1)
    looks = torch.zeros(CODES, vectors.shape[1]).index_add_(0, codes, vectors) / uses[:, None]
    return Codebook(ground, patterns, looks)
