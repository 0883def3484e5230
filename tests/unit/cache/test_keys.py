"""The store of keys: what leads where, and what is left when a result is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stagewright.cache.keys import CachedKey, CachedResult, KeyStore
from stagewright.content.db import Database


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "metadata.db")
    yield made
    made.close()


@pytest.fixture
def keys(db: Database) -> KeyStore:
    return KeyStore(db)


def snapshot(db: Database) -> int:
    return db.execute("INSERT INTO snapshots (dir, created, last_used) VALUES ('x', 0, 0)")


def test_all_keys_of_a_result_lead_to_it(db: Database, keys: KeyStore) -> None:
    made = snapshot(db)
    keys.save(["d:1", "c:1"], "c:1", made, "name")
    found = CachedKey("c:1", CachedResult(made))
    assert keys.lookup("d:1") == keys.lookup("c:1") == found
    assert keys.lookup("d:2") is None
    keys.link("d:2", "c:1")
    assert keys.lookup("d:2") == found


def test_a_newer_result_replaces_an_older_one(db: Database, keys: KeyStore) -> None:
    first, second = snapshot(db), snapshot(db)
    keys.save(["d:1"], "d:1", first, "name")
    keys.save(["d:1"], "n:1", second, "name")
    assert keys.lookup("d:1") == CachedKey("n:1", CachedResult(second))
    keys.save(["d:1"], "n:1", first, "name")
    assert keys.lookup("d:1") == CachedKey("n:1", CachedResult(first))


def test_a_removed_snapshot_leaves_its_canonical_key(db: Database, keys: KeyStore) -> None:
    made = snapshot(db)
    keys.save(["d:1"], "c:1", made, "name")
    db.execute("DELETE FROM snapshots")
    assert keys.lookup("d:1") == CachedKey("c:1", None)
    keys.link("d:2", "c:2")
    assert keys.lookup("d:2") == CachedKey("c:2", None)


def test_the_empty_result_needs_no_snapshot(keys: KeyStore) -> None:
    keys.save(["d:1"], "d:1", None, "scratch")
    assert keys.lookup("d:1") == CachedKey("d:1", CachedResult(None))


def test_use_is_noted(db: Database, keys: KeyStore) -> None:
    keys.save(["d:1"], "d:1", None, "")
    db.execute("UPDATE cache_results SET last_used = 0")
    keys.touch(["d:1", "unknown"])
    assert db.query("SELECT last_used > 0 FROM cache_results") == [(1,)]


def test_content_digests(keys: KeyStore) -> None:
    assert keys.content_digest(1, "a") is None
    keys.save_content_digest(1, "a", "sha256:1")
    keys.save_content_digest(1, "a", "sha256:2")
    assert keys.content_digest(1, "a") == "sha256:2"
    assert keys.content_digest(1, "b") is None
    assert keys.content_digest(2, "a") is None
