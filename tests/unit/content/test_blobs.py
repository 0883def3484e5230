import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError, StoreError
from stagewright.image.digest import sha256_digest

MISSING = "sha256:" + "0" * 64


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


def ingest(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "ingest")


def test_what_is_written_can_be_read(store: BlobStore, tmp_path: Path) -> None:
    digest = store.write(b"hello")
    assert digest == sha256_digest(b"hello")
    assert store.path(digest) == tmp_path / "blobs" / "sha256" / digest[7:]
    assert store.has(digest) and store.has(digest, 5) and not store.has(digest, 6)
    assert store.size(digest) == 5 and store.read(digest) == b"hello"
    with store.open(digest) as file:
        assert file.read() == b"hello"
    assert list(store.digests()) == [(digest, 5)]
    assert ingest(tmp_path) == []
    store.delete(digest)
    store.delete(digest)
    assert not store.has(digest) and list(store.digests()) == []


def test_what_is_there_is_not_written_again_unless_it_is_damaged(store: BlobStore) -> None:
    digest = store.write(b"data")
    path = store.path(digest)
    before = path.stat().st_ino
    assert (store.write(b"data"), path.stat().st_ino) == (digest, before)
    path.chmod(0o644)
    path.write_bytes(b"DATA")
    assert (store.write(b"data"), store.read(digest)) == (digest, b"data")


def test_what_is_not_there_is_not_found(store: BlobStore) -> None:
    assert not store.has(MISSING)
    for method in (store.size, store.open, store.read):
        with pytest.raises(NotFoundError, match=MISSING):
            method(MISSING)


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "sha256:" + "A" * 64, "../x:y", ""])
def test_a_name_that_is_no_digest_touches_nothing(store: BlobStore, digest: str) -> None:
    for method in (store.path, store.has, store.size, store.open, store.read, store.delete):
        with pytest.raises(IntegrityError):
            method(digest)


@pytest.mark.parametrize(("data", "size"), [(b"hellO", 5), (b"hell", 5), (b"hello!", 5), (b"", 5), (b"hellO", None)])
def test_wrong_bytes_are_discarded(store: BlobStore, tmp_path: Path, data: bytes, size: int | None) -> None:
    with pytest.raises(IntegrityError), store.writer(expected=sha256_digest(b"hello"), size=size) as writer:
        writer.write(data)
        writer.commit()
    assert list(store.digests()) == [] and ingest(tmp_path) == []


def test_more_than_the_expected_size_is_refused_at_once(store: BlobStore) -> None:
    with store.writer(size=3) as writer:
        writer.write(b"abc")
        with pytest.raises(IntegrityError, match="longer"):
            writer.write(b"d")
        assert writer.offset == 3


def test_an_expected_sha512_is_verified_as_such(store: BlobStore) -> None:
    import hashlib

    digest = "sha512:" + hashlib.sha512(b"hello").hexdigest()
    with store.writer(expected=digest, size=5) as writer:
        writer.write(b"hello")
        assert writer.commit() == digest
    assert store.read(digest) == b"hello"


def test_a_large_or_damaged_blob_is_not_read(store: BlobStore) -> None:
    digest = store.write(b"x" * 100)
    with pytest.raises(IntegrityError, match="larger"):
        store.read(digest, limit=99)
    store.path(digest).write_bytes(b"y" * 100)
    with pytest.raises(IntegrityError):
        store.read(digest)
    assert store.write(b"x" * 100) == digest
    assert store.read(digest) == b"x" * 100


def test_two_writers_of_one_blob_both_succeed(store: BlobStore, tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    found = []

    def write() -> None:
        with store.writer() as writer:
            writer.write(b"same")
            barrier.wait()
            found.append(writer.commit())

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [sha256_digest(b"same")] * 8
    assert list(store.digests()) == [(found[0], 4)] and ingest(tmp_path) == []


def test_a_dead_writers_file_is_cleaned_and_a_live_ones_is_not(store: BlobStore, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from stagewright.content.blobs import BlobStore\n"
        "writer = BlobStore(Path(sys.argv[1])).writer(); writer.write(b'x' * 100_000); writer._file.flush()\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        with store.writer() as mine:
            mine.write(b"mine")
            assert store.clean() == 0
            assert len(ingest(tmp_path)) == 2
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert store.clean() == 100_000
            assert store.read(mine.commit()) == b"mine"
    finally:
        child.kill()
        child.communicate()
    assert ingest(tmp_path) == []


def test_a_clean_between_creation_and_lock_costs_nothing(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fcntl.flock, []

    def flock(file: object, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            for name in ingest(tmp_path):
                (tmp_path / "ingest" / name).unlink()
        real(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", flock)
    assert store.read(store.write(b"kept")) == b"kept"
    assert len(calls) == 2


def test_clean_of_a_store_that_never_was_is_nothing(store: BlobStore) -> None:
    assert store.clean() == 0


def test_a_store_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        BlobStore(tmp_path / "file").write(b"x")
