"""A layer's tar stream on its way into the blob store: hashed, compressed in several threads, and written.

The bytes depend on the input, the compression and its level alone, not on the number of threads or on timing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stagewright.content.blobs import BlobStore
from stagewright.errors import UsageError
from stagewright.image import mediatypes
from stagewright.records import dataclass
from stagewright.snapshots.sinks import ChunkSink

if TYPE_CHECKING:
    from concurrent.futures import Future

_AHEAD = 6
# More compress threads than this only wait for the one that hashes.
_MAX_THREADS = 4

# ISA-L's levels end at 3; its 2 is within a tenth of the size of zlib's 6 at ten times the speed.
_GZIP_DEFAULT = 2
_ISAL_LEVELS = range(1, 4)
# The library's 3 takes twice as long for less than a tenth; 2 is still smaller than zlib's 6 on usual layers.
_ZSTD_DEFAULT = 2
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_EMPTY_LAST_BLOCK = b"\x03\0"

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Compression:
    """How a layer is compressed: `type` is "gzip", "zstd" or "uncompressed", `level` the tool's own, None its default.

    Raises UsageError for another type and for a level that the type does not have.
    """

    type: str = "gzip"
    level: int | None = None

    def __post_init__(self) -> None:
        levels = {"gzip": range(10), "zstd": range(23), "uncompressed": None}
        if self.type not in levels:
            raise UsageError(f'unsupported layer compression "{self.type}"', hint=f"one of {', '.join(levels)}")
        allowed = levels[self.type]
        if self.level is not None and allowed is not None and self.level not in allowed:
            raise UsageError(
                f"compression level {self.level} is not one of {self.type}'s ({allowed.start} to {allowed.stop - 1})"
            )

    def __str__(self) -> str:
        if self.type == "uncompressed":
            return self.type
        level = self.level
        if level is None:
            level = _GZIP_DEFAULT if self.type == "gzip" else _ZSTD_DEFAULT
        return f"{self.type}:{level}"


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer as a blob: `size` in bytes and `digest` are the blob's, `diff_id` is the digest of the plain tar."""

    media_type: str
    digest: str
    size: int
    diff_id: str


_OCI_TYPES = {
    "gzip": mediatypes.OCI_LAYER_GZIP,
    "zstd": mediatypes.OCI_LAYER_ZSTD,
    "uncompressed": mediatypes.OCI_LAYER,
}


class LayerSink(ChunkSink):
    """Takes a tar stream in pieces and makes the blob of it.

    A context manager: `finish()` answers the blob, leaving the block without it leaves nothing behind. Memory is
    bounded by a few chunks of 1 MiB, however large the layer.
    """

    def __init__(self, blobs: BlobStore, compression: Compression) -> None:
        from concurrent.futures import ThreadPoolExecutor

        super().__init__()
        self._type = compression.type
        self._writer = blobs.writer()
        self._diff = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, "layer-hash")
        self._hashing: deque[Future[None]] = deque()
        self._encoder = _encoder(compression)

    def __enter__(self) -> LayerSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._hasher.shutdown(cancel_futures=True)
        self._encoder.close()
        self._writer.discard()

    def finish(self) -> LayerBlob:
        """End the stream and put the blob into the store."""
        self.flush()
        while self._hashing:
            self._hashing.popleft().result()
        self._encoder.finish(self._writer.write)
        size = self._writer.offset
        return LayerBlob(_OCI_TYPES[self._type], self._writer.commit(), size, f"sha256:{self._diff.hexdigest()}")

    def send(self, chunk: bytearray) -> None:
        self._hashing.append(self._hasher.submit(self._diff.update, chunk))
        if len(self._hashing) > _AHEAD:
            self._hashing.popleft().result()
        self._encoder.write(chunk, self._writer.write)


class _Plain:
    """No compression."""

    def write(self, chunk: bytearray, out: Callable[[Buffer], int]) -> None:
        out(chunk)

    def finish(self, out: Callable[[Buffer], int]) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


class _Gzip:
    """One gzip member whose chunks are compressed apart from each other, several at once."""

    def __init__(self, level: int) -> None:
        import os
        from concurrent.futures import ThreadPoolExecutor

        self._level = level
        self._pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS), "layer-gzip")
        self._pending: deque[Future[bytes]] = deque()
        self._crc = self._length = 0
        self._begun = False

    def write(self, chunk: bytearray, out: Callable[[Buffer], int]) -> None:
        from isal import isal_zlib

        self._crc = isal_zlib.crc32(chunk, self._crc)
        self._length += len(chunk)
        self._pending.append(self._pool.submit(_deflate, chunk, self._level))
        if len(self._pending) > _AHEAD:
            self._drain_one(out)

    def finish(self, out: Callable[[Buffer], int]) -> None:
        while self._pending:
            self._drain_one(out)
        if not self._begun:
            out(_GZIP_HEADER)
        trailer = self._crc.to_bytes(4, "little") + (self._length & 0xFFFFFFFF).to_bytes(4, "little")
        out(_EMPTY_LAST_BLOCK + trailer)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _drain_one(self, out: Callable[[Buffer], int]) -> None:
        if not self._begun:
            out(_GZIP_HEADER)
            self._begun = True
        out(self._pending.popleft().result())


def _deflate(chunk: bytearray, level: int) -> bytes:
    if level in _ISAL_LEVELS:
        from isal import isal_zlib

        compressor: Any = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -15)
        data: bytes = compressor.compress(chunk) + compressor.flush(isal_zlib.Z_SYNC_FLUSH)
        return data
    import zlib

    deflater = zlib.compressobj(level, zlib.DEFLATED, -15)
    return deflater.compress(chunk) + deflater.flush(zlib.Z_SYNC_FLUSH)


class _Zstd:
    """One zstd frame, compressed by the library's own threads."""

    def __init__(self, level: int) -> None:
        import zstandard

        # With threads the frame is cut into jobs, whose number of threads does not show; without it looks different.
        self._compressor = zstandard.ZstdCompressor(level=level, threads=2).compressobj()

    def write(self, chunk: bytearray, out: Callable[[Buffer], int]) -> None:
        out(self._compressor.compress(chunk))

    def finish(self, out: Callable[[Buffer], int]) -> None:
        out(self._compressor.flush())

    def close(self) -> None:
        """The library frees its threads with the object."""


def _encoder(compression: Compression) -> _Plain | _Gzip | _Zstd:
    if compression.type == "gzip":
        return _Gzip(_GZIP_DEFAULT if compression.level is None else compression.level)
    if compression.type == "zstd":
        return _Zstd(compression.level or _ZSTD_DEFAULT)
    return _Plain()
