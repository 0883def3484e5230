"""A streaming reader of tar archives: USTAR, PAX and GNU headers, long names, sparse files.

It reads what Go's archive/tar reads, which is what layers are made for, and bounds everything that a header can ask
for. Names and link names are bytes, as they stand in the archive: whoever writes them to disk makes them safe.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Protocol

from stagewright.errors import IntegrityError
from stagewright.records import dataclass

BLOCK = 512
# What Go's archive/tar allows for one extended header.
_MAX_EXTENDED = 1 << 20
# No text of that length names more of them, wherever it stands.
_MAX_SPARSE_REGIONS = _MAX_EXTENDED // 4
_MAX_SIZE = 1 << 62
_SKIP = 1 << 20

REGULAR = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHARACTER_DEVICE = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"
_CONTIGUOUS = b"7"
_KNOWN = frozenset({REGULAR, HARD_LINK, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO})
_PAX = b"x"
_PAX_GLOBAL = b"g"
_GNU_LONG_NAME = b"L"
_GNU_LONG_LINK = b"K"
_GNU_SPARSE = b"S"

# name mode uid gid size mtime checksum type linkname magic version uname gname major minor prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12s")
_ZERO_BLOCK = bytes(BLOCK)
_XATTR = "SCHILY.xattr."
_DECIMAL_TIME = re.compile(r"(-?)(\d{1,19})(?:\.(\d*))?", re.ASCII)
_DECIMAL = re.compile(rb"\d{1,19}", re.ASCII)


class Readable(Protocol):
    """Anything with a `read(n)` that answers at most `n` bytes, and none at its end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        ...


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One member of an archive. `type` is one of this module's type bytes.

    `size` is the length of the file (bytes); `regions` are the (offset, length) pairs that the body of a sparse file
    fills, None for a plain one. `mtime_ns` is nanoseconds since the epoch. `xattrs` maps names to values.
    """

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link_name: bytes
    device: tuple[int, int]
    xattrs: Mapping[str, bytes]
    regions: tuple[tuple[int, int], ...] | None


class TarReader:
    """Iterates over the members of an archive; `body()` is the content of the one that came last.

    Raises IntegrityError for anything that is not a tar archive, and where the archive ends too early.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._buffer = memoryview(b"")
        self._body_left = 0
        self._padding = 0
        self._entry = b""

    def __iter__(self) -> Iterator[TarEntry]:
        while (entry := self.next()) is not None:
            yield entry

    def next(self) -> TarEntry | None:
        """The next member; None at the end of the archive."""
        pax: dict[str, bytes] = {}
        sparse_map: list[int] = []
        long_name = long_link = None
        while True:
            self._skip(self._body_left + self._padding)
            self._body_left = self._padding = 0
            header = self._header()
            if header is None:
                return None
            kind, size = header[7], _number(header[4])
            if not 0 <= size < _MAX_SIZE:
                raise IntegrityError(f"tar header has an impossible size ({size})")
            if kind in (_PAX, _GNU_LONG_NAME, _GNU_LONG_LINK):
                data = self._extended(size)
                if kind == _PAX:
                    pax, sparse_map = _parse_pax(data)
                elif kind == _GNU_LONG_NAME:
                    long_name = data.partition(b"\0")[0]
                else:
                    long_link = data.partition(b"\0")[0]
            elif kind == _PAX_GLOBAL:
                # Go leaves global headers to its callers, and container tools ignore them.
                self._extended(size)
            else:
                return self._member(header, size, pax, sparse_map, long_name, long_link)

    def body(self) -> Iterator[memoryview]:
        """The rest of the current member's content, in pieces as they come."""
        while self._body_left:
            piece = self._piece(self._body_left)
            self._body_left -= len(piece)
            yield piece

    def _member(
        self,
        header: tuple[bytes, ...],
        size: int,
        pax: dict[str, bytes],
        sparse_map: list[int],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> TarEntry:
        name = long_name or pax.get("path") or _name(header)
        link_name = long_link or pax.get("linkpath") or header[8].partition(b"\0")[0]
        kind = header[7]
        if kind in (b"\0", _CONTIGUOUS):
            kind = DIRECTORY if kind == b"\0" and name.endswith(b"/") else REGULAR
        if "size" in pax:
            size = _pax_integer(pax, "size", 0)
        self._entry = name
        regions: tuple[tuple[int, int], ...] | None = None
        real_size = size
        if kind == _GNU_SPARSE:
            kind = REGULAR
            self._set_body(size)
            regions, real_size = self._gnu_sparse(header)
        elif kind == REGULAR and pax.keys() & _SPARSE_KEYS:
            self._set_body(size)
            regions, real_size = self._pax_sparse(pax, sparse_map)
            name = pax.get("GNU.sparse.name", name)
        elif kind == REGULAR:
            self._set_body(size)
        elif kind not in _KNOWN:
            raise IntegrityError(f"archive member {shown(name)} has an unknown type {shown(kind)}")
        if regions is not None:
            self._check_regions(regions, real_size)
        return TarEntry(
            name=name,
            type=kind,
            mode=_number(header[1]) & 0o7777,
            uid=_pax_integer(pax, "uid", _number(header[2])),
            gid=_pax_integer(pax, "gid", _number(header[3])),
            size=real_size if kind == REGULAR else 0,
            mtime_ns=_pax_time(pax, "mtime", _number(header[5])),
            link_name=link_name,
            device=(_number(header[13]), _number(header[14])) if kind in _DEVICES else (0, 0),
            xattrs={key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)} if pax else {},
            regions=regions,
        )

    def _set_body(self, size: int) -> None:
        self._body_left = size
        self._padding = -size % BLOCK

    def _header(self) -> tuple[bytes, ...] | None:
        """The fields of the next header block; None at the end of the archive or of the stream."""
        if not self._buffer:
            self._buffer = memoryview(self._stream.read(_SKIP))
            if not self._buffer:
                return None
        block = self._take(BLOCK)
        if block == _ZERO_BLOCK:
            if len(self._buffer) == 0:
                self._buffer = memoryview(self._stream.read(_SKIP))
            if self._buffer and self._take(BLOCK) != _ZERO_BLOCK:
                raise IntegrityError("tar archive goes on after its end")
            return None
        fields: tuple[bytes, ...] = _HEADER.unpack(block)
        if not _has_checksum(block, fields[6]):
            raise IntegrityError("tar header has a wrong checksum")
        return fields

    def _extended(self, size: int) -> bytes:
        if size > _MAX_EXTENDED:
            raise IntegrityError(f"tar header is larger than {_MAX_EXTENDED} bytes")
        data = self._take(size)
        self._skip(-size % BLOCK)
        return data

    def _gnu_sparse(self, header: tuple[bytes, ...]) -> tuple[tuple[tuple[int, int], ...], int]:
        """The regions and the real size from an old GNU sparse header and the blocks that follow it."""
        # The fields from offset 386 on lie in what USTAR calls the prefix (345) and the padding (500).
        tail = header[15] + header[16]
        numbers = [_number(tail[at : at + 12]) for at in range(41, 41 + 96, 12) if tail[at]]
        extended, real_size = tail[137], _number(tail[138:150])
        while extended:
            block = self._take(BLOCK)
            numbers += [_number(block[at : at + 12]) for at in range(0, 504, 12) if block[at]]
            extended = block[504]
            if len(numbers) > 2 * _MAX_SPARSE_REGIONS:
                raise IntegrityError(f"archive member {shown(self._entry)} has too many sparse regions")
        return _pairs(numbers), real_size

    def _pax_sparse(self, pax: dict[str, bytes], sparse_map: list[int]) -> tuple[tuple[tuple[int, int], ...], int]:
        """The regions and the real size by PAX records (GNU formats 0.0, 0.1) or by the body's beginning (1.0)."""
        if pax.get("GNU.sparse.major") == b"1":
            return self._sparse_map_in_body(), _pax_integer(pax, "GNU.sparse.realsize", 0)
        if "GNU.sparse.map" in pax:
            sparse_map = [_decimal(item) for item in pax["GNU.sparse.map"].split(b",") if item]
        return _pairs(sparse_map), _pax_integer(pax, "GNU.sparse.size", 0)

    def _sparse_map_in_body(self) -> tuple[tuple[int, int], ...]:
        lines: list[bytes] = []
        rest = b""
        missing = 1
        while missing > 0:
            # A map without line ends would otherwise be gathered whole (as in CVE-2025-58183).
            if self._body_left < BLOCK or len(rest) > BLOCK or missing > 2 * _MAX_SPARSE_REGIONS:
                raise IntegrityError(f"archive member {shown(self._entry)} has a broken sparse map")
            self._body_left -= BLOCK
            *complete, rest = (rest + self._take(BLOCK)).split(b"\n")
            lines += complete
            missing = 1 + 2 * _decimal(lines[0]) - len(lines) if lines else 1
        return _pairs([_decimal(line) for line in lines[1 : 1 + 2 * _decimal(lines[0])]])

    def _check_regions(self, regions: tuple[tuple[int, int], ...], real_size: int) -> None:
        end = total = 0
        for offset, length in regions:
            if offset < end or length < 0 or offset + length > real_size:
                raise IntegrityError(f"archive member {shown(self._entry)} has a broken sparse map")
            end = offset + length
            total += length
        if total != self._body_left:
            raise IntegrityError(f"archive member {shown(self._entry)} has a broken sparse map")

    def _piece(self, limit: int) -> memoryview:
        """At least one and at most `limit` bytes, without a copy."""
        if not self._buffer:
            self._buffer = memoryview(self._stream.read(_SKIP))
            if not self._buffer:
                inside = f" inside {shown(self._entry)}" if self._entry else ""
                raise IntegrityError(f"tar archive ends too early{inside}")
        piece = self._buffer[:limit]
        self._buffer = self._buffer[limit:]
        return piece

    def _take(self, size: int) -> bytes:
        piece = self._piece(size) if size else memoryview(b"")
        if len(piece) == size:
            return bytes(piece)
        pieces = [piece]
        missing = size - len(piece)
        while missing:
            pieces.append(self._piece(missing))
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._piece(size))


_DEVICES = frozenset({CHARACTER_DEVICE, BLOCK_DEVICE})
_SPARSE_KEYS = frozenset({"GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size"})


def shown(name: bytes) -> str:
    """An archive's name for an error message."""
    text = name.decode("utf-8", "backslashreplace")
    return repr(text if len(text) < 200 else text[:200] + "...")


def is_header(block: bytes) -> bool:
    """Whether the bytes begin with a block that can only be a tar header."""
    try:
        return len(block) >= BLOCK and _has_checksum(block[:BLOCK], block[148:156])
    except IntegrityError:
        return False


def _has_checksum(block: bytes, field: bytes) -> bool:
    total = sum(block) - sum(field) + 8 * 0x20
    said = _number(field)
    # Some ancient writers summed signed bytes; in the field itself there are none above 127.
    return said == total or said == total - 256 * sum(byte > 127 for byte in block)


def _name(header: tuple[bytes, ...]) -> bytes:
    name = header[0].partition(b"\0")[0]
    if header[9] == b"ustar\0":
        # star's variant keeps times behind the first 131 bytes.
        prefix = header[15][:131] if header[16].endswith(b"tar\0") else header[15]
        prefix = prefix.partition(b"\0")[0]
        if prefix:
            return prefix + b"/" + name
    return name


def _number(field: bytes) -> int:
    """A numeric header field: octal digits, or GNU's base 256 where the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.strip(b" \0").partition(b"\0")[0]
    if not digits:
        return 0
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise IntegrityError(f"tar header has a bad number {shown(digits)}")


def _parse_pax(data: bytes) -> tuple[dict[str, bytes], list[int]]:
    """The records of a PAX header, and the numbers of GNU's sparse format 0.0, whose records come many times."""
    records: dict[str, bytes] = {}
    sparse_map: list[int] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = _decimal(data[at:space]) if space > 0 else 0
        end = at + length
        if length < 5 or end > len(data) or data[end - 1] != 0x0A:
            raise IntegrityError("tar archive has a broken PAX header")
        key_bytes, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key_bytes or b"\0" in key_bytes:
            raise IntegrityError("tar archive has a broken PAX header")
        key = key_bytes.decode("utf-8", "surrogateescape")
        if key in ("path", "linkpath", "GNU.sparse.name") and b"\0" in value:
            raise IntegrityError("tar archive has a name with a NUL byte")
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            sparse_map.append(_decimal(value))
        # An empty value takes a record back, but an extended attribute may well be empty.
        elif value or key.startswith(_XATTR):
            records[key] = value
        else:
            records.pop(key, None)
        at = end
    return records, sparse_map


def _decimal(text: bytes) -> int:
    if _DECIMAL.fullmatch(text) is None:
        raise IntegrityError(f"tar archive has a bad number {shown(text[:40])}")
    return int(text)


def _pax_integer(pax: dict[str, bytes], key: str, default: int) -> int:
    value = pax.get(key)
    if value is None:
        return default
    number = _decimal(value)
    if number >= _MAX_SIZE:
        raise IntegrityError(f"tar archive has an impossible {key} ({number})")
    return number


def _pax_time(pax: dict[str, bytes], key: str, default_s: int) -> int:
    value = pax.get(key)
    if value is None:
        return default_s * 1_000_000_000
    matched = _DECIMAL_TIME.fullmatch(value.decode("ascii", "replace"))
    if matched is None:
        raise IntegrityError(f"tar archive has a bad {key} {shown(value[:40])}")
    sign, seconds, fraction = matched.groups()
    nanoseconds = int(seconds) * 1_000_000_000 + int((fraction or "").ljust(9, "0")[:9])
    return -nanoseconds if sign else nanoseconds


def _pairs(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    if len(numbers) % 2:
        raise IntegrityError("tar archive has a broken sparse map")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
