"""A picture while it is decoded is, in the end, the picture that decoding gives."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from sjd2.config import DecodingConfig
from sjd2.pictures.drawing import draw
from sjd2.pictures.loading import load
from sjd2.sampler import resolve
from sjd2.watch import live
from tests.cli.requests import RING
from tests.janus_model import LENGTH

SJD = resolve(DecodingConfig(method="sjd", window=8))


@pytest.fixture(scope="module")
def loaded(folder):
    return load(str(folder), torch.device("cpu"))


def watch(pipeline, method=SJD):
    return live(pipeline, RING, 3, method, "sjd", guidance_scale=2.0)


def test_the_last_look_is_the_picture_and_its_account(loaded):
    """Kills: a forward that is not counted, drafts taken for tokens, another seed or guidance."""
    looks = list(watch(loaded))
    traced = resolve(DecodingConfig(method="sjd", window=8, trace=True))
    drawing = draw(loaded, [RING], [3], traced, guidance_scale=2.0)
    last = looks[-1]
    assert last.accept_lengths == drawing.stats.accept_lengths[0]
    assert tuple(last.committed_at.flatten()) == drawing.stats.committed_at[0]
    assert np.array_equal(np.asarray(last.picture), np.asarray(drawing.pictures[0]))
    for look in looks:
        assert (look.committed_at <= look.forwards).sum() == look.committed(look.forwards)
    assert last.committed(last.forwards) == LENGTH


def test_who_looks_away_ends_the_decoding(loaded):
    """Kills: a thread that goes on drawing for nobody."""
    before = threading.active_count()
    looks = watch(loaded)
    next(looks)
    looks.close()
    assert threading.active_count() == before


def test_an_error_of_the_decoder_reaches_who_looks(loaded):
    """Kills: a look that waits for ever, and an error that only the thread has seen."""

    def fail(*_, **__):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        list(watch(loaded, replace(SJD, rule=fail)))
