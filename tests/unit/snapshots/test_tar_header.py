"""Headers are read back as what they were, by our reader and by Python's, and are small where they can be."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from stagewright.snapshots import tarreader
from stagewright.snapshots.tarheader import END, header, marker
from stagewright.snapshots.tarreader import TarReader

COMPONENTS = st.binary(min_size=1, max_size=120).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_"))
NAMES = st.lists(COMPONENTS, min_size=1, max_size=6).map(b"/".join)
XATTRS = st.dictionaries(
    st.text(st.characters(codec="ascii", exclude_characters="=\0", categories=["L", "N", "P"]), min_size=1).map(
        lambda name: "user." + name
    ),
    st.binary(max_size=200),
    max_size=3,
)


@given(
    NAMES,
    st.sampled_from([tarreader.REGULAR, tarreader.DIRECTORY, tarreader.SYMLINK, tarreader.BLOCK_DEVICE]),
    st.integers(0, 0o7777),
    st.integers(0, (1 << 32) - 2),
    st.integers(0, (1 << 32) - 2),
    st.integers(0, 1 << 40),
    st.integers(-(1 << 40), 1 << 40),
    NAMES,
    XATTRS,
)
def test_headers_are_read_back(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    xattrs: dict[str, bytes],
) -> None:
    if kind == tarreader.DIRECTORY:
        name += b"/"
    fields = {"mode": mode, "uid": uid, "gid": gid, "mtime_s": mtime}
    size = size if kind == tarreader.REGULAR else 0
    data = header(name, kind, size=size, link_name=link, device=(253, 70000), xattrs=xattrs, **fields)
    assert len(data) % 512 == 0
    entry = TarReader(io.BytesIO(data)).next()
    assert entry is not None
    assert (entry.name, entry.type, entry.size, entry.link_name) == (name, kind, size, link)
    assert (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (mode, uid, gid, mtime * 10**9)
    assert entry.xattrs == xattrs
    if kind == tarreader.BLOCK_DEVICE:
        assert entry.device == (253, 70000)
    if b"\n" not in name:
        with tarfile.open(fileobj=io.BytesIO(data + END), encoding="utf-8", errors="surrogateescape") as tar:
            member = tar.next()
            assert member is not None
            assert member.name.encode("utf-8", "surrogateescape") == name.rstrip(b"/")
            assert (member.mode, member.uid, member.gid, member.mtime) == (mode, uid, gid, mtime)


def test_ordinary_members_need_one_block() -> None:
    assert len(header(b"usr/bin/env", tarreader.REGULAR, mode=0o755, size=1 << 30, mtime_s=1 << 30)) == 512
    assert len(header(b"d/" * 60 + b"f" * 100, tarreader.REGULAR)) == 512
    assert len(header(b"f" * 101, tarreader.REGULAR)) == 1536
    assert len(header(b"caf\xc3\xa9", tarreader.REGULAR)) == 1536


def test_the_bytes_are_those_of_go() -> None:
    before = b"etc/passwd".ljust(100, b"\0") + b"0000644\x000000001\x000000002\x0000000000014\x0014524770637\0"
    after = b"0".ljust(101, b"\0") + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\0" + bytes(167)
    checksum = b"%06o\0 " % (sum(before) + 8 * 32 + sum(after))
    data = header(b"etc/passwd", b"0", mode=0o644, uid=1, gid=2, size=12, mtime_s=0o14524770637)
    assert data == before + checksum + after


def test_pax_records_are_named_and_sorted_as_in_go() -> None:
    data = header(b"dir/\xc3\xa9/", tarreader.DIRECTORY, xattrs={"user.b": b"1", "user.a": b"2"})
    assert data.startswith(b"dir//PaxHeaders.0\0")
    records = data[512:1024].rstrip(b"\0")
    assert records == b"25 SCHILY.xattr.user.a=2\n25 SCHILY.xattr.user.b=1\n16 path=dir/\xc3\xa9/\n"


def test_markers_are_empty_files_without_permissions() -> None:
    entry = TarReader(io.BytesIO(marker(b"d/.wh.f", 7))).next()
    assert entry is not None
    assert (entry.type, entry.mode, entry.size, entry.mtime_ns) == (tarreader.REGULAR, 0, 0, 7 * 10**9)
