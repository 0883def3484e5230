"""Compressed streams: what they are is found out, damage is seen, memory stays bounded."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import IntegrityError, StoreError
from stagewright.snapshots.streams import ReadAhead, decompressed, is_archive_head
from stagewright.snapshots.tarreader import Readable

SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip members": lambda data: b"".join(gzip.compress(data[at : at + 7]) for at in range(0, len(data), 7)),
    "gzip padded": lambda data: gzip.compress(data) + bytes(700),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "zstd frames": lambda data: zstandard.compress(data[:5]) + SKIPPABLE + zstandard.compress(data[5:]),
    "zstd after a skippable frame": lambda data: SKIPPABLE + zstandard.compress(data),
}


def read_all(stream: Readable, size: int = 1 << 20) -> bytes:
    pieces = []
    while piece := stream.read(size):
        assert len(piece) <= size
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("packer", PACKERS)
@given(st.binary(max_size=300), st.integers(1, 100))
def test_the_compression_does_not_show(packer: str, data: bytes, size: int) -> None:
    data = b"tar " + data
    assert read_all(decompressed(io.BytesIO(PACKERS[packer](data))), size) == data


@pytest.mark.parametrize("packer", [name for name in PACKERS if name != "plain"])
def test_a_compression_is_known_by_its_beginning(packer: str) -> None:
    assert is_archive_head(PACKERS[packer](b"anything that is long enough"))


@pytest.mark.parametrize("head", [b"", b"B", b"FROM scratch\n", b"BZ FROM", bytes(1024), b"#!/bin/sh\n" * 99])
def test_what_is_no_archive_is_none(head: bytes) -> None:
    assert not is_archive_head(head)


def test_a_tar_is_known_by_its_first_header() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("BZhello"))
    assert is_archive_head(out.getvalue()[:512])
    assert not is_archive_head(out.getvalue()[:511].replace(b"BZh", b"aZh"))


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz", "zstd"])
def test_an_end_that_is_missing_is_seen(packer: str) -> None:
    packed = PACKERS[packer](os.urandom(50_000))
    for cut in (len(packed) // 2, len(packed) - 1):
        with pytest.raises(IntegrityError, match=f"{packer} data ends too early"):
            read_all(decompressed(io.BytesIO(packed[:cut])))


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz"])
def test_damage_is_seen(packer: str) -> None:
    packed = bytearray(PACKERS[packer](os.urandom(50_000)))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(IntegrityError, match="damaged"):
        read_all(decompressed(io.BytesIO(packed)))


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz", "zstd"])
def test_a_bomb_is_read_in_pieces(packer: str) -> None:
    stream = decompressed(io.BytesIO(PACKERS[packer](bytes(64 << 20))))
    assert len(stream.read(1 << 20)) <= 1 << 20


class Failing(io.BytesIO):
    """Fails after the first piece."""

    def __init__(self, error: Exception) -> None:
        super().__init__(b"x" * 10)
        self._error = error

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data:
            raise self._error
        return data


def test_reading_ahead_gives_the_same_bytes_and_their_digest() -> None:
    data = os.urandom(9_000_000)
    with ReadAhead(io.BytesIO(data)) as stream:
        assert read_all(stream) == data
        assert stream.digest() == "sha256:" + hashlib.sha256(data).hexdigest()


def test_reading_ahead_can_be_left_in_the_middle() -> None:
    with ReadAhead(io.BytesIO(bytes(50_000_000))) as stream:
        stream.read(1)
    assert not stream._thread.is_alive()


def test_reading_ahead_passes_errors_on() -> None:
    with ReadAhead(Failing(IntegrityError("bad"))) as stream, pytest.raises(IntegrityError, match="bad"):
        read_all(stream)
    with ReadAhead(Failing(OSError(5, "bad disk"))) as stream, pytest.raises(StoreError, match="bad disk"):
        read_all(stream)
