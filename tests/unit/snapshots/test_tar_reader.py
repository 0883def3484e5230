"""The tar reader against archives that others wrote, and against broken ones."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import IntegrityError
from stagewright.snapshots import tarreader
from stagewright.snapshots.tarreader import TarEntry, TarReader


class Trickle:
    """A stream that gives a few bytes at a time, as a network does."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data = io.BytesIO(data)
        self._most = most

    def read(self, size: int, /) -> bytes:
        return self._data.read(min(size, self._most))


def read(data: bytes, most: int = 1 << 20) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(Trickle(data, most))
    return [(entry, b"".join(reader.body())) for entry in reader]


def sparse_content(entry: TarEntry, body: bytes) -> bytes:
    content = bytearray(entry.size)
    at = 0
    for offset, length in entry.regions or ():
        content[offset : offset + length] = body[at : at + length]
        at += length
    return bytes(content)


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300).filter(
    lambda name: not name.endswith("/")
)
TYPES = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
    ]
)
MEMBERS = st.builds(
    lambda name, type, mode, uid, gid, mtime, link, data, device: (
        name,
        type,
        mode,
        uid,
        gid,
        mtime,
        link,
        data,
        device,
    ),
    NAMES,
    TYPES,
    st.integers(0, 0o7777),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
    st.integers(-(1 << 33), 1 << 40),
    NAMES,
    st.binary(max_size=2000),
    st.tuples(st.integers(0, 4095), st.integers(0, 1 << 20)),
)


@given(
    st.lists(MEMBERS, max_size=5),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(1, 1000),
)
def test_what_python_writes_is_read(members: list[tuple], format: int, most: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, encoding="utf-8") as tar:
        for name, type, mode, uid, gid, mtime, link, data, device in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid, info.mtime = type, mode, uid, gid, mtime
            info.linkname = link if type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.devmajor, info.devminor = device
            info.size = len(data) if type == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(data))
    found = read(buffer.getvalue(), most)
    assert len(found) == len(members)
    for (entry, body), (name, type, mode, uid, gid, mtime, link, data, device) in zip(found, members, strict=True):
        assert entry.name.rstrip(b"/") == name.encode().rstrip(b"/")
        assert (entry.type, entry.mode, entry.uid, entry.gid) == (type, mode, uid, gid)
        assert entry.mtime_ns == mtime * 1_000_000_000
        assert body == (data if type == tarfile.REGTYPE else b"")
        if type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            assert entry.link_name == link.encode()
        if type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            assert entry.device == device


@pytest.mark.parametrize("format", ["v7", "ustar", "gnu", "oldgnu", "pax"])
def test_what_gnu_tar_writes_is_read(tmp_path: Path, format: str) -> None:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_bytes(b"content")
    (source / "link").symlink_to("folder/file")
    os.link(source / "folder" / "file", source / "hard")
    command = ["tar", f"--format={format}", "--sort=name", "-cf", "-", "-C", str(source), "folder", "hard", "link"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    found = {entry.name: (entry, body) for entry, body in read(data)}
    assert found[b"folder/"][0].type == tarreader.DIRECTORY
    assert found[b"folder/file"][1] == b"content"
    assert (found[b"hard"][0].type, found[b"hard"][0].link_name) == (tarreader.HARD_LINK, b"folder/file")
    assert (found[b"link"][0].type, found[b"link"][0].link_name) == (tarreader.SYMLINK, b"folder/file")
    assert found[b"folder/file"][0].mtime_ns // 10**9 == int((source / "folder" / "file").stat().st_mtime)


@pytest.mark.parametrize(
    "options", [["--format=oldgnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files_of_every_kind(tmp_path: Path, options: list[str]) -> None:
    content = bytearray(40 << 20)
    chance = random.Random(7)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(len(content))
        for offset in range(0, len(content), 1 << 20):
            piece = chance.randbytes(5000)
            file.seek(offset)
            file.write(piece)
            content[offset : offset + len(piece)] = piece
    command = ["tar", "-S", *options, "-cf", "-", "-C", str(tmp_path), "sparse"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(data) < 1 << 20
    ((entry, body),) = read(data)
    assert (entry.name, entry.type, entry.size) == (b"sparse", tarreader.REGULAR, len(content))
    assert sparse_content(entry, body) == content


def test_extended_attributes_and_times_come_from_pax_records() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("f")
        info.pax_headers = {"SCHILY.xattr.user.a": "1=2", "SCHILY.xattr.user.b": "", "mtime": "-1.25", "comment": "no"}
        tar.addfile(info)
    ((entry, _),) = read(buffer.getvalue())
    assert entry.xattrs == {"user.a": b"1=2", "user.b": b""}
    assert entry.mtime_ns == -1_250_000_000


def test_global_headers_are_no_members() -> None:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c", "uid": "77"}
    ) as tar:
        tar.addfile(tarfile.TarInfo("f"))
    ((entry, _),) = read(buffer.getvalue())
    assert (entry.name, entry.uid) == (b"f", 0)


def block(**fields: bytes) -> bytes:
    """A header block with these fields in place of sensible ones."""
    values = {
        "name": b"f", "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0", "size": b"00000000000\0",
        "mtime": b"00000000000\0", "type": b"0", "link": b"", "magic": b"ustar\00000", "rest": b"",
    } | fields  # fmt: skip
    start = values["name"].ljust(100, b"\0") + b"".join(values[key] for key in ("mode", "uid", "gid", "size", "mtime"))
    end = values["type"] + values["link"].ljust(100, b"\0") + values["magic"] + values["rest"].ljust(247, b"\0")
    return start + b"%06o\0 " % (sum(start) + sum(end) + 256) + end


def pax(data: bytes) -> bytes:
    return block(type=b"x", size=b"%011o\0" % len(data)) + data.ljust(-(-len(data) // 512) * 512, b"\0")


def test_base_256_numbers() -> None:
    size = b"\x80" + (3).to_bytes(11, "big")
    negative = (-5 & (1 << 96) - 1).to_bytes(12, "big")
    ((entry, body),) = read(block(size=size, mtime=negative) + b"abc".ljust(512, b"\0"))
    assert (body, entry.mtime_ns) == (b"abc", -5_000_000_000)


def sparse(size: int, stored: int, regions: bytes) -> bytes:
    """A member in GNU's sparse format 0.1 with this map."""
    records = b"".join(record(b"GNU.sparse." + item) for item in (b"size=%d" % size, b"map=" + regions))
    return pax(records) + block(size=b"%011o\0" % stored) + bytes(512)


def record(text: bytes) -> bytes:
    length = len(text) + 4
    return b"%d %s\n" % (length, text) if length > 9 else b"%d %s\n" % (length - 1, text)


BROKEN = {
    "checksum": (b"x" + block()[1:], "tar header has a wrong checksum"),
    "number": (block(mode=b"0000zzz\0"), "tar header has a bad number '0000zzz'"),
    "sign in a number": (block(mode=b"-000644\0"), "tar header has a bad number '-000644'"),
    "underscore in a number": (block(mode=b"00_0644\0"), "tar header has a bad number '00_0644'"),
    "huge size": (
        block(size=b"\x8f" + b"\xff" * 11), "tar header has an impossible size (4951760157141521099596496895)"),
    "negative size": (block(size=b"\xff" * 12), "tar header has an impossible size (-1)"),
    "text": (b"This is no archive, but a text. " * 16, "tar header has a bad number 'but a te'"),
    "goes on after its end": (block() + bytes(512) + block(), "tar archive goes on after its end"),
    "PAX length": (pax(b"99 path=x\n"), "tar archive has a broken PAX header"),
    "PAX length of zero": (pax(b"0 path=x\n"), "tar archive has a broken PAX header"),
    "PAX without a length": (pax(b"path=x\n"), "tar archive has a broken PAX header"),
    "PAX without an end of line": (pax(b"10 path=xx"), "tar archive has a broken PAX header"),
    "PAX without a value": (pax(b"8 path\n\n"), "tar archive has a broken PAX header"),
    "PAX size": (pax(b"11 size=-1\n") + block(), "tar archive has a bad number '-1'"),
    "PAX huge size": (
        pax(b"28 size=9999999999999999999\n") + block(), "tar archive has an impossible size (9999999999999999999)"),
    "PAX mtime": (pax(b"12 mtime=x1\n") + block(), "tar archive has a bad mtime 'x1'"),
    "PAX too large": (block(type=b"x", size=b"%011o\0" % (2 << 20)), "tar header is larger than 1048576 bytes"),
    "long name too large": (block(type=b"L", size=b"%011o\0" % (2 << 20)), "tar header is larger than 1048576 bytes"),
    "sparse map beyond its file": (sparse(10, 512, b"8,512"), "archive member 'f' has a broken sparse map"),
    "sparse map out of order": (sparse(9999, 2, b"512,1,0,1"), "archive member 'f' has a broken sparse map"),
    "sparse map of odd length": (sparse(99, 0, b"1,1,1"), "tar archive has a broken sparse map"),
    "sparse map of less than is there": (sparse(99, 50, b"0,10"), "archive member 'f' has a broken sparse map"),
    "sparse map without an end": (
        pax(record(b"GNU.sparse.major=1") + record(b"GNU.sparse.realsize=9")) + block(size=b"%011o\0" % 9),
        "archive member 'f' has a broken sparse map",
    ),
    "unknown type": (block(type=b"Z"), "archive member 'f' has an unknown type 'Z'"),
    "PAX name with a NUL": (pax(record(b"path=a\0b")), "tar archive has a name with a NUL byte"),
    "PAX value without a key": (pax(record(b"=value")), "tar archive has a broken PAX header"),
    "truncated header": (block()[:300], "tar archive ends too early"),
    "truncated body": (block(size=b"%011o\0" % 900) + bytes(600), "tar archive ends too early inside 'f'"),
    "truncated PAX header": (pax(b"9 path=x\n")[:600], "tar archive ends too early"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_archives_are_refused(case: str) -> None:
    data, message = BROKEN[case]
    with pytest.raises(IntegrityError) as caught:
        read(data)
    assert caught.value.message == message


@given(st.binary(max_size=2000), st.integers(0, 511), st.binary(min_size=1, max_size=20))
def test_damage_is_an_integrity_error_or_nothing(tail: bytes, at: int, noise: bytes) -> None:
    data = bytearray(pax(b"9 path=x\n") + block(size=b"%011o\0" % 5) + tail)
    data[512 + at : 512 + at + len(noise)] = noise
    try:
        read(bytes(data))
    except IntegrityError:
        pass


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_an_integrity_error(data: bytes) -> None:
    try:
        read(data)
    except IntegrityError:
        pass
