"""Files of captions: every picture there once, whatever is killed, in any number of processes."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from sjd2.pictures.folder import PictureFolder
from sjd2.pictures.many import picture_seed
from tests.cli.requests import DISCS, RING, everything_in, one_line

CAPTIONS = [RING, DISCS, "a green cross", "a red ring above a blue square", "a blue square"]
ROOT = Path(__file__).parents[2]
FAST = ("--window", "9", "--batch", "2")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.png")}


def timeless(manifest):
    return [{name: one for name, one in row.items() if name != "seconds"} for row in manifest]


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join([*CAPTIONS[:2], "", *CAPTIONS[2:]]) + "\n")
    return path


@pytest.fixture
def whole(run, captions):
    """The folder that an undisturbed run leaves."""
    assert run("generate", "--prompts", captions, "--out", "whole", *FAST)[0] == 0
    return Path("whole")


def test_a_file_of_captions_becomes_a_folder_with_a_manifest(run, whole):
    """Kills: pictures or lines that are missing, ids that blank lines do not move."""
    names = ["000001", "000002", "000004", "000005", "000006"]
    assert everything_in(whole) == [*(f"{name}.png" for name in names), "manifest.jsonl"]
    found = sorted(lines(whole / "manifest.jsonl"), key=lambda row: row["id"])
    assert [row["id"] for row in found] == names
    assert [row["prompt"] for row in found] == CAPTIONS
    assert [row["seed"] for row in found] == [picture_seed(0, name) for name in names]
    assert all(row["settings"]["window"] == 9 and row["forwards"] > 1 for row in found)
    said = Image.open(whole / "000004.png").info
    assert (said["Description"], said["Seed"]) == (CAPTIONS[2], str(found[2]["seed"]))
    assert json.loads(said["Settings"]) == found[2]["settings"]


def test_objects_bring_ids_and_seeds_and_may_come_through_a_pipe(run, monkeypatch, whole):
    """Kills: an id or a seed that is not honoured; a stream that is read as a file."""
    rows = [
        {"id": "ring-é", "prompt": RING, "seed": 5},
        {"prompt": DISCS},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    Path("some.jsonl").write_text(text)
    assert run("generate", "--prompts", "some.jsonl", "--out", "named", *FAST)[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert run("generate", "--prompts", "-", "--out", "piped", *FAST, "--quiet")[1] == "piped\n"
    assert sorted(files("named")) == ["000002.png", "ring-é.png"]
    assert files("piped") == files("named")
    assert Image.open("named/ring-é.png").info["Seed"] == "5"
    assert files("named")["000002.png"] == files(whole)["000002.png"]


def test_n_pictures_of_every_caption_are_a_queue(run):
    """Kills: lists of pictures before the first is drawn; seeds that the plain command has not."""
    taken = []
    add = PictureFolder.add

    def stop(self, drawn):
        taken.append(add(self, drawn))
        if len(taken) == 4:
            raise KeyboardInterrupt
        return taken[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PictureFolder, "add", stop)
        status = run("generate", RING, "--n", "100000000", "--out", "all/", *FAST)[0]
    assert status == 130
    assert len(files("all")) == 4
    assert run("generate", RING, "--seed", "1", "--out", "one.png", "--window", "9")[0] == 0
    assert Image.open("one.png").tobytes() == Image.open("all/a-red-ring-seed1.png").tobytes()
    assert Image.open("one.png").info["Seed"] == "1"


@pytest.mark.parametrize("moment", ["before the line", "torn line", "before the picture"])
def test_the_same_command_goes_on_after_a_kill(run, captions, whole, moment):
    """Kills: a picture drawn twice, a line without its picture or twice, a torn line kept."""
    added, add = [], PictureFolder.add

    def killed(self, drawn):
        if len(added) == 3:
            if moment == "torn line":
                self.lines.write('{"id": "0000')
            if moment == "before the picture":
                row = {"id": drawn.wanted.id, "settings": self.settings}
                self.lines.write(json.dumps(row) + "\n")
            raise KeyboardInterrupt
        added.append(drawn.wanted.id)
        return add(self, drawn)

    command = ("generate", "--prompts", captions, "--out", "killed", *FAST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PictureFolder, "add", killed)
        assert run(*command)[0] == 130
    assert sorted(files("killed")) == sorted(f"{name}.png" for name in added)
    status, out, _ = run(*command)
    assert (status, out.split()[0]) == (0, "2")
    assert files("killed") == files(whole)
    found = timeless(lines(Path("killed/manifest.jsonl")))
    expected = timeless(lines(whole / "manifest.jsonl"))
    key = str
    assert sorted(found, key=key) == sorted(expected, key=key)
    again = json.loads(run(*command, "--json")[1])
    assert (again["drawn"], again["skipped"]) == (0, 5)


def test_other_settings_or_captions_are_refused_unless_forced(run, captions, whole):
    """Kills: a folder of pictures that were drawn in two ways; a caption that was edited."""
    command = ["generate", "--prompts", captions, "--out", whole, "--batch", "2"]
    assert one_line(run(*command, "--window", "8"), "drawn with window=9, not 8")
    assert one_line(run(*command, *FAST[:2], "--top-k", "3"), "top_k=None, not 3")
    before = files(whole)
    text = captions.read_text()
    captions.write_text(text.replace(DISCS, "two red discs"))
    assert one_line(run(*command, *FAST[:2]), "'two red discs'; --force")
    assert files(whole) == before
    assert run(*command, *FAST[:2], "--force")[0] == 0
    after = files(whole)
    assert [name for name in before if before[name] != after[name]] == ["000002.png"]
    foreign = whole / "000001.png"
    Image.new("RGB", (3, 3)).save(foreign)
    assert one_line(run(*command, *FAST[:2]), "does not say how it was drawn")


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ('{"prompt": 3}', 'line 2: must be an object with a text "prompt"'),
        ('{"prompt": " "}', 'line 2: its "prompt" is empty'),
        ('{"prompt": "a", "sede": 3}', "line 2: unknown key 'sede'"),
        ('{"prompt": "a", "seed": -1}', "line 2: seed=-1"),
        ('{"prompt": "a", "id": "../x"}', "line 2: id '../x' is no name for a file"),
        ("{", "line 2: no JSON"),
        ('{"prompt": "a rde ring"}', "does not know 'rde'"),
    ],
)
def test_a_wrong_line_is_named(run, line, fragment):
    """Kills: a line that is skipped, and one that is taken for something else."""
    Path("wrong.jsonl").write_text(json.dumps({"prompt": RING}) + "\n" + line + "\n")
    status, out, err = run("generate", "--prompts", "wrong.jsonl", "--out", "out/", *FAST)
    assert (status, out) == (2, "")
    assert fragment in err


def test_what_makes_no_folder_is_refused_before_a_model_is_loaded(run, monkeypatch, captions):
    """Kills: pictures of a file in one file; standard input cut in two."""
    from sjd2.cli import common

    monkeypatch.setattr(common, "load", lambda *_: pytest.fail("a model was loaded"))
    assert one_line(run("generate", "--prompts", captions, "--out", "a.png"), "must be a folder")
    assert one_line(run("generate", RING, "--n", "9", "--out", "a.png"), "more than --batch 8")
    assert one_line(run("generate", RING, "--prompts", captions), "one of them")
    assert one_line(run("generate", "--prompts", "captions.csv"), "read from .txt or .jsonl")
    assert one_line(run("generate", "--prompts", "no.txt"), "cannot be read as text")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert one_line(run("generate", "--prompts", "-"), "cannot share standard input")


def test_processes_share_the_captions(run, monkeypatch, captions, whole):
    """Kills: a caption that nobody draws, or everybody; a line in another's manifest."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert run("generate", "--prompts", captions, "--out", "shared", *FAST)[0] == 0
    assert files("shared") == files(whole)
    first, second = (
        lines(Path("shared") / name) for name in ("manifest.jsonl", "manifest-1.jsonl")
    )
    assert (len(first), len(second)) == (3, 2)


@pytest.mark.slow
def test_torchrun_goes_on_where_it_was_killed(folder, tmp_path, run):
    """Two processes, killed for good with pictures in flight, then the same command.

    Kills: a picture that depends on the split, one that is lost or there twice after a kill.
    """
    many = tmp_path / "many.txt"
    many.write_text("".join(f"{CAPTIONS[number % 5]}\n" for number in range(100)))
    assert run("generate", "--prompts", many, "--out", "one", *FAST)[0] == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["-m", "sjd2", "generate", "--prompts", str(many)]
    command += ["--out", "two", *FAST, "--model", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    going = subprocess.Popen(command, env=environment, start_new_session=True)
    while len(files("two")) < 10 and going.poll() is None:
        time.sleep(0.05)
    os.killpg(going.pid, signal.SIGKILL)
    going.wait()
    assert 10 <= len(files("two")) < 100
    assert subprocess.run(command, env=environment, timeout=600).returncode == 0
    assert files("two") == files("one")
    rows = [row for path in sorted(Path("two").glob("*.jsonl")) for row in lines(path)]
    assert sorted(row["id"] for row in rows) == sorted(name[:-4] for name in files("one"))
