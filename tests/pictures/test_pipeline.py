"""Every family from a folder to pictures, through the commands that people type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import Emu3ImageProcessor, Emu3Processor, PreTrainedTokenizerFast

import sjd2
from sjd2.cli import main
from sjd2.companions import load_corrector
from sjd2.pictures.drawing import draw
from sjd2.pictures.loading import load
from sjd2.pixels.vqgan import VQDecoder, VQShape
from sjd2.sampler import resolve
from sjd2.watch import live
from tests.family_models import (
    ANOLE,
    BOS,
    CHAMELEON_BOI,
    CHAMELEON_END,
    CHAMELEON_SIZE,
    CODES,
    EMU3,
    EMU3_BOI,
    EMU3_DIGITS,
    EMU3_EOF,
    EMU3_EOI,
    EMU3_WRAP,
    LUMINA,
    PAD,
    tiny_chameleon,
    tiny_emu3,
)

CPU = torch.device("cpu")
CAPTIONS = ["red fox", "a blue fox in snow"]
_WORDS = [
    "a",
    "red",
    "blue",
    "fox",
    "in",
    "snow",
    "generate",
    "an",
    "image",
    "of",
    "according",
    "to",
    "the",
    "following",
    "prompt",
]
_EMU3_NAMES = {
    "image_token": ("<image>", 3),
    "boi_token": ("<|image start|>", EMU3_BOI),
    "eoi_token": ("<|image end|>", EMU3_EOI),
    "image_wrapper_token": ("<|image token|>", EMU3_WRAP),
    "eof_token": ("<|extra_201|>", EMU3_EOF),
}


def tokenizer(words: dict[str, int], named: dict[str, tuple[str, int]]) -> Any:
    """One id per word, digits by themselves, and the special tokens that a processor asks for."""
    usual = {"pad_token": ("<pad>", PAD), "bos_token": ("<bos>", BOS), "unk_token": ("<unk>", 2)}
    ids = dict([*usual.values(), *named.values()]) | words
    inner = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    split = [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    inner.pre_tokenizer = pre_tokenizers.Sequence(split)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        extra_special_tokens={kind: name for kind, (name, _) in named.items()},
        **{kind: name for kind, (name, _) in usual.items()},
    )


@pytest.fixture(scope="module")
def emu3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("emu3")
    words = {word: 4 + at for at, word in enumerate(_WORDS)} | EMU3_DIGITS
    images = Emu3ImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    tiny_emu3().save_pretrained(path)
    Emu3Processor(images, tokenizer(words, _EMU3_NAMES)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def chameleon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Lumina-mGPT is published: a tokenizer and no processor."""
    path: Path = tmp_path_factory.mktemp("chameleon")
    free = [60 + at for at in range(len(_WORDS) + 12)]
    words = dict(zip([*_WORDS, "Generate", ":", *"0123456789"], free, strict=True))
    tiny_chameleon().save_pretrained(path)
    tokenizer(words, {}).save_pretrained(path)
    torch.manual_seed(1)
    decoder = VQDecoder(VQShape(CODES, 8, 8, widths=(32, 32, 32), blocks=1))
    save_file(decoder.state_dict(), path / "vqgan.safetensors")
    return path


@pytest.fixture(params=["emu3", "lumina", "anole"])
def known(request: pytest.FixtureRequest, emu3: Path, chameleon: Path) -> tuple[Any, list[str]]:
    """A family, and the arguments that name a model of it."""
    size = ["--size", "40x32"] if request.param == "emu3" else ["--size", "24x16"]
    folder = emu3 if request.param == "emu3" else chameleon
    family = {"emu3": EMU3, "lumina": LUMINA, "anole": ANOLE}[request.param]
    return family, ["--model", str(folder), *(size if request.param != "anole" else [])]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(list(arguments))
        return status, *capsys.readouterr()

    return run


def test_generate_draws_pictures_of_the_familys_size(known: Any, run: Any) -> None:
    """Kills: a prompt that does not ask for a picture, a size in the wrong order, and tokens of
    the grammar or of the prompt taken for picture.
    """
    family, model = known
    status, out, err = run("generate", *CAPTIONS, *model, "--n", "2", "--window", "8", "--json")
    assert status == 0, err
    printed = json.loads(out)
    assert printed["stats"]["tokens"] == 4 * family.layout.length
    sizes = {Image.open(one["path"]).size for one in printed["pictures"]}
    scale = {"emu3": 2, "lumina": 4, "anole": 4}[family.name]
    assert sizes == {(scale * family.layout.width, scale * family.layout.height)}


def test_a_model_without_an_encoder_of_pictures_draws(
    chameleon: Path, run: Any, tmp_path: Path
) -> None:
    """Kills: weights refused for what drawing does not need; a missing layer let through."""
    folder = shutil.copytree(chameleon, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    drawing = {name: value for name, value in weights.items() if "vqmodel" not in name}
    save_file(drawing, folder / "model.safetensors", metadata={"format": "pt"})
    asked = ["generate", "a red fox", "--model", str(folder), "--size", "24x16", "--seed", "1"]
    status, out, err = run(*asked, "--quiet")
    assert status == 0, err
    assert Image.open(out.strip()).size == (24, 16)
    drawing.pop("model.layers.0.self_attn.q_norm.weight")
    save_file(drawing, folder / "model.safetensors", metadata={"format": "pt"})
    status, _, err = run(*asked, "--force")
    assert status == 2
    assert "missing_keys, such as model.layers.0.self_attn.q_norm.weight" in err


def test_evaluate_measures_every_family(known: Any, run: Any, tmp_path: Path) -> None:
    """Kills: pictures compared with their prompts, which are padded otherwise in every batch."""
    _, model = known
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    few = "--methods ar,gumbel,maximal --windows 8 --batch 2 --guidances none --temperatures none"
    arguments = ["--prompts", "captions.txt", *few.split(), "--out", "report", "--json"]
    status, out, err = run("evaluate", *model, *arguments)
    assert status == 0, err
    rows = json.loads(out)["rows"]
    assert [row["method"] for row in rows] == ["ar", "gumbel", "maximal"]
    assert rows[1]["same_as_ar"] == {"same": 2, "of": 2}
    assert rows[2]["step_compression"] > 1
    assert len(list(Path("report/pictures").rglob("*.png"))) == 6


def test_pictures_of_another_size_are_measured_anew(emu3: Path, run: Any, tmp_path: Path) -> None:
    """Kills: accounts that do not know what size they are of."""
    (tmp_path / "captions.txt").write_text(CAPTIONS[0])
    few = "--methods ar --batch 1 --guidances none --temperatures none --out report --quiet"
    options = ["--model", str(emu3), "--prompts", "captions.txt", *few.split()]
    for size in ("40x32", "32x48"):
        status, _, err = run("evaluate", *options, "--size", size)
        assert status == 0, err
        (picture,) = Path("report/pictures").rglob("*.png")
        scaled = "x".join(str(4 * pixels) for pixels in Image.open(picture).size)
        assert scaled == size


def test_trace_and_compare_show_every_family(known: Any, run: Any) -> None:
    """Kills: forwards of the grammar's tokens laid out among those of the picture."""
    family, model = known
    status, _, err = run("trace", CAPTIONS[0], *model, "--window", "8", "--out", "t.png")
    assert status == 0, err
    status, out, err = run("compare", CAPTIONS[0], *model, "--window", "8", "--json")
    assert status == 0, err
    assert json.loads(out)["methods"][0]["stats"]["tokens"] == family.layout.length


def test_a_corrector_learns_from_captions_of_every_family(
    known: Any, run: Any, tmp_path: Path
) -> None:
    """Kills: a training that feeds Janus's prompts to all, or offsets of the published size."""
    family, model = known
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS * 4))
    few = "--steps 2 --batch 2 --rank 4 --window 8 --evaluate-every 2 --quiet"
    options = ["--corrector", "--prompts", "captions.txt", "--out", "corrector", *few.split()]
    status, _, err = run("finetune", *model, *options)
    assert status == 0, err
    corrector = load_corrector(tmp_path / "corrector")
    assert family.layout.row_width in [abs(offset) for offset in corrector.offsets]
    status, _, err = run("generate", CAPTIONS[0], *model, "--corrector", "corrector")
    assert status == 0, err


def test_a_picture_is_that_of_its_tokens(known: Any) -> None:
    """Kills: pictures of another row of the batch, and channels taken for rows."""
    family, (_, folder, *size) = known
    pixels = tuple(map(int, size[1].split("x"))) if size else None
    pipeline = load(folder, CPU, pixels)
    method = resolve(sjd2.DecodingConfig(window=8))
    drawing = draw(pipeline, CAPTIONS, [3], method)
    assert drawing.tokens.shape == (2, family.layout.length)
    grid = pipeline.grid(drawing.tokens)
    assert grid.shape == (2, family.layout.height, family.layout.width)
    assert set(grid.flatten().tolist()) <= set(family.image)
    alone = draw(pipeline, CAPTIONS[1:], [3], method)
    assert torch.equal(alone.tokens[0], drawing.tokens[1])
    assert np.array_equal(*(np.asarray(one) for one in (alone.pictures[0], drawing.pictures[1])))
    assert not np.array_equal(*(np.asarray(one) for one in drawing.pictures))


def test_a_picture_of_every_family_can_be_watched(known: Any) -> None:
    """Kills: drafts where the grammar stands, and a map that is no picture's shape."""
    family, (_, folder, *size) = known
    pixels = tuple(map(int, size[1].split("x"))) if size else None
    pipeline = load(folder, CPU, pixels)
    method = resolve(sjd2.DecodingConfig(window=8, trace=True))
    looks = list(live(pipeline, CAPTIONS[0], 3, method, "sjd"))
    drawing = draw(pipeline, CAPTIONS[:1], [3], method)
    assert np.array_equal(*(np.asarray(one) for one in (looks[-1].picture, drawing.pictures[0])))
    assert looks[-1].accept_lengths == drawing.stats.accept_lengths[0]
    shape = (family.layout.height, family.layout.width)
    assert {look.committed_at.shape for look in looks} == {shape}


def test_prompts_are_those_of_the_families_pages(emu3: Path, chameleon: Path) -> None:
    """Kills: a size that is not said, or said in the wrong order, and padding on the right."""
    inputs = load(str(emu3), CPU, (40, 32)).inputs(CAPTIONS)
    assert inputs["input_ids"][:, -5:].tolist() == [list(EMU3.tail)] * 2
    assert inputs["attention_mask"][:, 0].tolist() == [0, 1]
    inputs = load(str(chameleon), CPU, (24, 16)).inputs(CAPTIONS)
    end = [CHAMELEON_END, CHAMELEON_BOI, CHAMELEON_SIZE + 2, CHAMELEON_SIZE + 3]
    assert inputs["input_ids"][:, -4:].tolist() == [end] * 2
    assert inputs["attention_mask"][:, 0].tolist() == [0, 1]
    inputs = load(str(chameleon), CPU).inputs(CAPTIONS)
    assert inputs["input_ids"][:, -2:].tolist() == [end[:2]] * 2
    assert 2 not in inputs["input_ids"]


@pytest.mark.parametrize(
    ("which", "arguments", "fragment"),
    [
        ("chameleon", ["--size", "24x15"], "must be multiples of 8 pixels, up to"),
        ("chameleon", ["--vq-decoder", "nowhere"], "nowhere: no such file"),
        ("emu3", ["--vq-decoder", "nowhere"], "this model has a decoder of its own"),
        ("folder", ["--size", "64x64"], "a Janus draws pictures of one size"),
        ("bare", [], "sjd2 convert vqgan.ckpt vqgan.safetensors"),
    ],
)
def test_what_a_family_cannot_draw_is_refused(
    which: str, arguments: list[str], fragment: str, request: Any, run: Any, tmp_path: Path
) -> None:
    """Kills: any one of the checks."""
    if which == "bare":
        source = request.getfixturevalue("chameleon")
        folder = tmp_path / "bare"
        folder.mkdir()
        for file in source.iterdir():
            if file.name != "vqgan.safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
    else:
        folder = request.getfixturevalue(which)
    status, out, err = run("generate", "a red fox", "--model", str(folder), *arguments)
    assert (status, out) == (2, "")
    assert fragment in err
    assert err.count("\n") == 1
