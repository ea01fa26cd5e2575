"""Files are whole or not there."""

import pytest

from sjd2.files import check_target, write_atomically


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_write_atomically_leaves_nothing_when_the_writer_fails(tmp_path, error):
    """Kills: `except Exception` in place of `BaseException`, and writing to the final name."""

    def writer(file):
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomically(tmp_path / "a.png", writer)
    assert list(tmp_path.iterdir()) == []


def test_write_atomically_keeps_the_old_file_when_the_writer_fails(tmp_path):
    """Kills: opening the final name with "wb" when force is given."""
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def writer(file):
        file.write(b"new")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, writer, force=True)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_write_atomically_spares_a_file_that_appeared_since_the_check(tmp_path):
    """Kills: leaving out the second look before the replacement."""
    path = tmp_path / "a.png"
    check_target(path, force=False)
    with pytest.raises(ValueError, match="exists already; --force replaces it"):
        write_atomically(path, lambda file: path.write_bytes(b"another's"))
    assert path.read_bytes() == b"another's"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_check_target_refuses_what_cannot_be_written_and_leaves_no_trace(tmp_path):
    """Kills: making the folders in the check, and asking permission bits alone."""
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be written"):
        check_target(file / "a.png", force=True)
    with pytest.raises(ValueError, match="cannot be written"):
        check_target(tmp_path / ("x" * 300 + ".png"), force=True)
    with pytest.raises(ValueError, match="is a folder"):
        check_target(tmp_path, force=True)
    with pytest.raises(ValueError, match="exists already"):
        check_target(file, force=False)
    check_target(file, force=True)
    check_target(tmp_path / "new" / "deep" / "a.png", force=False)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
