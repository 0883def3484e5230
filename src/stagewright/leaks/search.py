"""The search for secrets in folders and texts, at the speed of the disk and in little memory.

Each form of each secret has anchors, short parts of it that can't vary. Files, names and the rest are laid one after
the other into one window, which the C library searches for each anchor; only where there is one, the whole value is
looked for around it.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from operator import itemgetter
from typing import Any

from stagewright.leaks.finding import Leak
from stagewright.records import dataclass
from stagewright.secrecy.forms import MIN_SEARCHED, Form, bytes_of, forms_of, significant
from stagewright.snapshots.overlay import is_overlay_xattr
from stagewright.snapshots.tree import walk

# Such a window stays in the processor's cache while one anchor after the other is searched for.
_WINDOW = 256 << 10
# Whoever has so many places to mend has no use for more.
_ENOUGH = 10


@dataclass(frozen=True, slots=True)
class _Text:
    """Bytes that are searched as a whole; the end of `place` is made from a path that may hold anything."""

    place: str
    data: bytes

    def read(self, start: int, size: int) -> bytes:
        return self.data[start : start + size]


@dataclass(frozen=True, slots=True)
class _File:
    """A file that nobody changes any more."""

    place: str
    path: bytes

    def open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self, start: int, size: int) -> bytes:
        fd = self.open()
        try:
            parts = []
            while size and (part := os.pread(fd, size, start)):
                parts.append(part)
                start, size = start + len(part), size - len(part)
            return b"".join(parts)
        finally:
            os.close(fd)


def is_searchable(value: bytes) -> bool:
    """Whether a secret's value is long enough to be told from what is in any file."""
    return len(significant(value)) >= MIN_SEARCHED


class Search:
    """A search for secrets, given as values by ID; those that are not `is_searchable` are left out.

    `check` is called often; what it raises ends the search.
    """

    def __init__(self, secrets: Mapping[str, bytes], check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._anchors: dict[bytes, list[tuple[str, Form]]] = {}
        for id, value in secrets.items():
            for form in forms_of(significant(value)) if is_searchable(value) else ():
                for anchor in form.anchors:
                    self._anchors.setdefault(anchor, []).append((id, form))
        self._overlap = max(map(len, self._anchors), default=1) - 1

    def folder(self, folder: str) -> list[Leak]:
        """The first few leaks of each secret in a layer's folder: contents, names, targets of links, attributes."""
        window = _Window(self._anchors, self._overlap)
        seen: set[int] = set()
        for name, path, info in walk(folder) if self._anchors else ():
            self._check()
            place = "/" + os.fsdecode(name)
            window.add(_Text(f"the name of {place}", name))
            if stat.S_ISLNK(info.st_mode):
                window.add(_Text(f"the target of the link {place}", os.readlink(path)))
            for attribute, data in _attributes(path):
                window.add(_Text(f"the attribute {attribute} of {place}", data))
            if stat.S_ISREG(info.st_mode) and info.st_ino not in seen:
                if info.st_nlink > 1:
                    seen.add(info.st_ino)
                window.add_file(_File(place, path), info, self._check)
            if window.knows_enough:
                break
        return window.finish()

    def texts(self, texts: Iterable[tuple[str, str]]) -> list[Leak]:
        """The leaks in texts, each with the name of its place."""
        leaks = {}
        for place, text in texts:
            data = bytes_of(text)
            for anchor, forms in self._anchors.items():
                if anchor not in data:
                    continue
                for id, form in forms:
                    if (id, place) not in leaks and form.is_in(data):
                        leaks[id, place] = Leak(id, place, form.name)
        return list(leaks.values())


class _Window:
    """Bytes from many sources one after the other, searched whenever it is full."""

    def __init__(self, anchors: Mapping[bytes, list[tuple[str, Form]]], overlap: int) -> None:
        self._anchors = anchors
        self._overlap = overlap
        self._buffer = bytearray(_WINDOW)
        self._view = memoryview(self._buffer)
        self._used = 0
        # Where each source's bytes begin: in the window, and in the source.
        self._pieces: list[tuple[int, _Text | _File, int]] = []
        self._leaks: dict[str, dict[str, Leak]] = {id: {} for forms in anchors.values() for id, _ in forms}

    @property
    def knows_enough(self) -> bool:
        """Whether there are so many leaks of each secret that more would be of no use."""
        return all(len(leaks) >= _ENOUGH for leaks in self._leaks.values())

    def add(self, text: _Text) -> None:
        size = len(text.data)
        if size > _WINDOW - self._used:
            self._search()
        self._pieces.append((self._used, text, 0))
        # No name, link or attribute of Linux is longer than 64 KiB.
        self._view[self._used : self._used + size] = text.data
        self._used += size

    def add_file(self, file: _File, info: os.stat_result, check: Callable[[], None]) -> None:
        if not info.st_size:
            return
        fd = file.open()
        try:
            for start, end in _extents(fd, info):
                os.lseek(fd, start, os.SEEK_SET)
                self._add_extent(file, fd, start, end, check)
        finally:
            os.close(fd)

    def _add_extent(self, file: _File, fd: int, offset: int, end: int, check: Callable[[], None]) -> None:
        if self._used == _WINDOW:
            self._search()
        self._pieces.append((self._used, file, offset))
        first = offset
        while offset < end:
            size = os.readv(fd, [self._view[self._used :]])
            if not size:
                return
            self._used += size
            offset += size
            if self._used == _WINDOW:
                check()
                self._search()
                # An anchor may begin in this window and end in the next one.
                kept = min(self._overlap, offset - first)
                self._view[:kept] = bytes(self._view[_WINDOW - kept :])
                self._pieces.append((0, file, offset - kept))
                self._used = kept

    def finish(self) -> list[Leak]:
        """Search what is left; answers the first leaks of each secret."""
        self._search()
        return [leak for leaks in self._leaks.values() for leak in [*leaks.values()][:_ENOUGH]]

    def _search(self) -> None:
        found: dict[tuple[str, str], tuple[int, Leak]] = {}
        for anchor, forms in self._anchors.items():
            for at in _occurrences(self._buffer, self._used, anchor):
                start, source, offset = self._pieces[bisect_right(self._pieces, at, key=itemgetter(0)) - 1]
                for id, form in forms:
                    known = (id, source.place) in found or len(self._leaks[id]) >= _ENOUGH
                    if not known and _holds(source, offset + at - start, form, len(anchor)):
                        found[id, source.place] = at, Leak(id, source.place, form.name)
        for _, leak in sorted(found.values(), key=itemgetter(0)):
            self._leaks[leak.secret].setdefault(leak.place, leak)
        self._pieces.clear()
        self._used = 0


def _holds(source: _Text | _File, at: int, form: Form, anchor: int) -> bool:
    """Whether the value stands in a source around an anchor."""
    start = max(0, at - form.stretch)
    return form.is_in(source.read(start, at - start + anchor + form.stretch))


def _extents(fd: int, info: os.stat_result) -> Iterator[tuple[int, int]]:
    """Where a file has data: a step can make one of many terabytes that is nothing but a hole."""
    if info.st_blocks * 512 >= info.st_size:
        yield 0, info.st_size
        return
    start = 0
    while start < info.st_size:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
        start = end


def _attributes(path: bytes) -> Iterator[tuple[str, bytes]]:
    """A file's extended attributes, but for overlayfs's own."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for name in names:
        if not is_overlay_xattr(name):
            yield name, os.getxattr(path, name, follow_symlinks=False)


def _occurrences(buffer: bytearray, used: int, anchor: bytes) -> Iterator[int]:
    import ctypes

    address = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
    position = address
    while found := _memmem()(position, address + used - position, anchor, len(anchor)):
        yield found - address
        position = found + 1


@cache
def _memmem() -> Any:
    """The C library's search, several times as fast as that of bytes, and without Python's lock."""
    import ctypes

    function = ctypes.CDLL(None).memmem
    function.restype = ctypes.c_void_p
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    return function
