"""The packages of an rpm database (`rpmdb.sqlite`), read as what it is here: a file that any image may have made up.

Each row of the table Packages is a package's header: how many entries it has and how many bytes of data behind those,
then the entries (tag, type, offset, count), all big-endian. A text ends at a NUL.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing

_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH = 1000, 1001, 1002, 1003, 1022
_TEXT, _INT32 = 6, 4
_HEAD, _ENTRY = struct.Struct(">II"), struct.Struct(">IIII")
# No distribution comes near these.
_MOST_ENTRIES, _LONGEST_TEXT, _MOST_PACKAGES = 10_000, 1000, 100_000
# Steps of SQLite's machine: a thousand times what a large database takes.
_STEPS, _MOST_LOOKS = 100_000, 1000
_COLUMNS = "PRAGMA table_xinfo(Packages)"
# Where the header says how the file is written, and that it is without a log beside it.
_JOURNAL, _NO_LOG = slice(18, 20), b"\x01\x01"


def packages_in(data: bytes) -> Iterator[tuple[str, str]]:
    """Names and versions (`[epoch:]version-release.arch`) of a database; none of what is no such file."""
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            yield from _read(connection, data)
    except (sqlite3.Error, UnicodeDecodeError, OverflowError):
        # What is damaged or hostile has told all that it has to tell.
        return


def _read(connection: sqlite3.Connection, data: bytes) -> Iterator[tuple[str, str]]:
    file = bytearray(data)
    file[_JOURNAL] = _NO_LOG
    connection.deserialize(bytes(file))
    looks = iter(range(_MOST_LOOKS))
    connection.set_progress_handler(lambda: next(looks, None) is None, _STEPS)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, len(data))
    # A view, a virtual table or a column that is computed would run what the image says.
    kind = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = 'Packages'").fetchone()
    if kind is None or kind[0] != "table" or not str(kind[1]).upper().startswith("CREATE TABLE"):
        return
    if not any(name == "blob" and not hidden for _, name, *_, hidden in connection.execute(_COLUMNS)):
        return
    for (blob,) in connection.execute(f"SELECT blob FROM Packages LIMIT {_MOST_PACKAGES}"):  # noqa: S608
        if isinstance(blob, bytes) and (package := _package(blob)) is not None:
            yield package


def _package(header: bytes) -> tuple[str, str] | None:
    """The name and the version that a header tells of."""
    if len(header) < _HEAD.size:
        return None
    count, size = _HEAD.unpack_from(header)
    start = _HEAD.size + count * _ENTRY.size
    if not 0 < count <= _MOST_ENTRIES or start + size > len(header):
        return None
    found: dict[int, str] = {}
    for index in range(count):
        tag, kind, offset, _ = _ENTRY.unpack_from(header, _HEAD.size + index * _ENTRY.size)
        if offset >= size:
            continue
        if tag in (_NAME, _VERSION, _RELEASE, _ARCH) and kind == _TEXT:
            end = header.find(b"\0", start + offset, min(start + size, start + offset + _LONGEST_TEXT))
            if end >= 0:
                found.setdefault(tag, header[start + offset : end].decode(errors="replace"))
        elif tag == _EPOCH and kind == _INT32 and offset + 4 <= size:
            found.setdefault(tag, f"{int.from_bytes(header[start + offset : start + offset + 4], 'big')}:")
    if _NAME not in found or _VERSION not in found:
        return None
    release, arch = (f"{mark}{found[tag]}" if tag in found else "" for mark, tag in (("-", _RELEASE), (".", _ARCH)))
    return found[_NAME], f"{found.get(_EPOCH, '')}{found[_VERSION]}{release}{arch}"
