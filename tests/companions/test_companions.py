"""Adapters and correctors on disk: how they survive it, and whose they are."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sjd2
from sjd2.companions import carried, fingerprint
from sjd2.models import family_of
from tests.janus_model import draw, tiny_janus

NEW = {"adapter": sjd2.new_adapter, "corrector": sjd2.new_corrector}
SAVE = {"adapter": sjd2.save_adapter, "corrector": sjd2.save_corrector}
LOAD = {"adapter": sjd2.load_adapter, "corrector": sjd2.load_corrector}


@pytest.fixture(params=list(NEW))
def kind(request: Any) -> str:
    found: str = request.param
    return found


@pytest.fixture
def companion(janus: Any, kind: str) -> Iterator[Any]:
    made = NEW[kind](janus, rank=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    yield made
    sjd2.restore(janus)


def test_it_survives_the_disk(janus: Any, kind: str, companion: Any, tmp_path: Path) -> None:
    """Kills: a tensor left out; weights read into another rank or other offsets."""
    SAVE[kind](companion, tmp_path / "a")
    read = LOAD[kind](tmp_path / "a")
    assert read.config() == companion.config()
    assert read.base == fingerprint(family_of(janus).backbone)
    for name, value in companion.state_dict().items():
        assert torch.equal(read.state_dict()[name], value)
    sjd2.accelerate(janus, seed=1, **{kind: companion})
    expected, paces = draw(janus), sjd2.decoding_stats(janus).accept_lengths
    sjd2.accelerate(janus, seed=1, **{kind: tmp_path / "a"})
    assert torch.equal(draw(janus), expected)
    assert sjd2.decoding_stats(janus).accept_lengths == paces


def test_what_a_corrector_keeps_follows_its_weights_and_the_embeddings(janus: Any) -> None:
    """Kills: shifts of weights that have been trained on, or of another model's embeddings."""
    corrector = sjd2.new_corrector(janus, rank=3)
    table = family_of(janus).embedding_table().detach()
    first = corrector.shifts(table)
    assert corrector.shifts(table) is first
    assert copy.deepcopy(corrector)._made is None
    with torch.no_grad():
        corrector.beside.add_(1)
    for embeddings in (table, table + torch.randn_like(table)):
        assert torch.equal(corrector.shifts(embeddings).features, corrector.features(embeddings))
    # Trainer's optimiser; it leaves no trace in the weights' versions.
    corrector.beside.grad = torch.ones_like(corrector.beside)
    torch.optim.AdamW([corrector.beside], lr=0.1, fused=True).step()
    assert torch.equal(corrector.shifts(table).features, corrector.features(table))


def test_a_damaged_file_is_named(kind: str, companion: Any, tmp_path: Path) -> None:
    """Kills: a truncated or exchanged file that loads as something else."""
    SAVE[kind](companion, tmp_path)
    weights_file, config_file = tmp_path / f"{kind}.safetensors", tmp_path / f"{kind}.json"
    weights, config = weights_file.read_bytes(), config_file.read_text()
    for broken in (weights[:-1] + bytes([weights[-1] ^ 1]), weights[:100]):
        weights_file.write_bytes(broken)
        with pytest.raises(ValueError, match=weights_file.name):
            LOAD[kind](tmp_path)
    weights_file.write_bytes(weights)
    other_rank = json.dumps(json.loads(config) | {"rank": 2})
    for text in (config[:40], "{}", other_rank):
        config_file.write_text(text)
        with pytest.raises(ValueError, match=config_file.name):
            LOAD[kind](tmp_path)
    config_file.unlink()
    with pytest.raises(FileNotFoundError, match=config_file.name):
        LOAD[kind](tmp_path)


def test_one_of_another_model_is_refused(kind: str, companion: Any) -> None:
    """Kills: a fingerprint of shapes alone."""
    other = tiny_janus()
    with torch.no_grad():
        next(iter(other.model.language_model.layers.parameters())).mul_(1.5)
    with pytest.raises(ValueError, match=f"{kind}: .*fingerprint"):
        sjd2.accelerate(other, **{kind: companion})
    assert "generate" not in vars(other)


def test_a_model_carries_what_lies_beside_its_weights(
    janus: Any, kind: str, companion: Any, tmp_path: Path
) -> None:
    """Kills: "auto" that finds nothing, and None that finds something."""
    janus.save_pretrained(tmp_path)
    read = type(janus).from_pretrained(tmp_path)
    assert carried(read, kind) is None
    SAVE[kind](companion, tmp_path / kind)
    sjd2.accelerate(read)
    assert getattr(read.generate.companions, kind).config() == companion.config()
    sjd2.accelerate(read, **{kind: None})
    assert getattr(read.generate.companions, kind) is None
    # "auto" is what the model carries each time that it is asked for.
    sjd2.accelerate(read)
    assert getattr(read.generate.companions, kind).config() == companion.config()
    sjd2.restore(read)
    shutil.rmtree(tmp_path / kind)
    assert carried(read, kind) is None


@pytest.mark.parametrize("given", [3, object()])
def test_something_else_is_refused(janus: Any, kind: str, given: object) -> None:
    """Kills: an error from deep inside the first call of generate."""
    with pytest.raises(TypeError, match=f"{kind} is a"):
        sjd2.accelerate(janus, **{kind: given})


def test_a_rank_that_cannot_be_is_refused(janus: Any, kind: str) -> None:
    """Kills: an error from deep inside torch."""
    with pytest.raises(ValueError, match="rank=-1"):
        NEW[kind](janus, rank=-1)
    assert sjd2.new_adapter(janus, rank=0).rank == 0
    with pytest.raises(ValueError, match="rank=0"):
        sjd2.new_corrector(janus, rank=0)
