"""Tar headers as Go's archive/tar writes them for containerd's layers: USTAR, and PAX only where USTAR is too small."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stagewright.errors import StoreError
from stagewright.snapshots.tarreader import BLOCK, REGULAR, shown

_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_MAX_RECORDS = 1 << 20
_NAME = 100
_PREFIX = 155
_ID_MAX = 0o7777777
_SIZE_MAX = 0o77777777777

END = bytes(2 * BLOCK)


def header(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_s: int = 0,
    link_name: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, bytes] | None = None,
) -> bytes:
    """The header blocks of one member; a directory's name ends with a slash. User and group names are left out.

    Raises StoreError where the extended attributes do not fit into a header.
    """
    records: dict[bytes, bytes] = {}
    if xattrs:
        records = {b"SCHILY.xattr." + key.encode("utf-8", "surrogateescape"): value for key, value in xattrs.items()}
    if len(link_name) > _NAME or _NOT_ASCII.search(link_name):
        records[b"linkpath"] = link_name
    for key, number, limit in ((b"uid", uid, _ID_MAX), (b"gid", gid, _ID_MAX), (b"size", size, _SIZE_MAX)):
        if number > limit:
            records[key] = b"%d" % number
    if not 0 <= mtime_s <= _SIZE_MAX:
        records[b"mtime"] = b"%d" % mtime_s
    prefix, rest = b"", name
    if len(name) > _NAME or _NOT_ASCII.search(name):
        # Where there are PAX records already, the name is one, too, and is not split.
        prefix, rest = (b"", name) if records else _split(name)
        if not prefix:
            records[b"path"] = name
    block = _block(
        rest, kind, prefix=prefix, mode=mode, uid=uid, gid=gid, size=size, mtime_s=mtime_s,
        link_name=link_name, device=device,
    )  # fmt: skip
    return _pax(name, records) + block if records else block


def marker(name: bytes, mtime_s: int) -> bytes:
    """The header of an empty file that says something: a whiteout or an opaque mark."""
    return header(name, REGULAR, mtime_s=mtime_s)


def _block(
    name: bytes,
    kind: bytes,
    *,
    prefix: bytes = b"",
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_s: int = 0,
    link_name: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    start = b"%s%07o\0%s%s%s%s" % (
        _text(name, _NAME),
        mode,
        _octal(uid, 8),
        _octal(gid, 8),
        _octal(size, 12),
        _octal(mtime_s, 12),
    )
    end = b"%s%sustar\x0000%s%s%s%s%s" % (
        kind,
        _text(link_name, _NAME),
        bytes(64),
        _octal(device[0], 8),
        _octal(device[1], 8),
        _text(prefix, _PREFIX),
        bytes(12),
    )
    checksum = sum(start) + sum(end) + 8 * 32
    return b"%s%06o\0 %s" % (start, checksum, end)


def _text(value: bytes, size: int) -> bytes:
    value = _NOT_ASCII.sub(b"", value)
    if len(value) > size and value[size - 1] == 0x2F:
        # A slash at the end of a cut name would make some readers take a file for a directory.
        value = value[: size - 1].rstrip(b"/")
    return value[:size].ljust(size, b"\0")


def _octal(value: int, size: int) -> bytes:
    """Octal digits and a NUL; zero where the value does not fit, which a PAX record then holds."""
    digits = b"%0*o" % (size - 1, value) if value >= 0 else b""
    return (digits if len(digits) == size - 1 else b"0" * (size - 1)) + b"\0"


def _split(name: bytes) -> tuple[bytes, bytes]:
    """USTAR's two parts of a long name; the first is empty where it cannot be split."""
    if _NOT_ASCII.search(name):
        return b"", name
    length = min(len(name), _PREFIX + 1)
    if length == len(name) and name.endswith(b"/"):
        length -= 1
    at = name.rfind(b"/", 0, length)
    rest = name[at + 1 :]
    if at <= 0 or not rest or len(rest) > _NAME or at > _PREFIX:
        return b"", name
    return name[:at], rest


def _pax(name: bytes, records: Mapping[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    if len(data) > _MAX_RECORDS:
        raise StoreError(f"the extended attributes of {shown(name)} are too large for a layer")
    directory, _, base = name.rpartition(b"/")
    own = b"/".join(part for part in (directory, b"PaxHeaders.0", base) if part)
    own = _NOT_ASCII.sub(b"", own)[:_NAME].rstrip(b"/")
    return _block(own, b"x", size=len(data)) + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    # The number counts itself.
    if len(str(total)) != len(str(length)):
        total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)
