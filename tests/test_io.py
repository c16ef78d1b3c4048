"""Files, directories and paths."""

import errno
import os
import stat
import sys

import numpy as np
import pytest

import hyperion
from hyperion import HyperionIOError, InvalidArgumentError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file types and permissions")


@pytest.mark.parametrize("make", [str, lambda p: p])
def test_what_is_written_is_read(tmp_path, make):
    path = make(tmp_path / "f.bin")
    assert not hyperion.file_exists(path)
    data = bytes(range(256)) * 9
    assert hyperion.write_file(path, data) == len(data)
    assert hyperion.file_exists(path)
    assert hyperion.read_file(path) == data
    assert hyperion.read_file(path, size=5) == data[:5]
    assert not hyperion.file_exists(tmp_path)
    assert hyperion.list_dir(tmp_path) == ["f.bin"]


def test_buffers_in_and_out(tmp_path):
    path = tmp_path / "f"
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert hyperion.write_file(path, array) == 48
    back = np.zeros((4, 4), np.float32)
    assert hyperion.read_file(path, back) == 48
    np.testing.assert_array_equal(back[:3], array)
    assert not back[3].any()
    with hyperion.alloc(64) as block:
        assert hyperion.read_file(path, block, 8) == 8
        assert bytes(memoryview(block)[:8]) == array.tobytes()[:8]
    assert hyperion.write_file(path, array, 4) == 4
    assert hyperion.read_file(path) == array.tobytes()[:4]
    assert hyperion.write_file(path, "ärger\n") == 7
    assert hyperion.read_file(path).decode() == "ärger\n"
    for empty in (b"", np.zeros((0, 3))):
        assert hyperion.write_file(path, empty) == 0
        assert hyperion.read_file(path) == b""
        assert hyperion.read_file(path, bytearray()) == 0


def test_a_buffer_that_does_not_serve(tmp_path):
    path = tmp_path / "f"
    hyperion.write_file(path, bytes(10))
    for bad in (bytes(10), np.zeros(40, np.uint8)[::4], object(), "text"):
        with pytest.raises(InvalidArgumentError):
            hyperion.read_file(path, bad)
    small = bytearray(9)
    with pytest.raises(InvalidArgumentError, match="9 bytes.*has 10"):
        hyperion.read_file(path, small)
    with pytest.raises(InvalidArgumentError, match="9 bytes, 10 are"):
        hyperion.read_file(path, small, 10)
    with pytest.raises(HyperionIOError, match="10"):
        hyperion.read_file(path, bytearray(20), 11)
    with pytest.raises(HyperionIOError, match="10"):
        hyperion.read_file(path, size=1 << 60)
    for bad in (-1, True, 1.0):
        with pytest.raises(InvalidArgumentError):
            hyperion.read_file(path, size=bad)
        with pytest.raises(InvalidArgumentError):
            hyperion.write_file(path, b"abc", bad)
    for bad in (None, 3, np.zeros(8)[::2], "\ud800"):
        with pytest.raises(InvalidArgumentError):
            hyperion.write_file(path, bad)
    assert hyperion.read_file(path) == bytes(10)


def test_paths_that_do_not_serve(tmp_path):
    for bad in (None, 3, "a\0b"):
        for function in (hyperion.file_exists, hyperion.read_file, hyperion.list_dir, hyperion.create_dir, hyperion.get_base_name):
            with pytest.raises(InvalidArgumentError):
                function(bad)
    with pytest.raises(HyperionIOError, match="nothing") as caught:
        hyperion.read_file(tmp_path / "nothing")
    assert caught.value.context["errno"] == errno.ENOENT
    for doing in (lambda p: hyperion.read_file(p), lambda p: hyperion.write_file(p, b"x")):
        with pytest.raises(HyperionIOError):
            doing(tmp_path)
    with pytest.raises(HyperionIOError):
        hyperion.write_file(tmp_path / "no" / "f", b"x")
    with pytest.raises(HyperionIOError):
        hyperion.list_dir(tmp_path / "no")
    assert hyperion.list_dir(tmp_path) == []


@POSIX
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for doing in (lambda p: hyperion.read_file(p), lambda p: hyperion.write_file(p, b"x")):
        with pytest.raises(HyperionIOError, match="not a regular file"):
            doing(tmp_path / "pipe")


@POSIX
def test_permissions_and_links_survive_a_new_content(tmp_path):
    secret, link = tmp_path / "secret", tmp_path / "link"
    secret.write_bytes(b"old")
    secret.chmod(0o600)
    link.symlink_to(secret)
    hyperion.write_file(link, b"new")
    assert link.is_symlink()
    assert secret.read_bytes() == b"new"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def failing(*args):
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(HyperionIOError, match="the disk is full"):
        hyperion.write_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert hyperion.list_dir(tmp_path) == ["f"]


def test_directories(tmp_path):
    folder = hyperion.join_path(tmp_path, "a", "b")
    hyperion.create_dir(folder)
    hyperion.create_dir(folder)
    assert hyperion.list_dir(tmp_path) == ["a"]
    for name in ("z", "y", "B"):
        hyperion.write_file(hyperion.join_path(folder, name), name)
    assert hyperion.list_dir(folder) == ["B", "y", "z"]
    with pytest.raises(HyperionIOError):
        hyperion.create_dir(hyperion.join_path(folder, "z"))


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [("a/b.txt", "a", "b.txt"), ("b", ".", "b"), ("a/b/", "a", "b"), ("a/../b", os.path.join("a", ".."), "b"), ("", ".", "")],
)
def test_parts_of_a_path(path, folder, name):
    assert hyperion.get_dir_name(path) == folder
    assert hyperion.get_base_name(path) == name


def test_joining():
    assert hyperion.join_path("a", "b", "c.d") == os.path.join("a", "b", "c.d")
    assert hyperion.join_path("a/", "b") == os.path.join("a", "b")
    absolute = os.path.abspath("x")
    assert hyperion.join_path("a", absolute) == absolute
    assert hyperion.get_dir_name(hyperion.join_path("a", "b")) == "a"
