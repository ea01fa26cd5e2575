"""What the commands write and print."""

import json
import os
import platform
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
import transformers
from PIL import Image

import sjd2
from sjd2 import patching
from sjd2.choices import PresetName
from sjd2.cli import COMMANDS, common, main
from sjd2.demo import WEIGHTS
from sjd2.demo.__main__ import demo
from sjd2.pictures import drawing
from sjd2.pictures.drawing import EXAMPLE
from sjd2.sampler.presets import PRESETS
from tests.cli.requests import DISCS, RING, everything_in, one_line
from tests.janus_model import LENGTH

SIDE = 16


# Help


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("generate", "--model --method --window --verify --coupling --seed --n --out --json"),
        ("generate", "--force --guidance --temperature --top-k --top-p --device --quiet --start"),
        ("compare", "--model --methods --window --seed --out --json --force --guidance --device"),
        ("info", "--json"),
    ],
)
def test_help_of_every_command_names_its_options_and_an_example(run, command, options):
    """Kills: an option that is not there, and an epilog that is not shown."""
    status, out, _ = run(command, "--help", "--model")
    assert status == 0
    assert all(option in out for option in options.split())
    assert f"\n  sjd2 {command} " in out


def test_help_and_version_of_the_program(run):
    """Kills: a command missing from the overview, and another version than the package's."""
    status, out, _ = run("--help", "--model")
    assert status == 0
    assert all(name in out for name in ("generate", "compare", "info"))
    assert run("--version", "--model")[1] == f"sjd2 {sjd2.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["draw"], ["generate", "--help"], ["trace", "--mehtod"]],
)
def test_help_and_typing_errors_wait_for_no_library(arguments):
    """Kills: an import of torch or transformers before there is something to do."""
    program = (
        "import sys\nfrom sjd2.cli import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit:\n    pass\n"
        "print({'torch', 'transformers', 'numpy'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_module_that_says_what_it_takes(run, command):
    """Kills: a command in the table without its module, and one whose help fails."""
    assert run(command, "--help", "--model")[0] == 0


def test_presets_of_the_commands_are_those_of_the_library():
    """Kills: a preset that the commands do not offer, or offer and cannot find."""
    assert get_args(PresetName) == tuple(PRESETS)


def test_python_m_runs_the_command(monkeypatch, capsys):
    """Kills: `python -m sjd2` dropping the status."""
    monkeypatch.setattr(sys, "argv", ["sjd2", "generate"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("sjd2", run_name="__main__")
    assert stop.value.code == 2
    assert "CAPTION" in capsys.readouterr().err


# Endings that are nobody's fault


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_ctrl_c_ends_with_130_and_leaves_no_file(run, monkeypatch, tmp_path):
    """Kills: a traceback, another status, and half-written files."""
    monkeypatch.setattr(drawing, "draw", raising(KeyboardInterrupt))
    assert run("generate", RING) == (130, "", "\nsjd2: interrupted\n")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image.Image, "save", raising(KeyboardInterrupt))
    assert run("generate", RING, "--quiet")[0] == 130
    assert everything_in(tmp_path) == ["out"]


def test_out_of_memory_is_one_line(run, monkeypatch):
    """Kills: a traceback where the remedy is a smaller request."""
    monkeypatch.setattr(drawing, "draw", raising(torch.OutOfMemoryError("CUDA out of memory.")))
    status, _, err = run("generate", RING)
    assert (status, err) == (1, "sjd2: error: out of memory: draw fewer pictures at once\n")


def test_a_closed_pipe_is_no_error(monkeypatch):
    """Kills: BrokenPipeError counting as an OSError, and a second one when the program ends."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["info"]) == 0
        closed.write("the interpreter's last words")
        closed.flush()


# generate


def test_generate_writes_readable_names_and_prints_the_paths(run, tmp_path):
    """Kills: another default folder, other names, and paths that are not printed."""
    status, out, err = run("generate", RING, DISCS, "--n", "2", "--seed", "3")
    names = [f"out/{c}-seed{s}.png" for c in ("a-red-ring", "two-pink-discs") for s in (3, 4)]
    assert (status, err) == (0, "")
    assert out.splitlines()[-4:] == names
    assert "step compression" in out
    assert everything_in(tmp_path) == ["out", *names]
    with Image.open(names[0]) as picture:
        assert picture.size == (SIDE, SIDE)


def test_quiet_prints_the_paths_alone(run):
    """Kills: the table printed in spite of --quiet."""
    assert run("generate", RING, "--quiet", "--out", "a.png") == (0, "a.png\n", "")
    assert run("compare", RING, "-q", "--out", "b.png", "--methods", "ar") == (0, "b.png\n", "")


def test_force_replaces_a_file_and_nothing_else_does(run, tmp_path):
    """Kills: --force that is not passed on, to the check or to the writer."""
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    assert one_line(run("generate", RING, "--out", "a.png"), "exists already")
    assert run("generate", RING, "--out", "a.png", "--force")[0] == 0
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_a_picture_depends_on_its_caption_and_seed_alone(run, tmp_path):
    """Kills: seeds that run on over the captions, and pictures under the wrong name."""
    # The window is a setting: left to "auto", it follows from how many are drawn at a time.
    run("generate", RING, DISCS, "--n", "2", "--seed", "3", "--out", "all/", "--window", "9")
    run("generate", DISCS, "--seed", "4", "--out", "one.png", "--window", "9")
    alike = Image.open("all/two-pink-discs-seed4.png"), Image.open("one.png")
    assert alike[0].tobytes() == alike[1].tobytes()
    others = {p.read_bytes() for p in (tmp_path / "all").iterdir()}
    assert len(others) == 4


def test_json_of_generate_is_one_object_that_tells_all(run):
    """Kills: a table on stdout beside the object, and pictures in another order than paths."""
    status, out, err = run("generate", RING, DISCS, "--n", "2", "--json", "--top-k", "9")
    printed = json.loads(out)
    assert (status, err) == (0, "")
    assert list(printed) == ["command", "model", "settings", "pictures", "stats"]
    assert printed["settings"] == {
        "method": "auto",
        "window": "auto",
        "verify": "ratio",
        "coupling": "maximal",
        "start": "neighbour",
        "backend": "auto",
        "top_k": 9,
    }
    assert printed["pictures"][2] == {
        "path": "out/two-pink-discs-seed0.png",
        "caption": DISCS,
        "seed": 0,
        "passed": None,
    }
    assert all(Path(picture["path"]).is_file() for picture in printed["pictures"])
    assert printed["stats"]["images"] == 4
    assert printed["stats"]["tokens"] == 4 * LENGTH
    assert printed["stats"]["tokens_per_forward"] > 1


def test_options_reach_the_model_under_its_own_names(run, monkeypatch):
    """Kills: an option read and then dropped, or passed under another name."""
    seen = {}
    # One that makes use of every option.
    decoding = SimpleNamespace(name="sjd2", is_corrected=True, config=sjd2.DecodingConfig(window=7))

    def resolved(model, config, adapter, corrector):
        seen.update(config=config, companions={"adapter": adapter, "corrector": corrector})
        return decoding, None

    def spy(pipeline, captions, seeds, method, **sampling):
        assert method is decoding
        seen.update(seeds=seeds, sampling=sampling)
        raise ValueError("enough")

    monkeypatch.setattr(patching, "method_of", resolved)
    monkeypatch.setattr(drawing, "draw", spy)
    options = "--window 7 --verify gumbel --coupling independent --method sjd --start repeat "
    options += "--adapter some/where --denoising-steps 3 --schedule linear "
    options += "--corrector none --corrector-passes sweep "
    options += "--backend eager --guidance 3 --temperature 0.5 --top-k 4 --top-p 0.9 --seed 6 --n 2"
    assert one_line(run("generate", RING, *options.split()), "enough")
    assert seen["seeds"] == [6, 7]
    assert seen["companions"] == {"adapter": "some/where", "corrector": None}
    assert seen["sampling"] == {
        "guidance_scale": 3.0,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.9,
    }
    assert seen["config"] == sjd2.DecodingConfig(
        method="sjd",
        window=7,
        verify="gumbel",
        coupling="independent",
        start="repeat",
        denoising_steps=3,
        schedule="linear",
        corrector_passes="sweep",
        backend="eager",
        progress=True,
    )


# compare


def test_compare_shows_that_gumbel_draws_the_pictures_of_ar(run):
    """Kills: comparing pictures of different seeds, and naming a method by another's settings."""
    status, out, _ = run("compare", RING, DISCS, "--json")
    printed = json.loads(out)
    assert status == 0
    assert list(printed) == ["command", "model", "path", "captions", "seed", "settings", "methods"]
    by_name = {entry["method"]: entry for entry in printed["methods"]}
    assert list(by_name) == ["ar", "independent", "gumbel", "maximal"]
    assert by_name["ar"]["stats"]["forward_passes"] == [LENGTH, LENGTH]
    assert by_name["gumbel"]["same_as_ar"] == [True, True]
    assert by_name["independent"]["same_as_ar"] == [False, False]
    forwards = {name: sum(one["stats"]["forward_passes"]) for name, one in by_name.items()}
    assert forwards["maximal"] < forwards["independent"] < forwards["ar"]


def test_compare_writes_one_picture_and_prints_one_table(run):
    """Kills: a missing row or column in the picture or the table."""
    status, out, err = run("compare", RING, DISCS, "--seed", "2", "--methods", "gumbel,ar")
    assert status == 0
    assert err.splitlines()[-2:] == ["drawing: sjd gumbel", "drawing: ar"]
    head, _, gumbel, ar, _, path = out.splitlines()
    assert path == "out/compare-a-red-ring-seed2.png"
    assert "as captioned" not in head
    assert gumbel.startswith("sjd gumbel ")
    assert gumbel.endswith(" yes")
    assert ar.split()[:3] == ["ar", f"{LENGTH:.1f}", "1.00x"]
    with Image.open(path) as picture:
        # Two cells of 256 pixels in each direction, and what stands around them.
        assert 2 * 256 < picture.width < 3.5 * 256
        assert 2 * 256 < picture.height < 3 * 256


# info


def test_info_tells_versions_device_and_kernels(run):
    """Kills: a fact left out, and text where JSON was asked for."""
    status, out, _ = run("info", "--json")
    printed = json.loads(out)
    assert status == 0
    assert printed["sjd2"] == sjd2.__version__
    assert printed["python"] == platform.python_version()
    assert printed["torch"] == torch.__version__
    assert printed["transformers"] == transformers.__version__
    assert {"triton", "device", "threads", "demo_weights"} <= printed.keys()
    assert printed["kernels"] in ("eager", "triton")
    assert printed["kernels_reason"]
    lines = run("info")[1].splitlines()
    assert [line.split()[0] for line in lines[:5]] == [
        "sjd2",
        "python",
        "torch",
        "triton",
        "transformers",
    ]


def test_info_reports_kernels_that_cannot_run(run, monkeypatch):
    """Kills: failing where the user looks for the reason of a failure."""
    monkeypatch.setenv("SJD2_KERNELS", "nonsense")
    status, out, _ = run("info", "--json")
    assert status == 0
    assert json.loads(out)["kernels"] is None
    assert "nonsense" in json.loads(out)["kernels_reason"]


# The embedded model


def test_demo_replaces_its_own_picture_and_says_what_to_do_next(folder, monkeypatch, capsys):
    """Kills: a demo that works once only, and one without the checker's verdict."""
    load = common.load
    monkeypatch.setattr(common, "load", lambda name, *more: load(str(folder), *more))
    for _ in range(2):
        assert demo() == 0
        out = capsys.readouterr().out
        assert "out/demo.png\n\nnext: " in out
        assert "-m sjd2 generate" in out
        assert "as captioned" in out.splitlines()[0]


@pytest.mark.skipif(not (WEIGHTS / "model.safetensors").exists(), reason="not trained yet")
def test_the_embedded_model_is_the_default(capsys):
    """Kills: another default model, and the checker kept out of the account."""
    assert main(["generate", EXAMPLE, "--json"]) == 0
    (picture,) = json.loads(capsys.readouterr().out)["pictures"]
    assert picture["passed"] in (True, False)
    with Image.open(picture["path"]) as drawn:
        assert drawn.size == (96, 96)
