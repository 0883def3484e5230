"""ADD's archives: what is one, and where its files land."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from stagewright.errors import IntegrityError
from stagewright.snapshots.extract import is_archive, unpack_archive


def archive(*members: tuple[str, dict[str, object], bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, fields, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "image"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield path, fd
    os.close(fd)


ONE_FILE = archive(("f", {}, b"x"))
PACKERS: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress]


@pytest.mark.parametrize("pack", PACKERS)
def test_archives_are_known_and_unpacked(folder: tuple[Path, int], pack: Callable[[bytes], bytes]) -> None:
    file = io.BytesIO(pack(ONE_FILE))
    assert is_archive(file)
    unpack_archive(file, folder[1])
    assert (folder[0] / "f").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["BZh9", "\x1f\udc8b\x08", "(\udcb5/\udcfd", "\udcfd7zXZ"])
def test_a_files_name_is_no_compression(name: str) -> None:
    assert is_archive(io.BytesIO(archive((name, {}, b""))))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"a text\n" * 1000,
        bytes(10240),
        gzip.compress(b"a text, compressed\n" * 1000),
        gzip.compress(ONE_FILE)[:40],
        b"\x1f\x8b no gzip",
        b"PK\3\4" + bytes(1000),
        ONE_FILE[:300],
    ],
)
def test_other_files_are_not(data: bytes) -> None:
    file = io.BytesIO(data)
    assert not is_archive(file)
    assert file.tell() == 0


def test_folders_are_merged_and_files_replaced(folder: tuple[Path, int]) -> None:
    path, fd = folder
    (path / "d").mkdir()
    (path / "d" / "kept").touch()
    (path / "d" / "f").write_text("old")
    (path / "x").mkdir()
    (path / "x" / "gone").touch()
    members = [
        ("./", {"type": tarfile.DIRTYPE, "mode": 0o700, "uid": 9}, b""),
        ("d", {"type": tarfile.DIRTYPE, "mode": 0o711, "mtime": 99}, b""),
        ("d/f", {"mode": 0o4755, "uid": 3, "gid": 4}, b"new"),
        ("x", {}, b"file"),
        ("new/deep/f", {"mtime": 77}, b""),
        (".wh.d", {}, b"ordinary"),
    ]
    unpack_archive(io.BytesIO(archive(*members)), fd)
    assert sorted(os.listdir(path)) == [".wh.d", "d", "new", "x"]
    assert sorted(os.listdir(path / "d")) == ["f", "kept"]
    assert ((path / "d" / "f").read_text(), (path / "x").read_text()) == ("new", "file")
    info = os.stat(path / "d" / "f")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o4755, 3, 4)
    info = os.stat(path / "d")
    assert (stat.S_IMODE(info.st_mode), info.st_mtime) == (0o711, 99)
    assert (os.stat(path / "new").st_mtime, os.stat(path).st_uid) == (77, 0)


def test_the_owner_can_be_given(folder: tuple[Path, int]) -> None:
    members = [
        ("d", {"type": tarfile.DIRTYPE, "uid": 1}, b""),
        ("d/f", {"uid": 2}, b""),
        ("new/l", {"type": tarfile.SYMTYPE, "linkname": "x", "uid": 3}, b""),
    ]
    unpack_archive(io.BytesIO(archive(*members)), folder[1], owner=(55, 66))
    for name in ("d", "d/f", "new", "new/l"):
        info = os.lstat(folder[0] / name)
        assert (info.st_uid, info.st_gid) == (55, 66)


def test_links_of_the_image_are_followed_within_it(folder: tuple[Path, int]) -> None:
    path, fd = folder
    (path / "usr" / "lib").mkdir(parents=True)
    (path / "run").mkdir()
    (path / "lib").symlink_to("usr/lib")
    (path / "var").symlink_to("/run")
    unpack_archive(io.BytesIO(archive(("lib/a", {}, b"1"), ("var/b", {}, b"2"), ("/abs", {}, b"3"))), fd)
    assert (path / "usr" / "lib" / "a").read_text() == "1"
    assert (path / "run" / "b").read_text() == "2"
    assert (path / "abs").read_text() == "3"
    assert (path / "lib").is_symlink()


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", {}, b"x")],
        [("l", {"type": tarfile.SYMTYPE, "linkname": "../outside"}, b""), ("l/evil", {}, b"x")],
        [("l", {"type": tarfile.SYMTYPE, "linkname": "OUTSIDE"}, b""), ("l/evil", {}, b"x")],
        [("h", {"type": tarfile.LNKTYPE, "linkname": "../outside/victim"}, b"")],
        [("h", {"type": tarfile.LNKTYPE, "linkname": "OUTSIDE/victim"}, b"")],
    ],
)
def test_nothing_is_written_outside(
    folder: tuple[Path, int], tmp_path: Path, members: list[tuple[str, dict[str, object], bytes]]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").touch()
    for _, fields, _ in members:
        if "linkname" in fields:
            fields["linkname"] = str(fields["linkname"]).replace("OUTSIDE", str(outside))
    with pytest.raises(IntegrityError):
        unpack_archive(io.BytesIO(archive(*members)), folder[1])
    assert sorted(os.listdir(tmp_path)) == ["image", "outside"]
    assert os.listdir(outside) == ["victim"]
    assert os.stat(outside / "victim").st_nlink == 1
