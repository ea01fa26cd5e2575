"""Which code a patch gets: every kind of patch has codes of its own."""

from dataclasses import replace
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
    pictures,
)
from sjd2.demo.scenes import COLOURS, Thing, render, sample_scene
from sjd2.demo.shards import Shards

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
    names, wrong, coloured = ["ground", *COLOURS], 0, 0
    for seed in range(60):
        shown = patch_kinds(patches(pictures(range(seed, seed + 1))))[0]
        mine = {names.index(thing.colour) for thing in sample_scene(seed, "train").things}
        assert mine <= set(shown.tolist())
        coloured += int((shown > 0).sum())
        wrong += sum(kind not in mine for kind in shown[shown > 0].tolist())
    # Highlights on orange are yellow, but the whole of a patch is not.
    assert wrong < 0.002 * coloured


def test_every_code_stands_for_its_own_kind(book: Codebook) -> None:
    """Kills: choosing the nearest of all codes, so that a dark ground may pass for blue."""
    assert kinds().bincount().tolist() == [GROUND, *[PER_COLOUR] * len(COLOURS)]
    assert book.looks.shape == (sum(SIZES), 48)
    x = pictures(range(500, 540))
    assert torch.equal(kinds()[book.codes(x)], patch_kinds(patches(x)))


def test_colours_share_their_patterns(book: Codebook) -> None:
    """Kills: a numbering of its own for each colour, so that nothing carries over between them."""
    same = []
    for seed in range(11, 16):
        drawn = []
        for colour in ("red", "blue"):
            thing = Thing(colour, "square", 32, 32, 16)
            scene = replace(sample_scene(seed, "train"), things=(thing,))
            picture = torch.from_numpy(render(scene)).permute(2, 0, 1)
            codes = book.codes(picture[None].contiguous().float() / 127.5 - 1)[0]
            drawn.append(torch.where(codes < GROUND, -1, (codes - GROUND) % PER_COLOUR))
        both = (drawn[0] >= 0) & (drawn[1] >= 0)
        assert both.sum() > 20
        same.append((drawn[0] == drawn[1])[both])
    assert torch.cat(same).float().mean() > 0.7


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
        for again in (book, make_codebook(tmp_path, 1, 0, shards)):
            assert torch.equal(again.ground, made.ground)
            assert torch.equal(again.patterns, made.patterns)
            assert torch.equal(again.looks, made.looks)


def test_too_few_scenes_are_refused(tmp_path: Path) -> None:
    with Shards(CPU, workers=2) as shards, pytest.raises(ValueError, match="scenes must be"):
        make_codebook(tmp_path, 2, 0, shards)
