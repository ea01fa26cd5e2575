"""A model as a callable over columns: pictures follow from their rows, whoever draws them."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sjd2
from sjd2.pictures.drawing import draw
from sjd2.pictures.many import picture_seed
from sjd2.sampler import resolve
from tests.janus_model import LENGTH

CAPTIONS = ["a red ring", "a red ring above a blue square", "two pink discs", "a green cross"]
OPTIONS: dict[str, Any] = {"window": 9, "guidance_scale": 2.0, "top_k": 20}


@pytest.fixture(scope="module")
def generator(folder: Path) -> sjd2.ImageGenerator:
    return sjd2.ImageGenerator(
        folder, seed=5, batch_size=3, output_tokens=True, output_logprobs="both", **OPTIONS
    )


def batch(rows: slice = slice(None)) -> dict[str, Any]:
    return {
        "id": np.array(["a", "b", "c", "d"])[rows],
        "prompt": np.array(CAPTIONS)[rows],
        "split": np.arange(4)[rows],
    }


def test_a_picture_follows_from_its_row(generator: Any) -> None:
    """Kills: a seed by place, a picture that depends on its batch, columns in another order."""
    whole = generator(batch())
    assert set(whole) == {
        *("id", "prompt", "split", "image", "seed", "forward_passes"),
        *("tokens", "logprobs", "model_logprobs"),
    }
    backwards = generator(batch(slice(None, None, -1)))
    pair = generator(batch(slice(1, 3)))
    for name in ("image", "seed", "forward_passes", "tokens"):
        assert list(map(str, backwards[name][::-1])) == list(map(str, whole[name]))
        assert list(map(str, pair[name])) == list(map(str, whole[name][1:3]))
    assert whole["split"].tolist() == [0, 1, 2, 3]
    assert whole["tokens"].shape == whole["logprobs"].shape == (4, LENGTH)
    assert len(set(whole["image"])) == 4
    assert generator(batch(slice(0, 0)))["image"].shape == (0,)


def test_it_draws_what_the_other_ways_draw(generator: Any) -> None:
    """Kills: settings that get lost; another seed than the one it returns; pixels of others."""
    whole = generator(batch())
    config = sjd2.DecodingConfig(window=9)
    for row, caption in enumerate(CAPTIONS):
        drawing = draw(
            generator.pipeline,
            [caption],
            [int(whole["seed"][row])],
            resolve(config),
            guidance_scale=2.0,
            top_k=20,
        )
        picture = Image.open(io.BytesIO(whole["image"][row]))
        assert picture.tobytes() == drawing.pictures[0].tobytes()
        assert torch.equal(torch.from_numpy(whole["tokens"][row]), drawing.tokens[0])
        assert whole["forward_passes"][row] == drawing.stats.forward_passes[0]


def test_a_png_says_what_it_is(generator: Any) -> None:
    """Kills: a picture whose making is nowhere written down."""
    made = generator({**batch(slice(0, 1)), "seed": np.array([77])})
    said = Image.open(io.BytesIO(made["image"][0])).info
    assert (said["Description"], said["Seed"]) == (CAPTIONS[0], "77")
    settings = json.loads(said["Settings"])
    assert settings["window"] == 9
    assert settings["guidance_scale"] == 2.0
    assert settings["method"] == "sjd"
    assert made["seed"].tolist() == [77]


def test_seeds_are_stable_and_far_apart() -> None:
    """Kills: a hash that changes between processes or versions; ids that share a seed."""
    assert picture_seed(0, "000001") == 8269412779846580907
    seeds = {picture_seed(seed, str(name)) for seed in range(3) for name in range(1000)}
    assert len(seeds) == 3000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_auto_is_the_window_of_the_batch_size(folder: Path) -> None:
    """Kills: a window that depends on how many captions are left."""
    generator = sjd2.ImageGenerator(folder, batch_size=2)
    assert generator.method.config.window == generator.settings["window"]
    config = sjd2.DecodingConfig()
    # With guidance every picture is two rows.
    assert generator.method.config.window == config.slots(LENGTH, "cpu", 4)


def test_weights_may_have_another_dtype(folder: Path) -> None:
    """Kills: an option that is not handed on."""
    generator = sjd2.ImageGenerator(folder, dtype="bfloat16", **OPTIONS)
    assert generator.pipeline.model.dtype == torch.bfloat16
    assert len(generator(batch(slice(0, 1)))["image"]) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"windw": 3}, TypeError, "unknown option 'windw': did you mean 'window'"),
        ({"progress": True}, TypeError, "unknown option 'progress'"),
        ({"batch_size": 0}, ValueError, "batch_size=0: must be an integer of at least 1"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"dtype": "int8"}, ValueError, "dtype='int8': must be a floating dtype"),
        ({"output_logprobs": "x"}, ValueError, "output_logprobs='x'"),
        ({"device": "nowhere"}, ValueError, "device 'nowhere' is not available"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(folder: Path, options: Any, error: Any, message: str) -> None:
    """Kills: an option that is silently dropped."""
    with pytest.raises(error, match=message):
        sjd2.ImageGenerator(folder, **options)


def test_a_wrong_batch_is_named(generator: Any) -> None:
    """Kills: a KeyError, and one of two pictures of a name."""
    with pytest.raises(ValueError, match="no column 'prompt'; it has id"):
        generator({"id": np.array(["a"])})
    with pytest.raises(ValueError, match="ids must be unique"):
        generator({"id": np.array(["a", "a"]), "prompt": np.array(CAPTIONS[:2])})
    with pytest.raises(ValueError, match="does not know"):
        generator({"id": np.array(["a"]), "prompt": np.array(["a rde ring"])})


def test_the_class_travels_and_needs_no_engine() -> None:
    """Kills: an import of Ray, and a class that a worker could not be sent."""
    assert pickle.loads(pickle.dumps(sjd2.ImageGenerator)) is sjd2.ImageGenerator
    program = "import sys, sjd2; sjd2.ImageGenerator; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
