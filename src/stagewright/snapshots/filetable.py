"""A note of some bytes on each file of a tree, in little memory: there may be hundreds of thousands of files."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

# So many pieces are spread out at any time: the folders on the way to a file, which is asked for behind others of its
# folder. More are as long as they have no more than so many files.
_PIECES_SPREAD = 32
_FILES_SPREAD = 30_000
# A folder with more files than that is in several pieces.
_PIECE_FILES = 1024
# Notes that nobody asked for are few below that number.
_FEW = 1000

_Notes = dict[str, bytes]
# No folder and no piece is called so.
_NOTHING: tuple[str, str, _Notes, _Notes] = ("\0", "\0\0", {}, {})

Packed = dict[str, tuple[str, bytes]]
"""By piece the names of its files, with NUL between them, and their notes, joined.

A piece is called as its folder is. The pieces of a folder that has several have, behind that and NUL, the name before
which no name of the piece comes; that of the first one is empty.
"""


class FileTable:
    """Notes of `size` bytes each by the paths of files. Thread-safe.

    Held are two objects a piece, and a few pieces spread out. `packed` is what a table gave before.
    """

    def __init__(self, size: int, packed: Packed | None = None) -> None:
        self._size = size
        self._packed: Packed = packed or {}
        self._count = sum(len(notes) for _, notes in self._packed.values()) // size
        # Of folders in several pieces with what names these begin, in order.
        self._firsts: dict[str, list[str]] = {}
        for folder, first in sorted(key.split("\0") for key in self._packed if "\0" in key):
            firsts = self._firsts.setdefault(folder, [""])
            if first:
                firsts.append(first)
        # How many files of a piece, the first of its names, were asked for or noted.
        self._used: dict[str, int] = {}
        # Of folders that were asked for as a whole the names, the notes, and how many came last.
        self._rows: dict[str, tuple[list[str], bytes, int]] = {}
        # Of pieces that are spread out the files that were not asked for, and the others.
        self._spread: dict[str, tuple[dict[str, bytes], dict[str, bytes]]] = {}
        self._spread_files = 0
        self._changed: set[str] = set()
        self._last = _NOTHING
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def get(self, path: str) -> bytes | None:
        """The note on a file, None where there is none."""
        folder, _, name = path.rpartition("/")
        last, _, _, used = self._last
        if folder == last and (note := used.get(name)) is not None:
            return note
        with self._lock:
            _, idle, used = self._at_hand(folder, name)
            note = used.get(name)
            if note is None and idle:
                note = idle.pop(name, None)
                if note is not None:
                    used[name] = note
            return note

    def run(self, paths: Sequence[str], starts: Sequence[bytes]) -> list[bytes] | None:
        """The notes on files of one folder that were packed one behind the other, if each begins with that, else None.

        The same as asking for each, at a part of the cost. Of a folder in several pieces nothing is known so.
        """
        folder = paths[0].rpartition("/")[0]
        begin = len(folder) + 1 if folder else 0
        names = [path[begin:] for path in paths]
        with self._lock:
            if folder in self._firsts:
                return None
            if folder in self._spread:
                if self._spread[folder][0]:
                    return None
                # All were asked for one by one, and now they are once more.
                self._fold(folder)
                self._last = _NOTHING
            row = self._rows.pop(folder, None)
            if row is None:
                if len(self._rows) >= _PIECES_SPREAD:
                    self._rows.pop(next(iter(self._rows)))
                packed, notes = self._packed.get(folder, ("", b""))
                row = packed.split("\0") if notes else [], notes, self._used.get(folder, 0)
            known, notes, following = row
            # Whoever asks again begins at the beginning.
            for first in (following, 0):
                end = first + len(names)
                if known[first:end] == names:
                    places = range(first * self._size, end * self._size, self._size)
                    if not all(map(notes.startswith, starts, places)):
                        break
                    self._rows[folder] = known, notes, end
                    self._used[folder] = max(end, self._used.get(folder, 0))
                    return [notes[at : at + self._size] for at in places]
            return None

    def put(self, path: str, note: bytes) -> None:
        """Note something on a file in place of what was noted before."""
        folder, _, name = path.rpartition("/")
        with self._lock:
            piece, idle, used = self._at_hand(folder, name)
            if idle.pop(name, None) is None and name not in used:
                self._count += 1
                self._spread_files += 1
            used[name] = note
            self._changed.add(piece)
            if len(used) + len(idle) > _PIECE_FILES:
                self._split(folder, piece)

    def items(self) -> Iterator[tuple[str, bytes]]:
        """All files and what is noted on them."""
        for piece, (names, notes) in self._all().items():
            folder = piece.partition("\0")[0]
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
        for piece, count in self._used.items():
            names, notes = whole[piece]
            kept[piece] = "\0".join(names.split("\0", count)[:count]), notes[: count * self._size]
        return kept

    def _all(self) -> Packed:
        with self._lock:
            while self._spread:
                self._fold(next(iter(self._spread)))
            self._last = _NOTHING
            return self._packed

    def _at_hand(self, folder: str, name: str) -> tuple[str, _Notes, _Notes]:
        """The piece that a file belongs to, spread out as long as no others take its place."""
        firsts = self._firsts.get(folder)
        piece = folder
        if firsts:
            # Few contexts have such a folder.
            from bisect import bisect_right

            piece = f"{folder}\0{firsts[bisect_right(firsts, name) - 1]}"
        _, last, idle, used = self._last
        if piece != last:
            idle, used = self._spread_out(piece)
            self._last = folder, piece, idle, used
        return piece, idle, used

    def _spread_out(self, piece: str) -> tuple[_Notes, _Notes]:
        spread = self._spread.pop(piece, None)
        if spread is None:
            while len(self._spread) >= _PIECES_SPREAD and self._spread_files > _FILES_SPREAD:
                self._fold(next(iter(self._spread)))
            self._rows.pop(piece, None)
            names, notes = self._packed.get(piece, ("", b""))
            size = self._size
            pieces = [notes[at : at + size] for at in range(0, len(notes), size)]
            files = list(zip(names.split("\0"), pieces, strict=True)) if pieces else []
            count = self._used.get(piece, 0)
            spread = dict(files[count:]), dict(files[:count])
            self._spread_files += len(files)
        self._spread[piece] = spread
        return spread

    def _split(self, folder: str, piece: str) -> None:
        """Make two of a piece that is spread out."""
        from bisect import insort

        parts = self._spread.pop(piece)
        for known in (self._packed, self._used):
            known.pop(piece, None)
        self._changed.discard(piece)
        names = sorted(name for part in parts for name in part)
        middle = names[len(names) // 2]
        insort(self._firsts.setdefault(folder, [""]), middle)
        for first, low in ((piece.partition("\0")[2], True), (middle, False)):
            idle, used = ({name: note for name, note in part.items() if (name < middle) is low} for part in parts)
            self._spread[f"{folder}\0{first}"] = idle, used
            self._changed.add(f"{folder}\0{first}")
        self._last = _NOTHING

    def _fold(self, piece: str) -> None:
        idle, used = self._spread.pop(piece)
        self._spread_files -= len(idle) + len(used)
        # As long as all were asked for, or none, and none was noted, nothing is other than it was.
        if piece in self._changed or (idle and used):
            self._packed[piece] = "\0".join([*used, *idle]), b"".join([*used.values(), *idle.values()])
            self._changed.discard(piece)
        if used:
            self._used[piece] = len(used)
