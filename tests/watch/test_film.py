"""Pictures of decoding: what is shown by when, and films that are small."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from sjd2.pictures.drawing import Drawing
from sjd2.sampler import DecodingStats
from sjd2.watch import Trace, film, traces_of
from sjd2.watch.trace import _VEIL, heat, reveal

SIDE = 16


def noise(seed, side=64):
    """A picture that no format makes small."""
    levels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def trace(lengths, label="sjd", picture=None):
    forwards = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return Trace(label, picture or noise(0), forwards.reshape(SIDE, SIDE), tuple(lengths))


def fast():
    return trace([8] * 32)


def slow():
    return trace([1] * 256, "ar")


def test_what_is_not_committed_is_veiled():
    """Kills: rows and columns swapped, a forward too many or too few, a veil of another size."""
    shown = np.asarray(fast().picture_at(3))
    whole = np.asarray(noise(0))
    # Three forwards of 8 tokens: a row and a half of 16, four pixels each.
    assert np.array_equal(shown[:4], whole[:4])
    assert np.array_equal(shown[4:8, :32], whole[4:8, :32])
    assert (shown[4:8, 32:] == _VEIL).all()
    assert (shown[8:] == _VEIL).all()
    assert np.array_equal(np.asarray(fast().picture_at(32)), whole)
    assert fast().committed(3) == 24


def test_pictures_that_are_no_multiple_of_their_tokens_are_revealed_too():
    """Kills: a mask made by repetition."""
    picture = noise(1, side=50)
    whole = reveal(picture, np.ones((16, 16), bool))
    assert np.array_equal(np.asarray(whole), np.asarray(picture))


def test_the_heat_map_grows_from_dark_to_bright():
    """Kills: colours the wrong way round, and later tokens shown too early."""
    hot = np.asarray(fast().heat_map()).astype(int).sum(-1)
    assert hot.shape == (SIDE, SIDE)
    assert (np.diff(hot.flatten()) >= 0).all()
    assert hot[0, 0] < 300 < hot[-1, -1]
    early = np.asarray(fast().heat_map(2))
    assert (early[1:] == _VEIL).all()
    assert not (early[0] == _VEIL).all(-1).any()
    assert heat(np.array([0.0, 1.0])).tolist() == [[68, 1, 84], [253, 231, 37]]


def test_a_film_races_both_to_the_end_and_stays_small():
    """Kills: a palette per frame, dithering, frames of the accelerated method alone, and a film
    whose time does not follow the forwards.
    """
    made = film("two pink discs", slow(), fast())
    assert 60 < len(made.frames) < 140
    assert len({frame.size for frame in made.frames}) == 1
    assert sum(made.milliseconds) == pytest.approx(14_500, rel=0.15)
    file = io.BytesIO()
    made.write_gif(file)
    assert file.tell() < 2_000_000
    gif = Image.open(file)
    shown = [frame.copy() for frame in ImageSequence.Iterator(gif)]
    assert gif.info["loop"] == 0
    assert len(shown) == len(made.frames)
    assert shown[-1].size == made.frames[-1].size


def test_a_race_shows_who_is_ahead():
    """Kills: both columns showing one of the pictures, or one clock each."""
    left = trace([1] * 256, "ar", Image.new("RGB", (64, 64), "red"))
    right = trace([8] * 32, "sjd", Image.new("RGB", (64, 64), "lime"))
    made = film("x", left, right)

    def share(frame, colour):
        return float((np.asarray(frame) == colour).all(-1).mean())

    middle = made.frames[30]
    assert share(middle, (0, 255, 0)) > 4 * share(middle, (255, 0, 0)) > 0
    assert share(made.frames[-1], (0, 255, 0)) == share(made.frames[-1], (255, 0, 0)) > 0.1
    assert share(made.frames[0], (0, 255, 0)) == 0


@pytest.mark.parametrize("lengths", [[256], [1] * 256, [100, 100, 56]])
def test_any_number_of_forwards_makes_a_film(lengths):
    """Kills: a division by no difference, and a step of zero."""
    made = film("a caption " * 40, trace(lengths, "ar"), trace(lengths))
    assert len(made.frames) == len(made.milliseconds) <= 140


def test_traces_are_those_of_the_account():
    """Kills: traces of other pictures than the stats say, and a silent lack of them."""
    stats = DecodingStats(
        method="sjd",
        backend="eager",
        images=1,
        tokens=4,
        forward_passes=(2,),
        total_forward_passes=2,
        prefill_passes=1,
        accepted=2,
        recovered=2,
        accept_lengths=((3, 1),),
        seconds=0.1,
        committed_at=((1, 1, 1, 2),),
    )
    drawing = Drawing(("a",), (0,), (noise(0),), torch.zeros(1, 4), stats)
    (made,) = traces_of(drawing, "sjd", lambda tokens: tokens.view(-1, 2, 2))
    assert made.committed_at.tolist() == [[1, 1], [1, 2]]
    assert made.forwards == 2
    drawing = replace(drawing, stats=replace(stats, committed_at=None))
    with pytest.raises(ValueError, match="trace=False"):
        traces_of(drawing, "sjd", lambda tokens: tokens.view(-1, 2, 2))
