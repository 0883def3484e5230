"""Archives that were made to harm: layers and what ADD unpacks. Little memory, a clear error, nothing outside."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from limited import limited
from stagewright.errors import IntegrityError, StagewrightError, StoreError
from stagewright.snapshots import treewriter
from stagewright.snapshots.extract import unpack_archive
from stagewright.snapshots.store import Draft
from stagewright.snapshots.tree import remove_tree
from stagewright.snapshots.unpack import apply

Member = tuple[str, bytes, str]
Unpack = Callable[[bytes, Path], None]
FILE, FOLDER, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def as_layer(data: bytes, folder: Path) -> None:
    apply(io.BytesIO(data), Draft(None, str(folder), str(folder), str(folder)), tuple)


def as_archive(data: bytes, folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpack_archive(io.BytesIO(data), descriptor)
    finally:
        os.close(descriptor)


both_ways = pytest.mark.parametrize("unpack", [as_layer, as_archive])


def archive(*members: Member, headers: dict[str, str] | None = None) -> bytes:
    """A tar archive; before each member stand the extended headers, if any are given."""
    extended = b"".join(record(key, value) for key, value in (headers or {}).items())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, text in members:
            if extended:
                info = tarfile.TarInfo("headers")
                info.type, info.size = tarfile.XHDTYPE, len(extended)
                tar.addfile(info, io.BytesIO(extended))
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if kind == FILE:
                info.size = len(text)
            else:
                info.linkname = text
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def record(key: str, value: str) -> bytes:
    """An extended header. To write many, `tarfile` takes a time that grows with the square of their number."""
    text = f" {key}={value}\n".encode()
    length = len(text) + len(str(len(text) + len(str(len(text)))))
    return str(length).encode() + text


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where archives are unpacked, beside a folder that must stay as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("kept")
    before = traces(tmp_path)
    inside = tmp_path / "inside"
    inside.mkdir()
    yield inside
    remove_tree(str(inside))
    assert traces(tmp_path) == before


def traces(root: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = [tuple(sorted(os.listdir(root)))]
    for path in (root / "outside", root / "outside" / "victim"):
        info = os.lstat(path)
        found.append((path, info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns, info.st_ctime_ns))
    return found


CHANGES: dict[str, list[Member]] = {
    "a folder, a link, a folder": [
        ("d", FOLDER, ""), ("d/f", FILE, "1"), ("d", LINK, "../outside"), ("d", FOLDER, ""), ("d/g", FILE, "2"),
    ],
    "a folder becomes a link out": [
        ("d", FOLDER, ""), ("d/f", FILE, "1"), ("d", LINK, "../outside"), ("d/v", FILE, "2"),
    ],
    "a link in an open folder": [
        ("a/b", FOLDER, ""), ("a/b/f", FILE, "1"), ("a", LINK, "../outside"), ("a/b/g", FILE, "2"),
    ],
    "a file of another name": [("h", FILE, "1"), ("l", LINK, "../outside/victim"), ("h", HARD, "l"), ("h", FILE, "2")],
    "a pipe in place of a file": [("f", FILE, "1"), ("f", tarfile.FIFOTYPE, ""), ("f", FILE, "2")],
    "the root as a link": [(".", LINK, "../outside"), ("./victim", FILE, "2")],
    "the root as a file": [("./", FILE, "x"), ("f", FILE, "2")],
    "the parent as a link": [("p/q", FOLDER, ""), ("p", LINK, "../../outside"), ("p/q/../victim", FILE, "2")],
    "one name a thousand times": [("f", FILE, str(number)) for number in range(1000)],
    "whiteouts in odd places": [
        ("d/.wh..wh..opq/f", FILE, ""), (".wh..wh.plnk/1.2", FILE, ""), (".wh.d", FOLDER, ""), ("d/.wh.f/g", FILE, ""),
    ],
}  # fmt: skip


@both_ways
@pytest.mark.parametrize("case", CHANGES)
def test_members_that_change_their_kind(folder: Path, unpack: Unpack, case: str) -> None:
    """Whether they can be unpacked or not, they stay inside."""
    try:
        unpack(archive(*CHANGES[case]), folder)
    except IntegrityError as error:
        assert "archive member" in error.message


LONG = "/".join(["d"] * 10_000)
REFUSED: dict[str, tuple[bytes, str]] = {
    "ten thousand folders": (archive((f"{LONG}/f", FILE, "")), "cannot be written: File name too long"),
    "a link to ten thousand folders": (archive(("l", LINK, LONG)), "cannot be written: File name too long"),
    "a hard link to ten thousand folders": (archive(("h", HARD, LONG)), "cannot be written: File name too long"),
    "a name with terminal escapes": (archive(("../\x1b[2J\n", FILE, "")), r"member '../\\x1b\[2J\\n' leads out"),
    "a name with a NUL": (archive(("f", FILE, ""), headers={"path": "a\0b"}), "a name with a NUL byte"),
    "a link with a NUL": (archive(("f", LINK, "x"), headers={"linkpath": "a\0b"}), "a name with a NUL byte"),
    "an attribute of a megabyte": (
        archive(("f", FILE, ""), headers={"SCHILY.xattr.user.a": "x" * 900_000}),
        "cannot write archive member 'f'",
    ),
    "thirty thousand attributes": (
        archive(("f", FILE, ""), headers={f"SCHILY.xattr.user.a{number}": "v" * 9 for number in range(25_000)}),
        "cannot write archive member 'f'",
    ),
    "an attribute without a name": (archive(("f", FILE, ""), headers={"SCHILY.xattr.": "x"}), "archive member 'f'"),
    "headers of two megabytes": (
        archive(("f", FILE, ""), headers={f"a{number}": "x" * 1000 for number in range(2000)}),
        "tar header is larger than 1048576 bytes",
    ),
    "an owner beyond all": (
        archive(("f", FILE, ""), headers={"uid": str(1 << 32)}),
        "archive member 'f' has an impossible owner 4294967296:0",
    ),
    "a size beyond all": (archive(("f", FILE, ""), headers={"size": str(1 << 62)}), "impossible size"),
    "a size that is not there": (archive(("f", FILE, ""), headers={"size": str(1 << 60)}), "ends too early inside 'f'"),
    "half an archive": (archive(("f", FILE, "x" * 5000))[:3000], "ends too early inside 'f'"),
}  # fmt: skip


@both_ways
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(folder: Path, unpack: Unpack, case: str) -> None:
    data, message = REFUSED[case]
    with pytest.raises(StagewrightError, match=message):
        unpack(data, folder)


@both_ways
def test_an_archive_behind_an_archive_is_not_read(folder: Path, unpack: Unpack) -> None:
    unpack(archive(("f", FILE, "1")) + archive(("g", FILE, "2")), folder)
    assert os.listdir(folder) == ["f"]


@both_ways
def test_names_of_any_bytes_are_kept(folder: Path, unpack: Unpack) -> None:
    names = [b"line\nfeed", b"\x1b[31mred", b"caf\xe9", b" ", b"-rf", b"\xe2\x80\xae", b"...", b"\\..\\x"]
    unpack(archive(*((os.fsdecode(name), FILE, "") for name in names)), folder)
    assert sorted(os.listdir(os.fsencode(folder))) == sorted(names)


@both_ways
def test_more_folders_than_memory_holds(folder: Path, unpack: Unpack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treewriter, "_MAX_DIRECTORIES_BYTES", 21_000)
    with pytest.raises(IntegrityError, match="the archive has more directories than can be kept in memory"):
        unpack(archive(*((f"{number}", FOLDER, "") for number in range(200))), folder)
    unpack(archive(*((f"{number % 50}", FOLDER, "") for number in range(200))), folder)


SPARSE_MAPS = {
    "0.0": {"GNU.sparse.size": str(1 << 61), "GNU.sparse.numblocks": "1", "GNU.sparse.offset": str(1 << 60)},
    "0.1": {"GNU.sparse.size": str(1 << 61), "GNU.sparse.map": f"{1 << 60},1"},
    "1.0": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 61)},
}


@both_ways
@pytest.mark.parametrize("version", SPARSE_MAPS)
def test_files_that_claim_exabytes(folder: Path, unpack: Unpack, version: str) -> None:
    """A file system that has files of that size makes one of holes; another refuses."""
    content = {"0.0": "", "0.1": "x", "1.0": f"1\n{1 << 60}\n1\n".ljust(512, "\0") + "x"}[version]
    data = archive(("f", FILE, content), headers=SPARSE_MAPS[version])
    try:
        unpack(data, folder)
    except IntegrityError as error:
        assert "File too large" in error.message or "broken sparse map" in error.message
    else:
        assert os.stat(folder / "f").st_blocks * 512 < 1 << 20


@both_ways
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_a_full_disk(folder: Path, unpack: Unpack, pack: Callable[[bytes], bytes]) -> None:
    """A bomb fills the disk at most; the error names the member and says why."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    try:
        with pytest.raises(StoreError, match="cannot write archive member 'bomb': No space left on device"):
            unpack(pack(archive(("bomb", FILE, "\0" * (16 << 20)))), folder)
    finally:
        subprocess.run(["umount", folder], check=True)


READ = """
import io
from gzip import compress as gzip
from stagewright.errors import IntegrityError
from stagewright.snapshots.streams import decompressed
from stagewright.snapshots.tarreader import TarReader

def block(name=b"f", size=0, kind=b"0"):
    data = bytearray(512)
    data[:len(name)] = name
    data[100:108] = b"0000644\\0"
    data[124:136] = b"%011o\\0" % size if size < 8 ** 11 else b"\\x80" + size.to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[156:157] = kind
    data[257:265] = b"ustar\\00000"
    data[148:156] = b"%06o\\0 " % sum(data)
    return bytes(data)

def padded(data):
    return data.ljust(-(-len(data) // 512) * 512, b"\\0")

def pax(**records):
    out = b""
    for key, value in records.items():
        text = f" {key.replace('_', '.')}={value}\\n".encode()
        length = len(text) + len(str(len(text) + 3))
        out += str(length).encode() + text
    return block(b"x", len(out), b"x") + padded(out)

class Stream:
    def __init__(self, pieces):
        self.pieces = iter(pieces)
    def read(self, size):
        return next(self.pieces, b"")

def repeat(piece, count, head=b""):
    if head:
        yield head
    for _ in range(count):
        yield piece

def count(stream):
    members = 0
    for entry in TarReader(stream):
        members += 1
    return members

try:
    print(count(STREAM))
except IntegrityError as error:
    print(error.message)
"""
MAP = 'pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize="9")'
STREAMS = {
    "a sparse map without line ends (CVE-2025-58183)": (
        f'Stream(repeat(b"1" * (1 << 20), 4000, {MAP} + block(size=1 << 32)))',
        "broken sparse map",
    ),
    "a sparse map of zeros": (
        f'Stream(repeat(b"0\\n" * (1 << 19), 4000, {MAP} + block(size=1 << 32) + b"262144\\n"))',
        "broken sparse map",
    ),
    "a long name behind a long name": (
        'Stream(repeat(block(b"l", 1 << 20, b"L") + b"x" * (1 << 20), 1000))',
        "0",
    ),
    "a sparse file with headers without end": (
        'Stream(repeat((b"00000000001\\0" * 42 + b"\\1").ljust(512, b"\\0") * 512, 4000, OLD))',
        "too many sparse regions",
    ),
    "two hundred thousand members": ('Stream(repeat(block() * 1000, 200))', "200000"),
    "a member of eight exabytes": ('Stream(repeat(bytes(1 << 20), 3000, block(size=1 << 61)))', "ends too early"),
    "two hundred thousand gzip members": ('decompressed(Stream(repeat(gzip(b"") * 1000, 200, gzip(block()))))', "1"),
    "a gigabyte in a megabyte of gzip": (
        'decompressed(Stream(repeat(gzip(bytes(1 << 20)), 1000, gzip(block(size=1 << 40)))))',
        "ends too early inside 'f'",
    ),
    "zstd that wants a gigabyte": (
        'decompressed(io.BytesIO(bytes.fromhex("28b52ffd00a0010000")))',
        "zstd data is damaged",
    ),
    "skippable frames of zstd": ('decompressed(Stream(repeat(SKIPPABLE * 10000, 100, SKIPPABLE)))', "0"),
}  # fmt: skip
PRELUDE = """
OLD = bytearray(block(size=1 << 40, kind=b"S"))
OLD[386:386 + 97] = (b"00000000001\\0" * 8) + b"\\1"
OLD[148:156] = b" " * 8
OLD[148:156] = b"%06o\\0 " % sum(OLD)
OLD = bytes(OLD)
SKIPPABLE = bytes.fromhex("502a4d1800000000")
"""


@pytest.mark.parametrize("case", STREAMS)
def test_endless_streams_take_little_memory(case: str) -> None:
    stream, expected = STREAMS[case]
    code = READ.replace("try:\n    print(count", PRELUDE + "try:\n    print(count").replace("STREAM", stream)
    assert expected in limited(code, memory=512 << 20)
