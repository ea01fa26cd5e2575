"""Which code a patch of a picture gets: the first half of the picture tokenizer.

A code stands for the pixels of one token, 4x4, and for nothing around them. Left to itself an
autoencoder spends nearly all its codes on the ground and lets the decoder guess the colour of an
object from its neighbours, so that no token says "red" and a language model cannot be taught to.
Here every kind of patch, the ground and each colour, has codes of its own, placed by k-means.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sjd2.demo.build import CODES, GRID, PICTURE
from sjd2.demo.checker import nearest_hue
from sjd2.demo.checkpoint import keyed_generator, load_state, save_state
from sjd2.demo.scenes import COLOURS
from sjd2.demo.shards import Shards

SIDE = PICTURE // GRID
PER_COLOUR = 32  # codes of each colour; the ground has the rest
GROUND = CODES - PER_COLOUR * len(COLOURS)
SIZES = (GROUND, *(PER_COLOUR for _ in COLOURS))  # codes of each kind, kind 0 being the ground
LEAST_CHROMA = 0.26  # of the third most colourful pixel of a patch that shows an object
COLOUR_WEIGHT = 2.0  # of chroma beside brightness in the distance between patches


def kinds(device: torch.device | str = "cpu") -> Tensor:
    """The kind of every code, [codes] int64: 0 for the ground, then one for each colour."""
    return torch.repeat_interleave(torch.tensor(SIZES)).to(device)


def patches(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in -1..1 cut into tokens: [B, h * w, 16, 3] in 0..1."""
    count, channels, height, width = pictures.shape
    cut = pictures.view(count, channels, height // SIDE, SIDE, width // SIDE, SIDE)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, SIDE * SIDE, channels) / 2 + 0.5


def patch_kinds(cut: Tensor) -> Tensor:
    """What patches [..., 16, 3] show: [...] int64, kinds as `kinds` numbers them."""
    chroma = cut.amax(-1) - cut.amin(-1)
    strongest = chroma.topk(3, dim=-1)
    vivid = torch.gather(cut, -2, strongest.indices[..., None].expand(*strongest.indices.shape, 3))
    colour = torch.from_numpy(nearest_hue(vivid.mean(-2).cpu().numpy())).to(cut.device)
    return torch.where(strongest.values[..., -1] > LEAST_CHROMA, 1 + colour, 0)


@dataclass(frozen=True)
class Codebook:
    """The patch that each code stands for: float32 [codes, 48], as `_features` has it."""

    centres: Tensor

    def codes(self, pictures: Tensor) -> Tensor:
        """Code numbers [B, h * w] int64 of pictures [B, 3, H, W] in -1..1."""
        cut = patches(pictures)
        score = _closeness(_features(cut), self.centres.to(cut.device))
        # Only codes of the patch's own kind are in question.
        foreign = patch_kinds(cut)[..., None] != kinds(cut.device)
        return score.masked_fill(foreign, -torch.inf).argmax(-1)

    def directions(self, dimensions: int) -> Tensor:
        """The codes as unit vectors [codes, dimensions], similar patches side by side."""
        centred = self.centres - self.centres.mean(0)
        left, _, _ = torch.linalg.svd(centred, full_matrices=False)
        return torch.nn.functional.normalize(left[:, :dimensions], dim=-1)


def _features(cut: Tensor) -> Tensor:
    """Patches [..., 16, 3] as vectors [..., 48] whose distances are those of how they look."""
    grey = cut.mean(-1, keepdim=True)
    return torch.cat([3**0.5 * grey, COLOUR_WEIGHT * (cut - grey)[..., :2]], -1).flatten(-2)


def _closeness(vectors: Tensor, centres: Tensor) -> Tensor:
    """[..., number of centres]: largest where the Euclidean distance is least."""
    return vectors @ centres.T - 0.5 * centres.square().sum(-1)


def _k_means(vectors: Tensor, size: int, generator: torch.Generator, rounds: int = 20) -> Tensor:
    """`size` centres of `vectors` [N, D]; one that few vectors choose restarts at one of them."""
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:size]].clone()
    for i in range(rounds):
        nearest = torch.cat([_closeness(v, centres).argmax(-1) for v in vectors.split(16384)])
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
        scenes: how many pictures to look at; enough for PER_COLOUR patches of every colour.
        seed: of the k-means.
        shards: whose threads draw.
    """
    from sjd2.demo.vq import pictures

    path = folder / "codebook.pt"
    if state := load_state(path):
        return Codebook(state["centres"])
    blocks = [range(i, min(i + 64, scenes)) for i in range(0, scenes, 64)]
    cut = torch.cat(list(shards.pool.map(lambda some: patches(pictures(some)), blocks)))
    cut = cut.flatten(0, 1)
    shown, vectors = patch_kinds(cut), _features(cut)
    centres = []
    for kind, size in enumerate(SIZES):
        generator = keyed_generator(seed, "codebook", kind)
        mine = vectors[shown == kind]
        mine = mine[torch.randperm(len(mine), generator=generator)[:131_072]]
        if len(mine) < size:
            raise ValueError(f"scenes must be enough for {size} patches of a colour, not {scenes}")
        centres.append(_k_means(mine, size, generator))
    book = Codebook(torch.cat(centres))
    save_state(path, {"centres": book.centres})
    return book
