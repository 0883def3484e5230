"""The files behind a content digest: kept in a compact form, and compared to say which of them changed.

There may be hundreds of thousands of them, so they are kept in blocks, each compressed by itself, and never all of them
are spread out at once.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from stagewright.patterns import pattern
from stagewright.records import dataclass

# Enough to tell two contents of one file apart, and too little to be of use to anybody else.
_DIGITS = 16
_REGULAR = "10"
# What would break the line, or steer a terminal.
_CONTROLS = pattern("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# A block has so many files, or a few more.
_BLOCK_FILES = 1024
_READ = 1 << 16
# So many of the changes are named, at most.
_NAMED = 200
# So many of them in a sentence.
_TOLD = 3

Kind = Literal["type", "changed", "added", "removed", "mode", "owner"]
_ORDER: tuple[Kind, ...] = ("type", "changed", "added", "removed", "mode", "owner")
_TYPES = {0o100000: "a file", 0o040000: "a folder", 0o120000: "a link"}

_Row = tuple[str, str, str, str, str]
"""What rows are ordered by, then path, mode, owner, content."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """What became of one file; `old` and `new` are modes or owners, where these alone differ, or what it is."""

    path: str
    kind: Kind
    old: str = ""
    new: str = ""


def pack(noted: Iterable[tuple[str, str]], clean: Callable[[str], str] = str) -> bytes:
    """The kept form of paths with the records that `sources.digests.describe` makes of their files.

    Some files at a time: the paths with NUL between them, the records joined. `clean` takes out of paths what must not
    be kept.
    """
    kept = bytearray()
    paths: list[str] = []
    fields: list[str] = []
    for some_paths, records in noted:
        paths += _cleaned(some_paths.split("\0"), clean)
        # Each record ends in NUL, and so does the last one.
        fields += records.split("\0")[:-1]
        if len(paths) >= _BLOCK_FILES:
            kept += _block(paths, fields)
            paths, fields = [], []
    if paths or not kept:
        kept += _block(paths, fields)
    return bytes(kept)


def _block(paths: list[str], fields: list[str]) -> bytes:
    # Column by column, which is shorter once it is compressed.
    modes = fields[1::5]
    owners = [f"{uid}:{gid}" for uid, gid in zip(fields[2::5], fields[3::5], strict=True)]
    contents = [
        what[:_DIGITS] if mode.startswith(_REGULAR) or not what else _digest(what)
        for mode, what in zip(modes, fields[4::5], strict=True)
    ]
    return zlib.compress("\0".join([*paths, *modes, *owners, *contents]).encode(errors="surrogateescape"), 1)


def _cleaned(paths: list[str], clean: Callable[[str], str]) -> list[str]:
    """All paths at once if that leaves them apart."""
    found = clean("\0".join(paths)).split("\0")
    return found if len(found) == len(paths) else [clean(path) for path in paths]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]


class FileList:
    """What `pack` has kept, in the order in which a tree is walked. Raises zlib.error where it is damaged."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        # Where stretches of blocks begin and end that are in order. There is one, unless several sources were copied.
        self._stretches: list[tuple[int, int]] = []
        start, last = 0, ""
        for rows, at, _ in self._blocks(0, len(data)):
            if rows and rows[0][0] < last:
                self._stretches.append((start, at))
                start = at
            last = rows[-1][0] if rows else last
        self._stretches.append((start, len(data)))

    def __iter__(self) -> Iterator[_Row]:
        """Each file once."""
        before: _Row | None = None
        for row in heapq.merge(*map(self._rows, self._stretches), key=_place):
            if before is not None and before[0] != row[0]:
                yield before
            before = row
        if before is not None:
            yield before

    def _rows(self, stretch: tuple[int, int]) -> Iterator[_Row]:
        for rows, _, _ in self._blocks(*stretch):
            yield from rows

    def _blocks(self, start: int, end: int) -> Iterator[tuple[list[_Row], int, int]]:
        """The rows of each block in their order, and where it begins and ends."""
        while start < end:
            text, after = self._inflated(start)
            fields = text.split("\0") if text else []
            count = len(fields) // 4
            columns = [fields[number * count : (number + 1) * count] for number in range(4)]
            rows = list(zip([path.replace("/", "\0") for path in columns[0]], *columns, strict=True))
            rows.sort(key=_place)
            yield rows, start, after
            start = after

    def _inflated(self, start: int) -> tuple[str, int]:
        """The text of the block that begins there, and where it ends."""
        stream, at = zlib.decompressobj(), start
        text = b""
        while not stream.eof:
            piece = self._data[at : at + _READ]
            if not piece:
                raise zlib.error("the end is missing")
            text += stream.decompress(piece)
            at += len(piece)
        return text.decode(errors="surrogateescape"), at - len(stream.unused_data)


def _place(row: _Row) -> str:
    return row[0]


def unpack(data: bytes) -> FileList | None:
    """The files that were kept; None for what is damaged or not there."""
    try:
        return FileList(data) if data else None
    except zlib.error:
        return None


class Changes:
    """What is not the same in two lists: how much, and what of it is worth naming. `counts` leaves the rest out.

    `first` are at most 200: files before folders, contents before modes, then by path.
    """

    def __init__(self, old: FileList, new: FileList, counts: Callable[[FileChange], bool] = bool) -> None:
        self._lists = old, new
        self._counts = counts
        self.count = 0
        self.first = [change for _, _, _, change in heapq.nsmallest(_NAMED, self._ranked(), key=_rank)]

    def __iter__(self) -> Iterator[FileChange]:
        """All of them, in the order of their paths."""
        return (change for _, change in _differences(*self._lists) if self._counts(change))

    def only(self, counts: Callable[[FileChange], bool]) -> Changes:
        """Those of them of which the function says that they count."""
        return Changes(*self._lists, lambda change: self._counts(change) and counts(change))

    def _ranked(self) -> Iterator[tuple[bool, int, str, FileChange]]:
        for is_folder, change in _differences(*self._lists):
            if not self._counts(change):
                continue
            self.count += 1
            yield is_folder, _ORDER.index(change.kind), change.path, change


def _rank(ranked: tuple[bool, int, str, FileChange]) -> tuple[bool, int, str]:
    return ranked[:3]


def _differences(old: Iterable[_Row], new: Iterable[_Row]) -> Iterator[tuple[bool, FileChange]]:
    """What differs, and whether it is a folder."""
    olds, news = iter(old), iter(new)
    before, after = next(olds, None), next(news, None)
    while before is not None or after is not None:
        if before == after:
            before, after = next(olds, None), next(news, None)
        elif after is None or (before is not None and before[0] < after[0]):
            assert before is not None
            yield _is_folder(before), FileChange(before[1], "removed")
            before = next(olds, None)
        elif before is None or after[0] < before[0]:
            yield _is_folder(after), FileChange(after[1], "added")
            after = next(news, None)
        else:
            yield _is_folder(before) and _is_folder(after), _change(before, after)
            before, after = next(olds, None), next(news, None)


def _is_folder(row: _Row) -> bool:
    return int(row[2] or "0", 8) & 0o170000 == 0o040000


def _change(before: _Row, after: _Row) -> FileChange:
    _, path, old_mode, old_owner, old_content = before
    _, _, mode, owner, content = after
    types = tuple(_TYPES.get(int(known or "0", 8) & 0o170000, "") for known in (old_mode, mode))
    if types[0] != types[1] and all(types):
        return FileChange(path, "type", *types)
    if old_content != content or old_mode[:-4] != mode[:-4]:
        return FileChange(path, "changed")
    if old_mode != mode:
        return FileChange(path, "mode", old_mode[-4:], mode[-4:])
    return FileChange(path, "owner", old_owner, owner)


def sentence(changes: Sequence[FileChange], count: int, *, prefix: str = "") -> str:
    """The changes in words, and that there are `count` in all: `a changed, b was added, and 4 more files differ`."""
    parts = [_one(change, prefix) for change in changes]
    more = count - len(changes)
    if more > 0:
        parts.append(f"and {more} more {'file differs' if more == 1 else 'files differ'}")
    return ", ".join(parts) if more > 0 or len(parts) < 2 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def named(changes: Changes, prefix: str = "") -> str:
    """The changes in words, the first of them by name; "" for none."""
    return sentence(changes.first[:_TOLD], changes.count, prefix=prefix)


def short(changes: Changes | None, prefix: str = "") -> str:
    """The first of the changes, and how many there are more."""
    if changes is None or not changes.count:
        return "files changed"
    more = f" (+{changes.count - 1} more)" if changes.count > 1 else ""
    return sentence(changes.first[:1], 1, prefix=prefix) + more


def details(changes: Changes | None) -> dict[str, Any]:
    """The changes as JSON-able data, as far as they are worth naming."""
    if changes is None:
        return {}
    files = [{name: value for name in c.__slots__ if (value := getattr(c, name))} for c in changes.first]
    return {"files": files, "count": changes.count}


def _one(change: FileChange, prefix: str) -> str:
    path = os.fsencode(prefix + change.path).decode(errors="backslashreplace") or "/"
    path = _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), path)
    if change.kind == "type":
        return f"{path} went from {change.old} to {change.new}"
    if change.kind == "changed":
        return f"{path} changed"
    if change.kind in ("added", "removed"):
        return f"{path} was {change.kind}"
    return f"the {change.kind} of {path} went from {change.old} to {change.new}"
