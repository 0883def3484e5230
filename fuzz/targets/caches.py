"""The record of an exported cache, or the list of a cache mount: refused, or the same again when it is written."""

from __future__ import annotations

import zstandard

from stagewright.errors import IntegrityError
from stagewright.travel.files import FileList
from stagewright.travel.record import CacheRecord

TOKENS = (
    b'"layers":[', b'"steps":[', b'"mounts":[', b'"blob":"sha256:', b'"parent":', b'"annotations":{', b'"diffID":"',
    b'"canonical":"d:', b'"keys":["c:', b'"layer":', b'"variant":"gzip:2"', b'"created":', b'"packs":[', b'"files":{',
    b'"entries":[', b'"kind":"hard"', b'"kind":"link"', b'"kind":"dir"', b'"path":"', b'"target":"', b'"contents":[[',
    b'"mode":', b'"uid":', b'"mtime":', b"../", b"/", b"-1", b"4294967295", b'"\\udcff"', b'"\\ud800"', b"null", b"[]",
    b'"xattrs":[["user.a","YQ=="]]', b'"security.capability"', b"a" * 64,
)  # fmt: skip


def check(data: bytes) -> None:
    """Fails for anything but an IntegrityError, for what changes, and for a path that leads out of its folder."""
    try:
        record = CacheRecord.from_bytes(data)
    except IntegrityError as error:
        error.render().encode("utf-8", "surrogatepass")
    else:
        written = record.to_bytes()
        assert CacheRecord.from_bytes(written).to_bytes() == written
        for step in record.steps:
            assert len(record.chain(step.layer)) <= len(record.layers)
    for compressed in (data, zstandard.ZstdCompressor(level=1).compress(data)):
        try:
            files = FileList.from_bytes(compressed)
        except IntegrityError as error:
            error.render().encode("utf-8", "surrogatepass")
            continue
        folders = {entry.path for entry in files.entries if entry.kind == "dir"}
        for entry in files.entries[1:]:
            parent, _, name = entry.path.rpartition("/")
            assert parent in folders and name not in ("", ".", "..")
        assert FileList.from_bytes(files.to_bytes()) == files
