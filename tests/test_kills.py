"""Every long command, killed at random moments: what it ends with is what it ends with unkilled."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sjd2.cli import main
from sjd2.finetune.runs import last_checkpoint
from tests.cli.requests import DISCS, RING

MOMENTS = 20
# What a command needs is imported once; a process of its own is then a matter of milliseconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.test_kills", "sjd2.finetune.trainer", "sjd2.demo.train"])


def run_command(folder: str, words: list[str]) -> None:
    """A command as a process: in its folder, silent."""
    quietly(folder)
    sys.exit(main(words))


def run_demo_training(folder: str, words: list[str]) -> None:
    """The training of the embedded model, in miniature."""
    from sjd2.demo.train import train
    from tests.demo.test_train import TINY

    quietly(folder)
    train(Path("demo"), TINY, torch.device("cpu"), resume=True)


def quietly(folder: str) -> None:
    os.chdir(folder)
    with Path("printed.txt").open("a") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    torch.set_num_threads(1)


def pictures(folder: Path) -> dict[str, bytes]:
    """The pixels of every picture: one that was written by half raises an error."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".gif")):
        with Image.open(path) as picture:
            picture.load()
            pixels = picture.convert("RGB").tobytes()
        found[str(path.relative_to(folder))] = (
            path.read_bytes() if path.suffix == ".gif" else pixels
        )
    return found


def evaluation(folder: Path) -> Any:
    return json.loads((folder / "report" / "results.json").read_text()), pictures(folder / "report")


def training(out: str, *weights: str) -> Callable[[Path], Any]:
    def result(folder: Path) -> Any:
        history = json.loads((folder / out / "finetune.json").read_text())
        history.pop("seconds")
        return history, [(folder / out / f"{name}.safetensors").read_bytes() for name in weights]

    return result


def demo_model(folder: Path) -> Any:
    metrics = json.loads((folder / "demo" / "metrics.json").read_text())
    curves = {name: metrics["language_model"][name] for name in ("training", "validation")}
    return curves, (folder / "demo" / "model.safetensors").read_bytes()


SHORT = "--steps 6 --evaluate-every 2 --batch 2 --window 8"
# By command: its words, what it ends with, and where a killed one needs --resume.
COMMANDS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "generate": ("generate RING DISCS --n 2 --out drawn/ --force", pictures, ""),
    "trace": ("trace RING --window 8 --out race.gif --force", pictures, ""),
    "evaluate": (
        "evaluate --prompts prompts.txt --captions 2 --methods ar,gumbel,maximal --windows 8 "
        "--batch 1 --guidances 3 --temperatures none --out report",
        evaluation,
        "",
    ),
    "corrector": (
        f"finetune --corrector --prompts prompts.txt {SHORT} --rank 4 --out corrector",
        training("corrector", "corrector"),
        "corrector",
    ),
    "adapter": (
        f"finetune --data data {SHORT} --rank 4 --out adapter",
        training("adapter", "adapter"),
        "adapter",
    ),
    "full": (
        f"finetune --data data --full {SHORT} --out full",
        training("full", "model", "adapter"),
        "full",
    ),
    "demo training": ("", demo_model, ""),
}


def start(name: str, folder: Path, model: Path) -> Any:
    """The command as a process, going on where there is something to go on with."""
    line, _, resumed = COMMANDS[name]
    words = [{"RING": RING, "DISCS": DISCS}.get(word, word) for word in line.split()]
    words += ["--model", str(model)]
    if resumed and last_checkpoint(folder / resumed):
        words.append("--resume")
    target = run_command if line else run_demo_training
    process = FORKS.Process(target=target, args=(str(folder), words))
    process.start()
    return process


def finished(name: str, folder: Path, model: Path) -> Any:
    """What the command ends with."""
    process = start(name, folder, model)
    process.join()
    assert process.exitcode == 0, (folder / "printed.txt").read_text()
    return COMMANDS[name][1](folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment_a_command_ends_the_same(name: str, folder: Path, tmp_path: Path):
    """Kills: a file that is there by half, a step too many or too few, and a stream of random
    numbers that goes on elsewhere.
    """
    fresh = tmp_path / "fresh"
    (fresh / "data").mkdir(parents=True)
    (fresh / "prompts.txt").write_text(f"{RING}\n{DISCS}\n" * 5)
    for at in range(10):
        # An adapter learns from the captions; the whole model from the pictures as well.
        Image.new("RGB", (16, 16), (25 * at, 100, 200)).save(fresh / "data" / f"{at}.png")
        (fresh / "data" / f"{at}.txt").write_text(RING if at % 2 else DISCS)

    def place(number: int) -> Path:
        shutil.copytree(fresh, tmp_path / str(number))
        return tmp_path / str(number)

    took = []
    for number in (-3, -2, -1):  # the first one waits for the imports, and a busy machine delays
        began = time.monotonic()
        expected = finished(name, place(number), folder)
        took.append(time.monotonic() - began)
    chance, killed = random.Random(name), 0
    for number in range(MOMENTS):
        where = place(number)
        process = start(name, where, folder)
        process.join(min(took) * chance.random())
        process.kill()
        process.join()
        killed += process.exitcode != 0
        if name in ("generate", "trace"):
            pictures(where)  # whole, those that are there
        assert finished(name, where, folder) == expected, f"killed as number {number}"
        shutil.rmtree(where)
    assert killed > MOMENTS / 4
