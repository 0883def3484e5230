"""Byte streams on their way in: compression found by its first bytes, and reading ahead in a thread."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from stagewright.errors import IntegrityError, StoreError, system_reason
from stagewright.snapshots.tarreader import BLOCK, Readable, is_header

_READ = 256 << 10
# Pieces of this size keep the interpreter's share small; a few of them wait at most.
PIECE = 1 << 20
_AHEAD = 6
_XZ_MEMORY = 512 << 20


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def decompressed(stream: Readable) -> Readable:
    """The plain bytes of a stream that is gzip, bzip2, xz, zstd, or nothing of this sort.

    Reads raise IntegrityError where the compressed bytes are damaged; memory stays bounded whatever they expand to.
    """
    first = _at_least(stream, BLOCK)
    source = _Prefixed(first, stream)
    match _form(first):
        case "gzip":
            return _Inflated(source, _gzip, "gzip")
        case "bzip2":
            return _Inflated(source, _bzip2, "bzip2")
        case "xz":
            return _Inflated(source, _xz, "xz")
        case "zstd":
            return _Unzstd(source)
    return source


def is_archive_head(first: bytes) -> bool:
    """Whether what begins with these bytes is a tar archive, or compressed and so perhaps one."""
    return _form(first) != ""


def _form(first: bytes) -> str:
    """What begins so: "tar", the name of a compression, or "" for anything else."""
    # A tar begins with a file's name, which may look like anything.
    if is_header(first):
        return "tar"
    if first.startswith(b"\x1f\x8b"):
        return "gzip"
    if first.startswith(b"BZh"):
        return "bzip2"
    if first.startswith(b"\xfd7zXZ\0"):
        return "xz"
    if first.startswith(b"\x28\xb5\x2f\xfd") or (first[1:4] == b"\x2a\x4d\x18" and first[0] >> 4 == 5):
        return "zstd"
    return ""


class Counted:
    """A stream whose `count` tells how many bytes were read from it."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.count = 0

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        data = self._stream.read(size)
        self.count += len(data)
        return data


def _at_least(stream: Readable, size: int) -> bytes:
    data = stream.read(_READ)
    while len(data) < size and (more := stream.read(_READ)):
        data += more
    return data


class _Prefixed:
    """A stream with bytes that were read from it put back."""

    def __init__(self, first: bytes, stream: Readable) -> None:
        self._first = first
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        if not self._first:
            return self._stream.read(size)
        data, self._first = self._first[:size], self._first[size:]
        return data


def _gzip() -> _Decompressor:
    from isal import igzip_lib

    decompressor: _Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return decompressor


def _bzip2() -> _Decompressor:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> _Decompressor:
    import lzma

    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)


class _Inflated:
    """A stream of one or more compressed members behind each other."""

    def __init__(self, stream: Readable, make: Callable[[], _Decompressor], name: str) -> None:
        self._stream = stream
        self._make = make
        self._name = name
        self._decompressor: _Decompressor | None = None
        self._input = b""

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decompressor is None and not self._begin_member():
                return b""
            decompressor = self._decompressor
            assert decompressor is not None
            if decompressor.needs_input and not self._input:
                self._input = self._stream.read(_READ)
                if not self._input:
                    raise IntegrityError(f"{self._name} data ends too early")
            try:
                data = decompressor.decompress(self._input, size)
            except Exception as error:  # Each library has its own class for damage.
                raise IntegrityError(f"{self._name} data is damaged: {error}") from error
            self._input = b""
            if decompressor.eof:
                self._input = decompressor.unused_data
                self._decompressor = None
            if data:
                return data

    def _begin_member(self) -> bool:
        # Padding with zeros, as tapes and block devices leave it, is no further member.
        self._input = self._input.lstrip(b"\0")
        while not self._input:
            data = self._stream.read(_READ)
            if not data:
                return False
            self._input = data.lstrip(b"\0")
        self._decompressor = self._make()
        return True


class _Unzstd:
    """A stream of one or more zstd frames behind each other.

    The library bounds what one call puts out only by what it is given; four bytes may stand for 128 KiB.
    """

    _FEED = 1 << 10

    def __init__(self, stream: Readable) -> None:
        import zstandard

        self._stream = stream
        self._make = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._frame = self._make()
        self._input = memoryview(b"")
        self._begun = False
        self._output = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        pieces = [self._output]
        ready = len(self._output)
        while ready < size and (self._input or self._fill()):
            piece = self._decompress()
            if piece:
                pieces.append(memoryview(piece))
                ready += len(piece)
        # A bomb's last piece is far larger than what is asked for: it is cut, not copied.
        last = pieces[-1]
        kept = len(last) - max(0, ready - size)
        pieces[-1], self._output = last[:kept], last[kept:]
        return b"".join(pieces)

    def _fill(self) -> bool:
        self._input = memoryview(self._stream.read(_READ))
        if not self._input and self._begun:
            raise IntegrityError("zstd data ends too early")
        return bool(self._input)

    def _decompress(self) -> bytes:
        given = self._input[: self._FEED]
        self._begun = True
        try:
            data: bytes = self._frame.decompress(given)
        except self._error as error:
            raise IntegrityError(f"zstd data is damaged: {error}") from error
        left = 0
        if self._frame.eof:
            left = len(self._frame.unused_data)
            self._frame = self._make()
            self._begun = False
        self._input = self._input[len(given) - left :]
        return data


class ReadAhead:
    """Reads a stream in a thread of its own, so that decompressing and hashing overlap with what the reader does.

    Used as a context manager; `drain()` reads what is left and `digest()` is then the sha256 digest of all of it.
    What the stream raises comes out of `read()`, an OSError as a StoreError.
    """

    def __init__(self, stream: Readable) -> None:
        import queue
        import threading

        self._stream = stream
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._stopped = False
        self._failure: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopped = True
        while not self._ended:
            self._next()
        self._thread.join()

    def read(self, size: int, /) -> bytes:
        """The next piece, whatever `size` asks for up to the size of one piece."""
        data = self._next()
        if isinstance(self._failure, OSError):
            raise StoreError(f"cannot read the archive: {system_reason(self._failure)}") from self._failure
        if self._failure is not None:
            raise self._failure
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(PIECE):
            pass

    def digest(self) -> str:
        """`sha256:...` of all that was read; the stream must be at its end."""
        return "sha256:" + self._hash.hexdigest()

    def _next(self) -> bytes:
        if self._ended:
            return b""
        item = self._queue.get()
        if isinstance(item, bytes):
            self._ended = not item
            return item
        self._ended = True
        self._failure = item
        return b""

    def _run(self) -> None:
        try:
            while not self._stopped:
                data = self._stream.read(PIECE)
                if not data:
                    break
                self._hash.update(data)
                self._queue.put(data)
            self._queue.put(b"")
        except BaseException as error:  # It is raised in the thread that reads.
            self._queue.put(error)
