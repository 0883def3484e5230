"""A cache in a folder that several builds export to."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stagewright.content.blobs import BlobStore
from stagewright.errors import CanceledError
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import sha256_digest
from stagewright.image.platform import Platform
from stagewright.travel.oci import LocalStore
from stagewright.travel.options import LocalPlace
from stagewright.travel.record import CacheRecord, CacheStep


def store(folder: Path, tag: str) -> LocalStore:
    return LocalStore(LocalPlace(str(folder / "cache"), tag), BlobStore(folder / "blobs"), Platform("linux", "amd64"))


def test_each_tag_of_builds_at_once_is_kept(tmp_path: Path) -> None:
    tags = [f"tag{number}" for number in range(24)]

    def export(tag: str) -> None:
        record = CacheRecord((), (CacheStep(f"c:{tag}", (), tag, is_empty=True),))
        store(tmp_path, tag).publish(record, (), threading.Event())

    with ThreadPoolExecutor(len(tags)) as pool:
        list(pool.map(export, tags))
    index = json.loads((tmp_path / "cache" / "index.json").read_text())
    kept = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]
    assert sorted(kept) == sorted(tags)
    loaded = store(tmp_path, "tag7").load(threading.Event())
    assert [step.canonical for step in loaded.steps] == ["c:tag7"]


def test_a_blob_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    data = b"layer" * 1000
    blob = Descriptor("application/octet-stream", sha256_digest(data), len(data))
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CanceledError):
        store(tmp_path, "latest").put(blob, lambda: io.BytesIO(data), cancel)
    written = tmp_path / "cache" / "blobs" / "sha256"
    assert list(written.iterdir()) == []
    store(tmp_path, "latest").put(blob, lambda: io.BytesIO(data), threading.Event())
    assert [path.read_bytes() for path in written.iterdir()] == [data]
