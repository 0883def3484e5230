"""Where a tar stream goes: in chunks of one size, into which files are read without a copy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import BinaryIO

CHUNK = 1 << 20


class ChunkSink(ABC):
    """Gathers what is written into chunks of 1 MiB; `flush()` ends the last one."""

    def __init__(self) -> None:
        self._chunk = bytearray(CHUNK)
        self._used = 0

    @abstractmethod
    def send(self, chunk: bytearray) -> None:
        """Take a chunk, which is the receiver's from now on."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        view = memoryview(data)
        while view:
            space = self.space()
            piece = view[: len(space)]
            space[: len(piece)] = piece
            self.filled(len(piece))
            view = view[len(piece) :]

    def space(self) -> memoryview:
        """Where the next bytes may be put, at least one; `filled` then tells how many were."""
        return memoryview(self._chunk)[self._used :]

    def filled(self, count: int) -> None:
        """Count `count` bytes at the beginning of `space()` in."""
        self._used += count
        if self._used == CHUNK:
            self.flush()

    def copy(self, file: BinaryIO, size: int) -> None:
        """Append `size` bytes of a file. Raises EOFError where it has fewer."""
        while size:
            count = file.readinto(self.space()[:size])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            self.filled(count)
            size -= count

    def flush(self) -> None:
        """Send what was gathered."""
        if self._used:
            chunk, used, self._chunk, self._used = self._chunk, self._used, bytearray(CHUNK), 0
            del chunk[used:]
            self.send(chunk)


class FileSink(ChunkSink):
    """Writes to a binary file, which stays the caller's."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def send(self, chunk: bytearray) -> None:
        self._file.write(chunk)
