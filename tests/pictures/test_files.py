"""Picture files have the format and the name that the caller expects."""

import stat
from pathlib import Path

import pytest
from PIL import Image

from sjd2.pictures.files import file_name, picture_paths, write_picture


def test_written_files_have_the_usual_permissions(tmp_path):
    """Kills: tempfile.NamedTemporaryFile, whose files only their owner can read."""
    usual = tmp_path / "usual"
    usual.write_bytes(b"")
    write_picture(tmp_path / "a.png", Image.new("RGB", (4, 4)))
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (usual, tmp_path / "a.png")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "PNG"), ("b/a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")],
)
def test_pictures_are_saved_in_the_format_of_their_ending(tmp_path, name, kind):
    """Kills: always saving PNG, and not making the folder."""
    write_picture(tmp_path / name, Image.new("RGBA", (5, 7)))
    with Image.open(tmp_path / name) as picture:
        assert (picture.format, picture.size) == (kind, (5, 7))


def test_one_picture_gets_the_very_name_and_several_are_numbered():
    """Kills: numbering a single picture, and counting from 0."""
    assert picture_paths("x/cat.png", ["a"]) == [Path("x/cat.png")]
    assert picture_paths("cat.WEBP", ["a", "b"]) == [Path("cat-1.WEBP"), Path("cat-2.WEBP")]


def test_folders_take_readable_names_all_different(tmp_path):
    """Kills: letting two pictures share a path, where the second would replace the first."""
    odd = tmp_path / "folder.png"
    odd.mkdir()
    for out in (str(odd), "new", "v1.2/"):
        paths = picture_paths(out, ["a", "a", "a-2"])
        assert len(set(paths)) == 3
        assert paths[:2] == [Path(out) / "a.png", Path(out) / "a-2.png"]


def test_a_file_of_another_format_is_refused():
    """Kills: taking "cat.gif" for the name of a folder."""
    with pytest.raises(ValueError, match=r"cat\.gif: pictures end in \.png"):
        picture_paths("cat.gif", ["a"])


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("A red ring, above!", "a-red-ring-above"),
        ("../../etc/passwd", "etc-passwd"),
        ("Ein süßer Hund", "ein-süßer-hund"),
        ("?!", "picture"),
        ("x" * 99, "x" * 48),
        ("word " * 20, "-".join(["word"] * 9)),
    ],
)
def test_file_names_are_the_words_of_the_caption(caption, name):
    """Kills: keeping slashes, cutting inside a word, and an empty name."""
    assert file_name(caption) == name
