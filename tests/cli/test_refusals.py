"""How a wrong request is refused: in one line, before the work that it would have wasted."""

import pytest
import torch
import transformers

from sjd2.cli import common
from sjd2.demo.captions import parse_caption
from sjd2.pictures import drawing
from sjd2.pictures.drawing import EXAMPLE
from tests.cli.requests import RING, everything_in, one_line
from tests.janus_model import tiny_janus


@pytest.fixture
def unloaded(monkeypatch):
    """No model may be loaded: what is wrong must be found before."""
    monkeypatch.setattr(common, "load", lambda *_: pytest.fail("a model was loaded"))


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["draw"], "invalid choice: 'draw'"),
        (["generate"], "required: CAPTION"),
        (["generate", " "], "must be a caption, not an empty one"),
        (["generate", RING, "--window", "1"], "'1': must be auto or an integer of at least 2"),
        (["generate", RING, "--window", "x"], "'x': must be auto or an integer of at least 2"),
        (["generate", RING, "--temperature", "-1"], "'-1': must be a number above 0"),
        (["generate", RING, "--temperature", "0"], "'0': must be a number above 0"),
        (["generate", RING, "--temperature", "inf"], "'inf': must be a number above 0"),
        (["generate", RING, "--guidance", "0.5"], "'0.5': must be a number of at least 1"),
        (["generate", RING, "--guidance", "nan"], "'nan': must be a number of at least 1"),
        (["generate", RING, "--top-k", "-3"], "'-3': must be an integer of at least 0"),
        (["generate", RING, "--top-p", "0"], "'0': must be a number above 0 and at most 1"),
        (["generate", RING, "--top-p", "1.1"], "'1.1': must be a number above 0 and at most 1"),
        (["generate", RING, "--n", "0"], "'0': must be an integer of at least 1"),
        (["generate", RING, "--seed", "-1"], "'-1': must be from 0 to 2**63 - 1"),
        (["generate", RING, "--seed", str(2**63 - 1), "--n", "2"], "seed=9223372036854775808"),
        (["generate", RING, "--verify", "maybe"], "invalid choice: 'maybe'"),
        (["generate", RING, "--denoising-steps", "0"], "'0': must be an integer of at least 1"),
        (["generate", RING, "--method", "sjd2", "--adapter", "none"], "sjd2: needs"),
        (["generate", RING, "--corrector-passes", "0"], "'0': must be an integer of at least 1"),
        (["generate", RING, "--out", "cat.gif"], "cat.gif: pictures end in .png"),
        (["compare", RING, "--methods", "ar,gumble"], "did you mean 'gumbel'?"),
        (["compare", RING, "--n", "2"], "unrecognized arguments: --n"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_before_a_model_is_loaded(
    run, unloaded, tmp_path, arguments, fragment
):
    """Kills: any one of the checks, argparse's usage lines, and a check after loading."""
    assert one_line(run(*arguments), fragment)
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_what_cannot_be_written_is_found_before_a_model_is_loaded(run, unloaded, tmp_path, command):
    """Kills: leaving out the check of the target, and checking after loading."""
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "there.png").write_bytes(b"mine")
    assert one_line(run(command, RING, "--out", "file/a.png"), "file/a.png: cannot be written")
    assert one_line(run(command, RING, "--out", "file/"), "cannot be written")
    assert one_line(run(command, RING, "--out", "there.png"), "there.png: exists already; --force")
    assert {p.read_bytes() for p in tmp_path.iterdir()} == {b"mine"}


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("nowhere", "model 'nowhere': no such folder"),
        ("./nobody/nothing", "no such folder"),
        ("empty", "must be a folder that holds config.json"),
        ("empty/file", "must be a folder that holds config.json"),
    ],
)
def test_a_model_that_is_not_there_is_refused_in_one_line(run, tmp_path, name, fragment):
    """Kills: asking the hub for what can only be a path."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").write_bytes(b"")
    assert one_line(run("generate", RING, "--model", name), fragment)


def truncated(path):
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])


def pickled(path):
    (path / "model.safetensors").unlink()
    model = tiny_janus()
    torch.save(model.state_dict(), path / "pytorch_model.bin")


def of_another_model(path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, path / "model.safetensors", {"format": "pt"})


def of_another_family(path):
    transformers.LlamaConfig(hidden_size=8, num_attention_heads=2).save_pretrained(path)


def without_processor(path):
    for name in ("processor_config.json", "tokenizer_config.json", "tokenizer.json"):
        (path / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "fragment"),
    [
        (truncated, "cannot be loaded"),
        (pickled, "pickled weights are refused"),
        (of_another_model, "weights of another model"),
        (of_another_family, "its model_type is 'llama'"),
        (without_processor, "cannot be loaded"),
    ],
)
def test_damaged_or_foreign_weights_are_refused_in_one_line(run, folder, tmp_path, spoil, fragment):
    """Kills: dropping `use_safetensors`, the look at missing keys, or an error that is caught."""
    path = tmp_path / "spoilt"
    path.mkdir()
    for file in folder.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    spoil(path)
    before = everything_in(tmp_path)
    assert one_line(run("generate", RING, "--model", path), fragment)
    assert everything_in(tmp_path) == before


def test_unknown_words_are_named_with_the_nearest_known_one(run, monkeypatch):
    """Kills: drawing <unk>, and a message that leaves the user guessing."""
    monkeypatch.setattr(drawing, "draw", lambda *_: pytest.fail("something was drawn"))
    result = run("generate", RING, "a red rng above a Zebra")
    assert one_line(result, "does not know 'rng' (did you mean 'ring'?), 'Zebra'; it knows")
    assert f"{EXAMPLE!r}" in result[2]
    assert parse_caption(EXAMPLE)


def test_a_caption_that_is_too_long_is_refused_in_one_line(run):
    """Kills: letting an error of the library through as a traceback."""
    assert one_line(run("generate", "a red ring above " * 30), "this model has room for")


@pytest.mark.parametrize("device", ["cuda", "gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_one_line(run, device):
    """Kills: catching RuntimeError alone; torch without CUDA raises an AssertionError."""
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("it is there")
    assert one_line(run("generate", RING, "--device", device), f"device {device!r}")


def test_kernels_that_cannot_run_are_refused_in_one_line(run, unloaded, monkeypatch):
    """Kills: finding out about the backend after loading."""
    monkeypatch.setenv("SJD2_KERNELS", "nonsense")
    assert one_line(run("generate", RING), "SJD2_KERNELS='nonsense': unknown backend")
