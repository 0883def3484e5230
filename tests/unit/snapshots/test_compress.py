"""Layer blobs are right for every compression, level and size, and the same each time."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
from pathlib import Path

import pytest
import zstandard

from stagewright.content.blobs import BlobStore
from stagewright.errors import UsageError
from stagewright.image import mediatypes
from stagewright.snapshots.compress import Compression, LayerBlob, LayerSink


def plain(data: bytes, kind: str) -> bytes:
    if kind == "gzip":
        return gzip.decompress(data)
    if kind == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def pack(blobs: BlobStore, data: bytes, compression: Compression, piece: int) -> LayerBlob:
    with LayerSink(blobs, compression) as sink:
        for at in range(0, len(data), piece):
            sink.write(data[at : at + piece])
        return sink.finish()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 20_000_000])
@pytest.mark.parametrize("kind", ["gzip", "zstd", "uncompressed"])
def test_a_blob_holds_what_was_written(tmp_path: Path, kind: str, size: int) -> None:
    blobs = BlobStore(tmp_path)
    data = (random.Random(size).randbytes(1000) + b"compressible " * 100) * (size // 2300 + 1)
    data = data[:size]
    blob = pack(blobs, data, Compression(kind), 70_001)
    content = blobs.path(blob.digest).read_bytes()
    assert plain(content, kind) == data
    assert blob.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert blob.digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert blob.size == len(content)
    assert pack(blobs, data, Compression(kind), 1 << 19) == blob


@pytest.mark.parametrize("compression", [Compression("gzip", level) for level in range(10)] + [Compression("zstd", 19)])
def test_every_level_can_be_read(tmp_path: Path, compression: Compression) -> None:
    data = b"".join(b"%d\n" % number for number in range(100_000))
    blob = pack(BlobStore(tmp_path), data, compression, 1 << 20)
    assert plain(BlobStore(tmp_path).path(blob.digest).read_bytes(), compression.type) == data


def test_gzip_headers_say_nothing_of_time_and_place(tmp_path: Path) -> None:
    blob = pack(BlobStore(tmp_path), b"x", Compression(), 1)
    assert BlobStore(tmp_path).path(blob.digest).read_bytes()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def test_media_types_name_the_compression(tmp_path: Path) -> None:
    types = [
        pack(BlobStore(tmp_path), b"x", Compression(kind), 1).media_type for kind in ("gzip", "zstd", "uncompressed")
    ]
    assert types == [mediatypes.OCI_LAYER_GZIP, mediatypes.OCI_LAYER_ZSTD, mediatypes.OCI_LAYER]


def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    with pytest.raises(KeyError), LayerSink(blobs, Compression()) as sink:
        sink.write(os.urandom(5_000_000))
        raise KeyError
    assert list(blobs.digests()) == []
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []


@pytest.mark.parametrize(("kind", "level"), [("estargz", None), ("gzip", 10), ("gzip", -1), ("zstd", 23)])
def test_unknown_compressions_and_levels_are_refused(kind: str, level: int | None) -> None:
    with pytest.raises(UsageError):
        Compression(kind, level)
