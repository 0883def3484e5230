"""The files of cache mounts, packed and brought back."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import zstandard

from stagewright import privilege
from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError
from stagewright.image.descriptor import Descriptor
from stagewright.travel.files import FileList, Pack
from stagewright.travel.mounts import matching, travels
from stagewright.travel.packing import pack_folder
from stagewright.travel.restoring import restore


@pytest.fixture(autouse=True)
def _anybody_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "require", lambda: None)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "content")


def packed(folder: Path, blobs: BlobStore, known: tuple[Pack, ...] = ()) -> FileList:
    files = pack_folder(str(folder), blobs, known, lambda: None, lambda path: None)
    assert FileList.from_bytes(files.to_bytes()) == files
    return files


def unpacked(files: FileList, blobs: BlobStore, folder: Path) -> Path:
    folder.mkdir()
    restore(files, str(folder), blobs, lambda blob: None, lambda: None)
    return folder


def listing(folder: Path) -> dict[str, object]:
    """All that counts of the files below a folder."""
    found: dict[str, object] = {}
    inodes: dict[int, str] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        name, info = str(path.relative_to(folder)), path.lstat()
        if path.is_symlink():
            content: object = os.readlink(path)
        else:
            content = path.read_bytes() if path.is_file() else None
        first = inodes.setdefault(info.st_ino, name)
        found[name] = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, content, first)
    return found


def fill(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(count):
        (folder / "deep" / f"{number}").write_bytes(b"%d" % number * 1000)
    (folder / "same").write_bytes(b"0" * 1000)
    (folder / "empty").touch(mode=0o640)
    (folder / "program").write_text("#!/bin/sh\n")
    (folder / "program").chmod(0o755)
    (folder / "link").symlink_to("../../etc/passwd")
    os.link(folder / "program", folder / "deep" / "other-name")
    (folder / b"odd \xff name".decode(errors="surrogateescape")).write_text("odd")
    (folder / "deep" / "er").chmod(0o500)
    os.utime(folder / "program", ns=(1, 123456789))
    os.utime(folder / "deep", ns=(1, 987654321987654321))
    os.utime(folder, ns=(1, 5))
    return folder


def test_all_comes_back_as_it_was(tmp_path: Path, blobs: BlobStore) -> None:
    source = fill(tmp_path / "source")
    assert listing(unpacked(packed(source, blobs), blobs, tmp_path / "target")) == listing(source)


def test_equal_folders_are_equal_bytes(tmp_path: Path, blobs: BlobStore) -> None:
    source = fill(tmp_path / "source")
    first = packed(source, blobs)
    assert packed(unpacked(first, blobs, tmp_path / "target"), blobs).to_bytes() == first.to_bytes()


def test_only_what_is_new_is_packed(tmp_path: Path, blobs: BlobStore) -> None:
    source = fill(tmp_path / "source", count=50)
    first = packed(source, blobs)
    (source / "new").write_bytes(b"new")
    second = packed(source, blobs, first.packs)
    assert set(second.packs) > set(first.packs)
    (pack,) = set(second.packs) - set(first.packs)
    assert [size for _, size in pack.contents] == [3]
    assert listing(unpacked(second, blobs, tmp_path / "target")) == listing(source)


def test_a_pack_that_is_hardly_used_is_given_up(tmp_path: Path, blobs: BlobStore) -> None:
    source = fill(tmp_path / "source", count=50)
    first = packed(source, blobs)
    for number in range(1, 50):
        (source / "deep" / f"{number}").unlink()
    second = packed(source, blobs, first.packs)
    assert not set(second.packs) & set(first.packs)


def test_what_is_no_file_is_left_out(tmp_path: Path, blobs: BlobStore) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
    with open(source / "huge", "wb") as file:
        file.truncate(1 << 40)
    left_out: list[str] = []
    files = pack_folder(str(source), blobs, (), lambda: None, left_out.append)
    assert [entry.path for entry in files.entries] == [""]
    assert left_out == ["huge"]


def changed(files: FileList, change: dict[str, object], index: int = 1) -> bytes:
    """The list with other values in one of its entries."""
    document = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(files.to_bytes()))
    document["entries"][index] |= change
    return zstandard.ZstdCompressor().compress(json.dumps(document).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../x"},
        {"path": "/etc/x"},
        {"path": "a/../../x"},
        {"path": "missing/x"},
        {"path": "a\0b"},
        {"path": ""},
        {"path": "."},
        {"path": "b"},
        {"path": "\ud800"},
        {"kind": "fifo"},
        {"kind": "hard", "target": "../../etc/passwd"},
        {"kind": "hard", "target": "b"},
        {"kind": "link", "target": ""},
        {"kind": "file", "target": "sha256:" + "0" * 64},
        {"mode": 0o10000},
        {"uid": -1},
        {"gid": (1 << 32) - 1},
        {"mtime": "now"},
        {"xattrs": 3},
        {"xattrs": [["user.a"]]},
        {"xattrs": [["user.a", "?"]]},
        {"xattrs": [["user.\ud800", "YQ=="]]},
        {"xattrs": [["user.a\0", "YQ=="]]},
        {"xattrs": [["trusted.a", "YQ=="]]},
        {"xattrs": [["user.overlay.opaque", "eQ=="]]},
        {"xattrs": [["user.stagewright.owner", "MTox"]]},
        {"kind": "link", "target": "a", "xattrs": [["user.a", "YQ=="]]},
    ],
)
def test_a_list_that_leads_out_is_refused(tmp_path: Path, blobs: BlobStore, change: dict[str, object]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("a")
    (source / "b").write_text("b")
    # "b" comes behind "a": a name that is there twice, and a hard link to what is not there yet.
    order = packed(source, blobs)
    data = changed(order, change, 2 if change == {"path": "b"} else 1)
    if change == {"path": "b"}:
        data = changed(order, {"path": "a"}, 2)
    with pytest.raises(IntegrityError):
        FileList.from_bytes(data)


def test_nothing_is_written_through_a_link(tmp_path: Path, blobs: BlobStore) -> None:
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    (source / "a" / "file").write_text("x")
    with pytest.raises(IntegrityError, match="not in a folder"):
        FileList.from_bytes(changed(packed(source, blobs), {"kind": "link", "target": "/etc"}))


@pytest.mark.parametrize("data", [b"", b"junk", zstandard.ZstdCompressor().compress(b"{}")])
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        FileList.from_bytes(data)


def test_a_damaged_pack_is_refused(tmp_path: Path, blobs: BlobStore) -> None:
    files = packed(fill(tmp_path / "source"), blobs)
    for data in (
        b"junk",
        zstandard.ZstdCompressor().compress(b"short"),
        zstandard.ZstdCompressor().compress(bytes(9999)),
    ):
        blobs.path(files.packs[0].digest).write_bytes(data)
        target = tmp_path / str(len(data))
        with pytest.raises(IntegrityError):
            unpacked(files, blobs, target)


def test_ids_are_as_dockerfiles_have_them() -> None:
    hexes = "0123456789abcdef"
    identities = ["pip", f"pip@{hexes}", f"pip@@{hexes}", "pip2"]
    assert matching(["pip", "npm"], identities) == {"pip": ["pip", f"pip@{hexes}"], "npm": []}
    assert [travels(identity) for identity in identities] == [True, True, False, True]


def test_descriptors_are_of_the_blobs(tmp_path: Path, blobs: BlobStore) -> None:
    fetched: list[Descriptor] = []
    files = packed(fill(tmp_path / "source"), blobs)
    (tmp_path / "target").mkdir()
    restore(files, str(tmp_path / "target"), blobs, fetched.append, lambda: None)
    assert [(blob.digest, blob.size) for blob in fetched] == [(pack.digest, pack.size) for pack in files.packs]
