"""A note of some bytes on each file of a tree, in little memory: there may be hundreds of thousands of files."""

from __future__ import annotations

import threading
from collections.abc import Iterator

# So many folders are spread out at any time: those on the way to a file, which is asked for behind others of its
# folder. More are as long as they have no more than so many files.
_FOLDERS_SPREAD = 32
_FILES_SPREAD = 30_000
# Notes that nobody asked for are few below that number.
_FEW = 1000

Packed = dict[str, tuple[str, bytes]]
"""By folder the names of its files, with NUL between them, and their notes, joined."""


class FileTable:
    """Notes of `size` bytes each by the paths of files. Thread-safe.

    Held are two objects a folder, and a few folders spread out. `packed` is what a table gave before.
    """

    def __init__(self, size: int, packed: Packed | None = None) -> None:
        self._size = size
        self._packed: Packed = packed or {}
        self._count = sum(len(notes) for _, notes in self._packed.values()) // size
        # How many files of a folder, the first of its names, were asked for or noted.
        self._used: dict[str, int] = {}
        # Of folders that are spread out the files that were not asked for, and the others.
        self._spread: dict[str, tuple[dict[str, bytes], dict[str, bytes]]] = {}
        self._spread_files = 0
        self._changed: set[str] = set()
        self._last = ("", *self._at_hand(""))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def get(self, path: str) -> bytes | None:
        """The note on a file, None where there is none."""
        folder, _, name = path.rpartition("/")
        last, _, used = self._last
        if folder == last and (note := used.get(name)) is not None:
            return note
        with self._lock:
            last, idle, used = self._last
            if folder != last:
                idle, used = self._at_hand(folder)
                self._last = folder, idle, used
            note = used.get(name)
            if note is None and idle:
                note = idle.pop(name, None)
                if note is not None:
                    used[name] = note
            return note

    def put(self, path: str, note: bytes) -> None:
        """Note something on a file in place of what was noted before."""
        folder, _, name = path.rpartition("/")
        with self._lock:
            last, idle, used = self._last
            if folder != last:
                idle, used = self._at_hand(folder)
                self._last = folder, idle, used
            if idle.pop(name, None) is None and name not in used:
                self._count += 1
                self._spread_files += 1
            used[name] = note
            self._changed.add(folder)

    def items(self) -> Iterator[tuple[str, bytes]]:
        """All files and what is noted on them."""
        for folder, (names, notes) in self._all().items():
            prefix = f"{folder}/" if folder else ""
            for number, name in enumerate(names.split("\0")):
                yield prefix + name, notes[number * self._size : (number + 1) * self._size]

    def pack(self) -> Packed:
        """What a later table begins with. Files that nobody asked for are left out unless they are few."""
        whole = self._all()
        used = sum(self._used.values())
        if self._count <= 2 * used + _FEW:
            return whole
        kept: Packed = {}
        for folder, count in self._used.items():
            names, notes = whole[folder]
            kept[folder] = "\0".join(names.split("\0", count)[:count]), notes[: count * self._size]
        return kept

    def _all(self) -> Packed:
        with self._lock:
            while self._spread:
                self._fold(next(iter(self._spread)))
            self._last = ("", *self._at_hand(""))
            return self._packed

    def _at_hand(self, folder: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """The files of a folder, spread out, as long as no others take their place."""
        spread = self._spread.pop(folder, None)
        if spread is None:
            while len(self._spread) >= _FOLDERS_SPREAD and self._spread_files > _FILES_SPREAD:
                self._fold(next(iter(self._spread)))
            names, notes = self._packed.get(folder, ("", b""))
            size = self._size
            pieces = [notes[at : at + size] for at in range(0, len(notes), size)]
            files = list(zip(names.split("\0"), pieces, strict=True)) if pieces else []
            count = self._used.get(folder, 0)
            spread = dict(files[count:]), dict(files[:count])
            self._spread_files += len(files)
        self._spread[folder] = spread
        return spread

    def _fold(self, folder: str) -> None:
        idle, used = self._spread.pop(folder)
        self._spread_files -= len(idle) + len(used)
        if not used:
            return
        # As long as all were asked for, and none was noted, nothing is other than it was.
        if folder in self._changed or idle:
            self._packed[folder] = "\0".join([*used, *idle]), b"".join([*used.values(), *idle.values()])
            self._changed.discard(folder)
        self._used[folder] = len(used)
