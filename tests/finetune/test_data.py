"""Captioned pictures: every shape they come in, and what is said of what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sjd2.demo.pictures import write_pictures
from sjd2.finetune import data
from sjd2.finetune.data import picture_tokens, read_examples


def paint(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)


def captions(source: Path) -> list[str]:
    return [example.caption for example in read_examples(str(source))]


def test_a_folder_with_a_text_beside_each_picture(tmp_path: Path) -> None:
    """Kills: an order of the file system; captions with their line ends."""
    for name in ("b", "a/c"):
        paint(tmp_path / f"{name}.png", 7)
        (tmp_path / f"{name}.txt").write_text(f"a {name[-1]}\n")
    examples = read_examples(str(tmp_path))
    assert [example.caption for example in examples] == ["a c", "a b"]
    assert examples[0].open().getpixel((0, 0)) == (7, 0, 0)


def test_json_lines_name_pictures_beside_them(tmp_path: Path) -> None:
    """Kills: paths relative to the working directory; one spelling of the columns only."""
    paint(tmp_path / "x.png", 9)
    lines = [{"image": "x.png", "caption": "an x"}, {"file_name": "x.png", "text": "the x"}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert captions(tmp_path / "d.jsonl") == ["an x", "the x"]
    (tmp_path / "d.jsonl").rename(tmp_path / "metadata.jsonl")
    assert captions(tmp_path) == ["an x", "the x"]
    assert read_examples(str(tmp_path))[1].open().getpixel((0, 0)) == (9, 0, 0)


def test_a_dataset_on_disk(tmp_path: Path) -> None:
    """Kills: columns by position; pictures left as what datasets stores."""
    datasets = pytest.importorskip("datasets")
    paint(tmp_path / "x.png", 5)
    columns = {"prompt": ["an x"], "image": [str(tmp_path / "x.png")]}
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "saved"))
    (example,) = read_examples(str(tmp_path / "saved"))
    assert example.caption == "an x"
    assert example.open().getpixel((0, 0)) == (5, 0, 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{", "line 1: no JSON object"),
        ('{"image": "x.png", "caption": "x"}\n[]', "line 2: no JSON object"),
        ('{"image": "x.png"}', "line 1: has image; needs text or caption or prompt"),
        ('{"caption": "x"}', "line 1: has caption; needs image"),
        ('{"image": "x.png", "caption": " "}', "line 1: the caption is empty"),
    ],
)
def test_a_line_without_a_caption_is_named(tmp_path: Path, lines: str, message: str) -> None:
    """Kills: a line skipped in silence."""
    (tmp_path / "d.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=message):
        read_examples(str(tmp_path / "d.jsonl"))


def test_a_picture_without_a_caption_is_named(tmp_path: Path) -> None:
    """Kills: training on fewer pictures than there are."""
    paint(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: has no caption"):
        read_examples(str(tmp_path))
    (tmp_path / "x.png").unlink()
    with pytest.raises(ValueError, match="holds no pictures"):
        read_examples(str(tmp_path))


class Stub:
    """A family whose picture tokens are the shade of a corner."""

    encoded = 0

    def encode(self, pictures: list[Image.Image], processor: Any, geometry: Any) -> torch.Tensor:
        self.encoded += len(pictures)
        return torch.tensor([[picture.getpixel((0, 0))[0]] * 4 for picture in pictures])


def test_tokens_are_kept_and_an_unreadable_picture_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a cache of other pictures; work lost to one bad file; tokens in another order."""
    monkeypatch.setattr(data, "_PART", 4)
    for number in range(10):
        paint(tmp_path / "p" / f"{number}.png", number)
        (tmp_path / "p" / f"{number}.txt").write_text("x")
    good = (tmp_path / "p" / "9.png").read_bytes()
    (tmp_path / "p" / "9.png").write_bytes(good[:20])
    family, examples = Stub(), read_examples(str(tmp_path / "p"))
    with pytest.raises(ValueError, match=r"9\.png: no readable picture"):
        picture_tokens(family, None, None, examples, tmp_path / "t", batch=3)
    assert family.encoded == 8
    (tmp_path / "p" / "9.png").write_bytes(good)
    tokens = picture_tokens(family, None, None, examples, tmp_path / "t", batch=3)
    assert family.encoded == 10
    assert tokens[:, 0].tolist() == list(range(10))
    assert picture_tokens(family, None, None, examples[1:], tmp_path / "t")[:, 0].tolist() == list(
        range(1, 10)
    )


def test_the_demos_pictures_can_be_learned_from(tmp_path: Path) -> None:
    """Kills: captions of other pictures."""
    write_pictures(tmp_path, 3)
    examples = read_examples(str(tmp_path))
    assert len({example.caption for example in examples}) == 3
    assert examples[0].open().size == (96, 96)
