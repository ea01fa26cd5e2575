"""Which code a patch gets: every kind of patch has codes of its own."""

from pathlib import Path

import pytest
import torch

from sjd2.demo.codebook import (
    GROUND,
    PER_COLOUR,
    SIZES,
    Codebook,
    kinds,
    make_codebook,
    patch_kinds,
    patches,
)
from sjd2.demo.scenes import COLOURS, sample_scene
from sjd2.demo.shards import Shards
from sjd2.demo.vq import pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Codebook:
    with Shards(CPU, workers=2) as shards:
        return make_codebook(tmp_path_factory.mktemp("book"), 256, 0, shards)


def test_patches_are_tokens_in_reading_order() -> None:
    """Kills: rows and columns exchanged, within a patch or between patches."""
    pixels = torch.rand(2, 3, 64, 64)
    cut = patches(pixels)
    assert cut.shape == (2, 256, 16, 3)
    corner = pixels[1, :, 4 * 3 : 4 * 3 + 4, 4 * 5 : 4 * 5 + 4] / 2 + 0.5
    assert torch.equal(cut[1, 3 * 16 + 5].view(4, 4, 3), corner.permute(1, 2, 0))


def test_kinds_of_patches_are_the_colours_of_the_scene() -> None:
    """Kills: naming a kind by the mean colour, which an object's edge shares with the ground."""
    names = ["ground", *COLOURS]
    for seed in range(60):
        shown = patch_kinds(patches(pictures(range(seed, seed + 1))))
        found = {names[kind] for kind in shown.unique().tolist()}
        assert found == {"ground", *(thing.colour for thing in sample_scene(seed, "train").things)}


def test_every_code_stands_for_its_own_kind(book: Codebook) -> None:
    """Kills: choosing the nearest of all codes, so that a dark ground may pass for blue."""
    assert kinds().bincount().tolist() == [GROUND, *[PER_COLOUR] * len(COLOURS)]
    assert book.centres.shape == (sum(SIZES), 48)
    x = pictures(range(500, 540))
    assert torch.equal(kinds()[book.codes(x)], patch_kinds(patches(x)))


def test_codes_are_used_widely_and_by_nearness(book: Codebook) -> None:
    """Kills: a k-means that loses its clusters, or a distance without the centres' lengths."""
    codes = book.codes(pictures(range(500, 700)))
    shares = codes.flatten().bincount(minlength=512).double() / codes.numel()
    perplexity = torch.exp(torch.special.entr(shares).sum())
    assert perplexity > 0.6 * 512
    directions = book.directions(8)
    assert directions.shape == (512, 8)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(512))


def test_codebook_is_kept(book: Codebook, tmp_path: Path) -> None:
    with Shards(CPU, workers=2) as shards:
        made = make_codebook(tmp_path, 256, 0, shards)
        assert torch.equal(made.centres, book.centres)
        assert torch.equal(make_codebook(tmp_path, 1, 0, shards).centres, made.centres)


def test_too_few_scenes_are_refused(tmp_path: Path) -> None:
    with Shards(CPU, workers=2) as shards, pytest.raises(ValueError, match="scenes must be"):
        make_codebook(tmp_path, 2, 0, shards)
