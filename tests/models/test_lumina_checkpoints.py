"""Checkpoints as Lumina-mGPT's are published: narrow norms, no encoder of pictures."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ChameleonForConditionalGeneration

import sjd2
from sjd2.cli import main
from sjd2.models import family_of
from sjd2.models.lumina import convert_checkpoint
from sjd2.pictures.loading import load
from tests.cli.requests import everything_in, one_line
from tests.family_models import LUMINA, tiny_chameleon
from tests.models.test_families import Processor, grey

ROWS = 2  # devices that a layer was split over; the tiny model has four heads


def trained() -> Any:
    """A model whose query and key norms differ from row to row, as training leaves them."""
    model = tiny_chameleon()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_norm" in name or "k_norm" in name:
                weight.copy_(torch.randn(ROWS, 8).repeat_interleave(4 // ROWS, 0))
    return model


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Such a model as Lumina-mGPT's authors save theirs."""
    folder = tmp_path / "published"
    trained().save_pretrained(folder, max_shard_size="60KB")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 1
    for file in files:
        narrow = {
            name: value[:: 4 // ROWS].clone() if "q_norm" in name or "k_norm" in name else value
            for name, value in load_file(file).items()
            if "vqmodel" not in name
        }
        save_file(narrow, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    held = {name for file in files for name in load_file(file)}
    listed["weight_map"] = {k: v for k, v in listed["weight_map"].items() if k in held}
    index.write_text(json.dumps(listed))
    (folder / "old.bin").write_bytes(b"pickled")
    return folder


def test_a_converted_checkpoint_is_the_model(published: Path, tmp_path: Path) -> None:
    """Kills: rows tiled instead of repeated, a file of several left as it was."""
    before = everything_in(published)
    assert convert_checkpoint(published, tmp_path / "out") == 2 * 2 * 2
    model, report = ChameleonForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not report["mismatched_keys"]
    assert all("vqmodel" in key for key in report["missing_keys"])
    weights = trained().state_dict()
    for name, value in model.state_dict().items():
        assert "vqmodel" in name or torch.equal(value, weights[name]), name
    settings = {"guidance_scale": 2.0, "seed": 3}
    drawn = LUMINA.draw(sjd2.accelerate(model.eval(), window=6), **settings)
    assert torch.equal(drawn, LUMINA.draw(sjd2.accelerate(trained(), window=6), **settings))
    assert everything_in(published) == before
    assert not (tmp_path / "out" / "old.bin").exists()


def test_a_converted_checkpoint_converts_to_itself(published: Path, tmp_path: Path) -> None:
    """Kills: rows repeated once more for heads that have their own."""
    convert_checkpoint(published, tmp_path / "out")
    assert convert_checkpoint(tmp_path / "out", tmp_path / "again") == 0
    for file in (tmp_path / "out").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("copied", [False, True])
def test_norms_that_were_not_loaded_are_refused(published: Path, copied: bool) -> None:
    """Kills: a model that draws with fresh norms, silently; one that hides behind a copy."""
    model = ChameleonForConditionalGeneration.from_pretrained(
        published, ignore_mismatched_sizes=True
    )
    if copied:
        with torch.no_grad():
            model.model.layers[0].input_layernorm.weight.mul_(1.1)
        model = copy.deepcopy(model)
    with pytest.raises(ValueError, match="q_norm and k_norm are not those of the checkpoint"):
        sjd2.accelerate(model)
    assert "generate" not in vars(model)
    # Filled in by hand, they are as good as any.
    model.load_state_dict(trained().state_dict(), strict=False)
    sjd2.accelerate(model)


def test_a_model_that_was_never_trained_is_no_suspect(tmp_path: Path) -> None:
    """Kills: fresh norms refused where they are the model's own."""
    model = tiny_chameleon()
    sjd2.accelerate(model)
    model.save_pretrained(tmp_path)
    sjd2.accelerate(ChameleonForConditionalGeneration.from_pretrained(tmp_path))


def test_a_model_without_an_encoder_draws_and_refuses_to_read(
    published: Path, tmp_path: Path
) -> None:
    """Kills: pictures read by random weights."""
    convert_checkpoint(published, tmp_path / "out")
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path / "out")
    known = family_of(model)
    with pytest.raises(ValueError, match="without an encoder of pictures"):
        known.encode([grey(16, 16)], Processor(), known.geometry)
    whole = tmp_path / "whole"
    trained().save_pretrained(whole)
    other = family_of(ChameleonForConditionalGeneration.from_pretrained(whole))
    assert other.encode([grey(16, 16)], Processor(), other.geometry).shape == (1, 17)


def test_the_command_converts_and_what_it_makes_is_loaded(
    published: Path, tmp_path: Path, capsys: Any
) -> None:
    """Kills: a converted folder that the commands refuse for what it lacks; an old one let in."""
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="`sjd2 convert` makes a folder of it that loads"):
        load(str(published), torch.device("cpu"))
    assert main(["convert", str(published), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    # Everything is there but a processor: the message is of that.
    with pytest.raises(ValueError, match=r"tokenizer|processor"):
        load(str(out), torch.device("cpu"))


def test_what_cannot_be_converted_is_refused(published: Path, tmp_path: Path, capsys: Any) -> None:
    """Kills: a folder begun and left behind, one replaced unasked, the source itself replaced."""
    empty, other, odd = tmp_path / "empty", tmp_path / "other", tmp_path / "odd"
    for folder in (empty, other, odd):
        folder.mkdir()
    (other / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 4}')
    (odd / "config.json").write_text((published / "config.json").read_text())
    before = everything_in(tmp_path)

    def convert(*arguments: Path | str) -> tuple[int, str, str]:
        return main(["convert", *map(str, arguments)]), *capsys.readouterr()

    assert one_line(convert(empty, tmp_path / "new"), "no config.json in it")
    assert one_line(convert(other, tmp_path / "new"), "its model_type is 'llama'")
    assert one_line(convert(odd, tmp_path / "new"), "no model*.safetensors in it")
    assert one_line(convert(published, empty), "exists already")
    assert one_line(convert(published, published, "--force"), "would replace the checkpoint itself")
    assert everything_in(tmp_path) == before
    rows = {"model.layers.0.self_attn.q_norm.weight": torch.ones(3, 8)}
    save_file(rows, odd / "model.safetensors")
    before = everything_in(tmp_path)
    assert one_line(convert(odd, tmp_path / "new"), "3 rows for 4 heads")
    (odd / "model.safetensors").write_bytes(b"nothing")
    assert one_line(convert(odd, tmp_path / "new"), "model.safetensors: damaged")
    assert everything_in(tmp_path) == before
