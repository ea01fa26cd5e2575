"""Generated bad calls of every command: each is refused in one line that names what is wrong."""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

# Some libraries that Trainer looks for (torchao) warn when they are first imported. That is no
# second line of an error, so it happens here.
import sjd2.finetune.trainer  # noqa: F401
from sjd2.cli import COMMANDS
from tests.cli.requests import RING, everything_in

CALLS = 25  # of each command
PATIENCE = 60  # seconds of a call; a busy machine is no failure

COUNTS = ["0", "-1", "1.5", "x", ""]
MODEL = {
    "--model": ["nowhere", "./no/where", "empty", "text.txt", "", "a b/c"],
    "--size": ["0x5", "10", "axb", "16x16", "-1x4", ""],
    "--vq-decoder": ["nowhere.safetensors", "text.txt", "other.safetensors"],
    "--device": ["gpu", "cuda:99", "cpu:x", ""],
}
SAMPLING = {
    "--guidance": ["0.5", "nan", "inf", "x", "-1", ""],
    "--temperature": ["0", "-1", "inf", "nan", "x"],
    "--top-k": ["-1", "1.5", "x"],
    "--top-p": ["0", "1.5", "nan", "x"],
}
SEED = {"--seed": ["-1", "x", "1.5", str(2**63), ""]}
WINDOW = {"--window": ["0", "1", "-8", "2.5", "x"], "--start": ["x", ""], "--backend": ["x", ""]}
COMPANIONS = {
    "--adapter": ["nowhere", "empty", "text.txt", "junk"],
    "--corrector": ["nowhere", "empty", "text.txt", "junk"],
}
CAPTION = [" ", "", "a red zeppelin", "a red ring above " * 30]
OUT = ["a.xyz", "text.txt/", "text.txt/a.png", "there.png"]
DRAWING = MODEL | SAMPLING | SEED | WINDOW | {"--out": OUT}
# By command: what it takes at least, and bad values of every option. "" is the caption.
BAD: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "generate": (
        [RING],
        DRAWING
        | COMPANIONS
        | {
            "": CAPTION,
            "--n": COUNTS,
            "--batch": COUNTS,
            "--method": ["maximal", "x"],
            "--verify": ["x"],
            "--coupling": ["x"],
            "--corrector-passes": COUNTS,
            "--denoising-steps": COUNTS,
            "--schedule": ["x"],
        },
    ),
    "compare": ([RING], DRAWING | {"": CAPTION, "--methods": ["x", "ar,", "corrected", "sjd2"]}),
    "trace": ([RING], DRAWING | {"": CAPTION, "--methods": ["ar", "corrected", "x"]}),
    "app": ([], MODEL | {"--port": ["0", "-1", "70000", "x"]}),
    "evaluate": (
        ["--out", "report"],
        MODEL
        | SAMPLING
        | SEED
        | COMPANIONS
        | {
            "--prompts": ["nowhere.txt", "empty", "blank.txt", "binary", "unknown.txt"],
            "--captions": COUNTS,
            "--seeds": COUNTS,
            "--methods": ["x", "ar,", "corrected"],
            "--windows": ["1", "8,x", "", "8,"],
            "--guidances": ["0.5", "x", "1,,2"],
            "--temperatures": ["0", "x", "nan"],
            "--batch": COUNTS,
            "--backend": ["x"],
            "--fid-reference": ["empty"],
            "--fid-weights": ["text.txt"],
            "--clip": ["nowhere", "empty"],
            "--out": ["text.txt/x"],
        },
    ),
    "finetune": (
        ["--data", "pictures", "--out", "adapter"],
        MODEL
        | SEED
        | {
            "--data": ["empty", "bad.jsonl", "nameless.jsonl", "nowhere.jsonl", "few", "text.txt"],
            "--prompts": ["prompts.txt"],
            "--rank": COUNTS,
            "--steps": COUNTS,
            "--batch": COUNTS,
            "--learning-rate": ["0", "-1", "nan", "x"],
            "--guidance": ["0.5", "x"],
            "--window": ["1", "x", "auto"],
            "--denoising-steps": COUNTS,
            "--schedule": ["x"],
            "--evaluate-every": COUNTS,
            "--out": ["text.txt/x"],
        },
    ),
    "convert": ([], {"--out": ["x"]}),
    "info": ([], {"--out": ["x"], "--model": ["demo"]}),
}
# What no single value is to blame for, and what would have no effect.
WHOLE = [
    "",
    "draw",
    "--nonsense",
    "generate",
    "generate --n 2",
    "generate RING --nonsense 3",
    "generate RING --json --quiet",
    "generate RING --method sjd2",
    "generate RING --method sjd2 --adapter none",
    "generate RING --method sjd --adapter empty",
    "generate RING --method ar --window 8",
    "generate --prompts prompts.txt --method ar --window 8",
    "generate --prompts prompts.txt --schedule linear",
    "generate --prompts nowhere.txt",
    "generate --prompts blank.txt",
    "generate --prompts unknown.txt",
    "generate --prompts prompts.txt --out a.png",
    "generate RING --prompts prompts.txt",
    "generate RING --n 9 --out a.png",
    "generate RING --method ar --start uniform",
    "generate RING --method ar --verify gumbel",
    "generate RING --method ar --coupling independent",
    "generate RING --method ar --corrector-passes 2",
    "generate RING --verify gumbel --coupling independent",
    "generate RING --verify gumbel --coupling maximal",
    "generate RING --method sjd --denoising-steps 2",
    "generate RING --schedule linear",
    "generate RING --corrector-passes sweep",
    "generate RING --corrector none --corrector-passes 2",
    f"generate RING --n 2 --seed {2**63 - 1}",
    "compare RING --n 2",
    "compare RING --methods ar --window 8",
    "compare RING --methods ar --start repeat",
    "trace RING RING",
    "trace RING --n 2",
    "trace RING --methods ar,independent,maximal",
    "trace RING --methods ar --window 8",
    "app extra",
    "app --port TAKEN --no-browser",
    "app --seed 1",
    "evaluate",
    "evaluate RING --out report",
    "evaluate --out report --methods ar --windows 8",
    "evaluate --out report --methods ar --guidances 3",
    "evaluate --out report --methods ar --temperatures 2",
    "evaluate --out report --fid-reference empty",
    "evaluate --out report --fid-weights text.txt",
    "evaluate --out report --fid-reference empty --fid-weights text.txt",
    "evaluate --out report --json -q",
    "finetune --out adapter",
    "finetune --data pictures",
    "finetune --data pictures --out adapter --resume",
    "finetune --data pictures --out adapter --prompts prompts.txt",
    "finetune --data pictures --out adapter --full --rank 4",
    "finetune --data few --out adapter",
    "finetune --corrector --out corrector",
    "finetune --corrector --prompts prompts.txt --data pictures --out corrector",
    "finetune --corrector --prompts prompts.txt --full --out corrector",
    "finetune --corrector --prompts prompts.txt --denoising-steps 2 --out corrector",
    "finetune --corrector --prompts prompts.txt --schedule linear --out corrector",
    "finetune --corrector --prompts prompts.txt --resume --out corrector",
    "finetune --corrector --prompts blank.txt --out corrector",
    "finetune --corrector --prompts few.txt --out corrector",
    "finetune --corrector --prompts unknown.txt --out corrector",
    "convert",
    "convert text.txt",
    "convert text.txt a.bin",
    "convert text.txt a.safetensors",
    "convert blank.txt a.safetensors",
    "convert binary a.safetensors",
    "convert empty a.safetensors",
    "convert nowhere a.safetensors",
    "convert other.safetensors a.safetensors",
    "convert other.ckpt a.safetensors",
    "convert list.ckpt a.safetensors",
    "convert half.ckpt a.safetensors",
    "convert other.ckpt text.txt/a.safetensors",
    "convert other.ckpt other.safetensors",
    "info extra",
    "info -q",
]
# Harmless, beside a bad value.
GOOD = {
    "generate": ["--window 8", "--n 2", "--seed 3", "--top-k 9", "--json", "--out new/"],
    "compare": ["--window 8", "--seed 3", "--top-k 9", "--json", "--force"],
    "trace": ["--window 8", "--seed 3", "--methods maximal", "--quiet"],
    "app": ["--no-browser"],
    "evaluate": ["--windows 8", "--seed 3", "--methods ar,gumbel", "--batch 1", "--json"],
    "finetune": ["--steps 2", "--seed 3", "--batch 1", "--window 8"],
    "convert": ["--force"],
    "info": ["--json"],
}


def generated() -> list[tuple[str, str, tuple[str, ...]]]:
    """Calls of every command with one bad value each: the option, the value, and all words."""
    chance, calls = random.Random(23), []
    for command, (least, options) in BAD.items():
        every = [(option, value) for option, values in options.items() for value in values]
        for option, value in chance.sample(every, min(CALLS, len(every))):
            others = [words.split() for words in GOOD[command] if words.split()[0] != option]
            words = chance.sample(others, min(len(others), chance.randrange(3)))
            words.append([option, value] if option else [value])
            chance.shuffle(words)
            # What argparse gets twice, it takes the last of.
            call = [command, *least, *(word for some in words for word in some)]
            calls.append((option, value, tuple(call)))
    return calls


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What the calls name."""
    Path("empty").mkdir()
    Path("text.txt").write_text("no tensors, no picture")
    Path("there.png").write_bytes(b"mine")
    Path("blank.txt").write_text("\n \n")
    Path("binary").write_bytes(bytes(range(128, 256)))
    Path("unknown.txt").write_text("a red zeppelin\n" * 6)
    Path("prompts.txt").write_text(f"{RING}\n" * 6)
    Path("few.txt").write_text(f"{RING}\n")
    Path("bad.jsonl").write_text("{\n")
    Path("nameless.jsonl").write_text('{"a": 1}\n')
    save_file({"a": torch.zeros(2)}, "other.safetensors")
    torch.save({"a": torch.zeros(2)}, "other.ckpt")
    torch.save([torch.zeros(2)], "list.ckpt")
    Path("half.ckpt").write_bytes(Path("other.ckpt").read_bytes()[:300])
    for kind in ("adapter", "corrector"):
        Path("junk").mkdir(exist_ok=True)
        Path("junk", f"{kind}.json").write_text('{"format": 1}')
        Path("junk", f"{kind}.safetensors").write_bytes(b"junk")
    for folder, number in (("pictures", 6), ("few", 2)):
        Path(folder).mkdir()
        for at in range(number):
            Path(folder, f"{at}.png").write_bytes(b"no picture")
            Path(folder, f"{at}.txt").write_text(RING)
    return tmp_path


@contextmanager
def hurried() -> Iterator[None]:
    """What hangs fails."""

    def stop(*_: object) -> None:
        pytest.fail(f"no answer in {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(run, files, words, named=("",)):
    """The call ended with status 2 and a line that names one of the words; nothing was written."""
    before = everything_in(files)
    with hurried():
        status, out, err = run(*words)
    assert (status, out) == (2, ""), err
    # compare says what it is about to draw.
    (line,) = [line for line in err.splitlines() if not line.startswith("drawing: ")]
    assert line.startswith("sjd2: error: ")
    assert any(word in line for word in named), line
    assert everything_in(files) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_value_is_refused_whatever_stands_beside_it(run, files, command):
    """Kills: a value that is not checked, a traceback, and files begun before the check."""
    for option, value, words in generated():
        if words[0] == command:
            named = [option.lstrip("-")] if option else ["CAPTION", "prompt"]
            named += [value.split("/")[0]] * bool(value.strip())
            try:
                refused(run, files, words, named)
            except BaseException as error:
                raise AssertionError(f"sjd2 {' '.join(words)}") from error


@pytest.mark.parametrize("line", WHOLE)
def test_a_call_without_sense_or_effect_is_refused(run, files, line):
    """Kills: an option that is read and then has no effect."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = [{"RING": RING, "TAKEN": port}.get(word, word) for word in line.split()]
        refused(run, files, words or ["--json"])


def test_there_are_enough_calls():
    """Kills: a generator that runs dry, so that the tests above check nothing."""
    assert len(generated()) + len(WHOLE) >= 200
    assert {words[0] for *_, words in generated()} == set(COMMANDS)
