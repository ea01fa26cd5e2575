"""`sjd2 trace`: a race that is one, in the format that was asked for."""

import json

import pytest
from PIL import Image

from sjd2.cli import common
from tests.cli.requests import DISCS, RING, everything_in, one_line
from tests.janus_model import LENGTH


def test_a_trace_says_when_every_token_was_accepted(run, tmp_path):
    """Kills: a race of different seeds, numbers of another method, and a film of one frame."""
    status, out, _ = run("trace", RING, "--window", "8", "--seed", "2", "--json")
    printed = json.loads(out)
    assert status == 0
    ar, fast = printed["traces"]
    assert (ar["label"], fast["label"]) == ("ar", "sjd gumbel")
    assert ar["committed_at"] == list(range(1, LENGTH + 1))
    assert fast["committed_at"] == [
        forward
        for forward, length in enumerate(fast["accept_lengths"], start=1)
        for _ in range(length)
    ]
    assert fast["forwards"] < LENGTH
    assert everything_in(tmp_path) == ["out", "out/trace-a-red-ring-seed2.gif"]
    with Image.open(printed["path"]) as gif:
        assert gif.format == "GIF"
        assert gif.n_frames > 10


def test_a_png_is_the_last_frame(run):
    """Kills: the first frame, and a GIF under another name."""
    status, out, _ = run("trace", RING, "--methods", "maximal", "--window", "8", "--out", "a.png")
    assert status == 0
    assert out.splitlines()[-1] == "a.png"
    assert out.splitlines()[2].split()[:3] == ["ar", str(LENGTH), "1.00x"]
    with Image.open("a.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 3 * 200


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ([RING, "--out", "a.jpg"], "traces end in .gif or .png"),
        ([RING, DISCS], "unrecognized arguments"),
        ([RING, "--methods", "ar"], "'ar': a race is between two methods"),
        ([RING, "--methods", "ar,gumbel,maximal"], "a race is between two methods"),
        ([RING, "--methods", "gumble"], "did you mean 'gumbel'?"),
        ([RING, "--window", "1"], "'1': must be auto or an integer of at least 2"),
    ],
)
def test_a_bad_request_is_refused_before_a_model_is_loaded(
    run, tmp_path, monkeypatch, arguments, fragment
):
    """Kills: any one of the checks, and a check after loading."""
    monkeypatch.setattr(common, "load", lambda *_: pytest.fail("a model was loaded"))
    assert one_line(run("trace", *arguments), fragment)
    assert everything_in(tmp_path) == []


def test_a_method_without_its_adapter_is_refused(run):
    """Kills: racing with another method than was asked for."""
    assert one_line(run("trace", RING, "--methods", "sjd2"), "the model has no adapter")
