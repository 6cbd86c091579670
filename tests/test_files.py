"""A file is replaced atomically or not at all."""

import io
import os
import sys
from pathlib import Path

import pytest

from gan_tutorial import files


def test_replacing_keeps_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with files.replacing(path) as temporary:
        temporary.write_text("first")
        assert temporary.parent == path.parent, "a rename works on one disk only"
        assert temporary.suffix == path.suffix, "writers infer the format from the suffix"
        assert not path.exists()
    with files.replacing(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_overwrites_the_temporary_file_of_a_killed_process(tmp_path):
    path = tmp_path / "file.txt"
    block = files.replacing(path)
    block.__enter__().write_text("left behind by a process that was killed here")
    with files.replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):  # only to close the killed writer's block
        block.__exit__(None, None, None)


def test_replacing_puts_the_content_on_the_disk_before_it_renames(tmp_path, monkeypatch):
    """Else a power cut may leave the new name without the content."""
    done, rename = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_size))
    monkeypatch.setattr(Path, "replace", lambda *paths: done.append("renamed") or rename(*paths))
    with files.replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("new")
    assert done == [len("new"), "renamed"]


def test_replacing_raises_if_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "file.txt"):
        pass


def test_replacing_refuses_what_is_no_ordinary_file(tmp_path):
    """Such as a device: as root, /dev/null would become a file."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with (
        pytest.raises(ValueError, match="pipe is not a regular file, so it is not replaced"),
        files.replacing(path) as temporary,
    ):
        temporary.write_text("new")
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("ascii", rb"28\xd728 \u03b3 \udcff"), ("utf-8", "28×28 γ ".encode() + rb"\udcff")],
)
def test_any_text_can_be_printed(encoding, printed, monkeypatch):
    """Even a file name that is not UTF-8, which Python reads with a lone surrogate."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    with pytest.raises(UnicodeEncodeError):
        print("\udcff")
    files.escape_output()
    print("28×28 γ \udcff", end="", flush=True)
    assert raw.getvalue() == printed
