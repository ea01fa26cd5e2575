"""`sjd2 convert`: an old checkpoint becomes a safetensors file, or nothing does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sjd2.cli import main
from tests.cli.requests import everything_in, one_line
from tests.pixels.test_vqgan import Evil, tiny


def convert(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    return main(["convert", *arguments]), *capsys.readouterr()


def test_convert_writes_the_decoder_alone(tmp_path: Path, capsys: Any) -> None:
    """Kills: an encoder carried along; a file replaced without being asked to."""
    state = tiny().state_dict()
    torch.save({"state_dict": {**state, "encoder.x": torch.zeros(2)}}, "old.ckpt")
    assert convert(capsys, "old.ckpt", "new.safetensors") == (0, "new.safetensors\n", "")
    assert load_file(tmp_path / "new.safetensors").keys() == state.keys()
    assert one_line(convert(capsys, "old.ckpt", "new.safetensors"), "exists already")
    assert convert(capsys, "old.ckpt", "new.safetensors", "--force")[0] == 0


def test_convert_refuses_what_it_cannot_read(tmp_path: Path, capsys: Any) -> None:
    """Kills: code run out of a checkpoint; a file begun before the old one was read."""
    Path("text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": tiny().state_dict(), "callback": Evil()}, "evil.ckpt")
    torch.save({"a": torch.zeros(2)}, "other.ckpt")
    Path("half.ckpt").write_bytes(Path("other.ckpt").read_bytes()[:200])
    save_file({"a": torch.zeros(2)}, "done.ckpt")
    before = everything_in(tmp_path)
    for name, fragment in [
        ("text.ckpt", "text.ckpt: not a whole checkpoint, as torch.save writes one"),
        ("half.ckpt", "half.ckpt: not a whole checkpoint, as torch.save writes one"),
        ("done.ckpt", "as torch.save writes one: it is a safetensors file already"),
        ("evil.ckpt", "evil.ckpt: not a checkpoint of tensors alone"),
        ("other.ckpt", "other.ckpt: no VQGAN decoder"),
        ("nowhere.ckpt", "nowhere.ckpt: no such file"),
    ]:
        assert one_line(convert(capsys, name, "new.safetensors"), fragment)
    assert one_line(convert(capsys, "evil.ckpt", "new.bin"), "new.bin: must end in .safetensors")
    assert everything_in(tmp_path) == before
