"""A family of one's own with a pipeline: the commands draw with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import sjd2
from sjd2 import models
from sjd2.cli import main
from sjd2.models.decoder import DecoderOnly
from sjd2.models.layout import Layout
from sjd2.pictures.pipeline import SequencePipeline
from tests.cli.requests import one_line

WORDS, CODES, SIDE = 16, 32, 4
START, END = range(WORDS + CODES, WORDS + CODES + 2)


class Painter(LlamaForCausalLM):
    """A Llama that draws pictures of 4x4 tokens."""


def family(model: Painter) -> DecoderOnly:
    layout = Layout(SIDE, SIDE, after=(END,))
    return DecoderOnly(model, range(WORDS, WORDS + CODES), START, layout)


class PainterPipeline(SequencePipeline):
    """Every token is a pixel."""

    def pictures(self, generated: Tensor) -> list[Image.Image]:
        grids = self.grid(self.tokens(generated)).cpu().numpy().astype(np.uint8)
        return [Image.fromarray(grid).convert("RGB") for grid in grids]


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(models, "_REGISTERED", dict(models._REGISTERED))
    monkeypatch.chdir(tmp_path)
    return


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("painter")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=END + 1, num_attention_heads=2, **sizes)
    Painter(config).save_pretrained(path)
    words = {word: at for at, word in enumerate(["<pad>", "<unk>", "a", "red", "fox"])}
    inner = Tokenizer(WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **named).save_pretrained(path)
    return path


def run(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    return main([str(argument) for argument in arguments]), *capsys.readouterr()


def test_the_commands_draw_with_a_registered_family(folder: Path, capsys: Any) -> None:
    """Kills: a second table of families that the commands use instead of the registered ones."""
    sjd2.register_family(Painter, family, PainterPipeline)
    model = ("--model", folder, "--window", 8, "--json")
    status, out, err = run(capsys, "generate", "a red fox", *model, "--n", 2)
    assert status == 0, err
    answer = json.loads(out)
    assert answer["stats"]["tokens"] == 2 * (SIDE * SIDE + 1)
    for picture in answer["pictures"]:
        pixels = np.asarray(Image.open(picture["path"]))
        assert pixels.shape == (SIDE, SIDE, 3)
        assert ((pixels >= WORDS) & (pixels < WORDS + CODES)).all()
    status, out, err = run(capsys, "compare", "a red fox", *model)
    assert status == 0, err
    same = {one["method"]: one["same_as_ar"] for one in json.loads(out)["methods"]}
    assert same["gumbel"] == [True]


def test_what_a_registered_family_lacks_is_named(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a traceback, an option that the pipeline never sees, and a processor's own check of
    captions that nobody asks.
    """

    def refuse(_: Any, captions: Any) -> None:
        raise ValueError(f"{captions[0]}: foxes are not drawn")

    ask = ("generate", "a red fox", "--model", folder)
    assert one_line(run(capsys, *ask), "its model_type is 'llama'")
    sjd2.register_family(Painter, family)
    assert one_line(run(capsys, *ask), "Painter was registered without a pipeline")
    sjd2.register_family(Painter, family, PainterPipeline)
    assert one_line(run(capsys, *ask, "--size", "8x8"), "size=(8, 8): not an option of Painter")
    assert one_line(run(capsys, "generate", "a zebra", "--model", folder), "does not know 'zebra'")
    monkeypatch.setattr(PreTrainedTokenizerFast, "check_captions", refuse, raising=False)
    assert one_line(run(capsys, "generate", "a red fox", "--model", folder), "foxes are not drawn")
    with pytest.raises(TypeError, match="pipeline="):
        sjd2.register_family(Painter, family, "PainterPipeline")  # type: ignore[arg-type]
