"""How far long work has got: lines where nobody sees a bar, from every long command."""

from __future__ import annotations

import gc
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import JanusProcessor

from sjd2 import progress
from sjd2.cli import main
from sjd2.demo import tokens
from sjd2.demo.build import build_generation_config
from sjd2.demo.evaluate import draw
from sjd2.demo.pictures import write_pictures
from sjd2.demo.train import train
from sjd2.models import lumina
from sjd2.progress import Progress, duration
from tests.cli.requests import RING
from tests.demo.test_train import TINY
from tests.family_models import tiny_chameleon

PACKAGE = Path(progress.__file__).parent


class Printed:
    """What a program without a terminal has written."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._out, self._err = capsys, "", ""

    @property
    def err(self) -> str:
        self._read()
        return self._err

    def _read(self) -> None:
        out, err = self._capsys.readouterr()
        self._out, self._err = self._out + out, self._err + err

    @property
    def out(self) -> str:
        self._read()
        return self._out

    def line(self, text: str) -> str:
        """The first line with a text in it, once it is there."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for line in self.err.splitlines():
                if text in line:
                    return line
            time.sleep(0.01)
        raise AssertionError(self.err)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """A line every 50th of a second."""
    monkeypatch.setattr(progress, "EVERY", 0.02)
    return Printed(capsys)


def test_a_line_says_what_how_far_and_how_long_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a rest that counts what was done before, and one without anything done."""
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    work = Progress("training", "steps", total=100, done=40, is_shown=False)
    now = 105.0
    assert work.line() == "training: 40 of 100 steps, 5 s so far"
    work.update(60, "2.00x fewer forwards")
    now = 140.0
    wanted = "60 of 100 steps, 40 s so far, about 1 min 20 s to go, 2.00x fewer forwards"
    assert work.line() == f"training: {wanted}"
    assert Progress("loading", is_shown=False).line() == "loading: 0 s so far"
    endless = Progress("drawing", "pictures", is_shown=False)
    endless.skip()
    assert endless.line() == "drawing: 1 pictures, 0 s so far"
    half = Progress("drawing", "pictures", 10, is_shown=False)
    half.skip()
    half.update(2, "a note")
    half.skip(0)
    now = 150.0  # one in ten seconds, and eight are left
    assert half.line().endswith("10 s so far, about 1 min 20 s to go, a note")
    assert [duration(x) for x in (0.4, 61, 7260)] == ["0 s", "1 min 1 s", "2 h 1 min"]


def test_lines_do_not_wait_for_the_work(printed: Printed) -> None:
    """Kills: a line at updates only, one after the end, and a thread that outlives its work."""
    with Progress("drawing", "tokens", 10) as work:
        printed.line("drawing: 0 of 10 tokens")
        work.update(4)
        printed.line("drawing: 4 of 10 tokens")
    time.sleep(0.06)
    written = printed.err
    time.sleep(0.06)
    assert printed.err == written
    forgotten = Progress("forgotten", "things", 3)
    printed.line("forgotten")
    del forgotten
    gc.collect()
    time.sleep(0.06)
    written = printed.err
    time.sleep(0.06)
    assert printed.err == written


def test_half_a_minute_is_the_longest_silence() -> None:
    """Kills: lines that come more rarely than promised."""
    assert progress.EVERY <= 30


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["generate", RING, "--n", "8"], "drawing"),
        (["generate", RING, "--n", "9", "--batch", "2"], "drawing"),
        (["compare", RING], "drawing"),
        (["trace", RING], "drawing"),
        (["evaluate", "--out", "report", "--captions", "4"], "measuring"),
        (["finetune", "--corrector", "--steps", "4", "--out", "corrector"], "training"),
    ],
)
def test_every_long_command_writes_lines_without_a_terminal(
    folder: Any, printed: Printed, words: list[str], what: str, tmp_path: Any, monkeypatch: Any
) -> None:
    """Kills: a command that shows a bar or nothing, and lines among what is printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(f"{RING}\n" * 10)
    monkeypatch.setattr(progress, "EVERY", 0.002)
    if words[0] in ("evaluate", "finetune"):
        words = [*words, "--prompts", "prompts.txt", "--batch", "2"]
    assert main([*words, "--model", str(folder), "--json"]) == 0
    shown = [line for line in printed.err.splitlines() if line.startswith(f"{what}: ")]
    counted = [line for line in shown if re.search(r"\d+ of \d+ \w+, .* so far", line)]
    assert counted, printed.err
    assert "\r" not in printed.err
    assert printed.out.startswith("{")
    assert printed.out.endswith("}\n")


def test_the_training_of_the_demo_writes_lines_without_a_terminal(
    printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a stage that shows a bar or nothing."""
    monkeypatch.setattr(tokens, "PART", 4)

    def pause() -> bool:
        time.sleep(0.05)  # of two lines, after every step
        return False

    assert train(tmp_path, TINY, torch.device("cpu"), out_of_time=pause)
    for stage in (
        "training the tokenizer: 3 of 4 steps",
        "pictures to tokens: 8 of 12 pictures",
        "training the language model: 4 of 5 steps",
    ):
        assert re.search("so far, about .* to go", printed.line(stage))
    assert re.search(r": \d+ of 128 pictures, ", printed.line("drawing for the codebook"))
    assert "so far" in printed.line("choosing the codes")
    assert "held out" in printed.line("language model: 4 of 5")
    assert "\r" not in printed.err


def test_drawing_with_the_demo_writes_lines_without_a_terminal(
    folder: Path, janus: Any, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a bar, or lines that do not say how many pictures there are."""
    processor = JanusProcessor.from_pretrained(folder)
    config = build_generation_config(processor.tokenizer, guidance=2.0)
    monkeypatch.setattr(janus, "generation_config", config)  # other tests share the model
    monkeypatch.setattr(progress, "EVERY", 0.002)
    draw(janus, processor, [RING] * 4, guidance=2.0, seed=0, batch=2)
    assert "to go" in printed.line("drawing at guidance 2.0: 2 of 4 pictures")


def test_judging_writes_lines_without_a_terminal(
    folder: Path, printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: silence while FID or CLIP look at the pictures; a rest that counts what was there."""

    class Slow:
        name = "beauty"

        def score(self, *_: Any) -> float:
            time.sleep(0.1)
            return 1.0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sjd2.cli.evaluate._judges", lambda _: [Slow()])
    (tmp_path / "prompts.txt").write_text(f"{RING}\n" * 2)
    words = "evaluate --prompts prompts.txt --methods ar,gumbel --windows 8 --guidances none"
    words += " --temperatures none --out report --json"
    assert main([*words.split(), "--model", str(folder)]) == 0
    assert "to go" in printed.line("judging: 1 of 2 rows")
    assert printed.out.count('"beauty": 1.0') == 2
    skipped = []
    monkeypatch.setattr(Progress, "skip", lambda _, number: skipped.append(number))
    assert main([*words.split(), "--model", str(folder)]) == 0
    assert sum(skipped) == 4


def test_scenes_and_converted_files_are_counted(
    printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: commands that say nothing until they are done."""
    monkeypatch.setattr(progress, "EVERY", 0.002)
    write_pictures(tmp_path / "scenes", 30)
    assert "to go" in printed.line("drawing scenes: 2")
    tiny_chameleon().save_pretrained(tmp_path / "published", max_shard_size="60KB")
    widen = lumina._widened

    def slowly(*given: Any) -> Any:
        time.sleep(0.01)
        return widen(*given)

    monkeypatch.setattr(lumina, "_widened", slowly)
    convert = ["convert", str(tmp_path / "published"), str(tmp_path / "out")]
    assert main(convert) == 0
    assert "to go" in printed.line("converting: 1 of ")


def test_nothing_but_progress_uses_tqdm() -> None:
    """Kills: a bar that a terminal alone can show."""
    users = [path.name for path in PACKAGE.rglob("*.py") if "import tqdm" in path.read_text()]
    assert users == ["progress.py"]
