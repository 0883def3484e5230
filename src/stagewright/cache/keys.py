"""Cache keys and their results.

Work is named twice. A *definition key* says how it would be made: the op and the canonical keys of its inputs. It leads
to a *canonical key*, which names the output for whatever is built on it: the content key where the op reads only some
files of its inputs, the definition key itself otherwise, a fresh one where the work was done anew without the cache.
Results (snapshots) hang on canonical keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from stagewright.content.db import Database
from stagewright.records import dataclass

# Uses are told apart to the minute, so that a build which finds all in its cache again has nothing to write.
_USE_RESOLUTION_S = 60
_PARAMETERS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class CachedResult:
    """What a canonical key leads to: a snapshot's id, None for the empty one (scratch)."""

    snapshot: int | None


@dataclass(frozen=True, slots=True)
class CachedKey:
    """The canonical key behind a key, and its result if that still exists."""

    canonical: str
    result: CachedResult | None


class KeyStore:
    """The tables of keys, results and content digests. Thread-safe; shared with other processes."""

    def __init__(self, db: Database) -> None:
        self._db = db
        # Whether the files of a result that came from an imported cache are here or can be fetched.
        self.obtainable: Callable[[int], bool] = lambda snapshot: False

    def lookup(self, key: str) -> CachedKey | None:
        """What a definition or content key leads to, if it was ever seen."""
        rows = self._db.query(
            "SELECT k.canonical, r.canonical, r.snapshot, s.id, EXISTS (SELECT 1 FROM lazy_layers) FROM cache_keys k"
            " LEFT JOIN cache_results r ON r.canonical = k.canonical"
            " LEFT JOIN snapshots s ON s.id = r.snapshot WHERE k.key = ?",
            (key,),
        )
        if not rows:
            return None
        canonical, recorded, snapshot, existing, any_lazy = rows[0]
        gone = recorded is None or (snapshot is not None and existing is None)
        if not gone and snapshot is not None and any_lazy:
            gone = not self.obtainable(snapshot)
        return CachedKey(canonical, None if gone else CachedResult(snapshot))

    def link(self, key: str, canonical: str) -> None:
        """Let `key` lead to `canonical` from now on."""
        self._db.execute(
            "INSERT INTO cache_keys (key, canonical) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET canonical = excluded.canonical",
            (key, canonical),
        )

    def save(self, keys: list[str], canonical: str, snapshot: int | None, name: str) -> None:
        """Record a result under its canonical key, and every key in `keys` as leading to it."""
        now = time.time()
        # A Dockerfile may hold any bytes, the database only characters.
        name = name.encode(errors="backslashreplace").decode()
        with self._db.transaction():
            for key in keys:
                self.link(key, canonical)
            self._db.execute(
                "INSERT INTO cache_results (canonical, snapshot, name, created, last_used) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (canonical) DO UPDATE SET snapshot = excluded.snapshot, name = excluded.name,"
                " created = excluded.created, last_used = excluded.last_used",
                (canonical, snapshot, name, now, now),
            )

    def touch(self, canonicals: list[str]) -> None:
        """Note that these results were used now, unless that is noted of the last minute already.

        A use that is noted of the future, by a clock that was wrong, would keep its result from ever being old.
        """
        now = time.time()
        for start in range(0, len(canonicals), _PARAMETERS_AT_ONCE):
            some = canonicals[start : start + _PARAMETERS_AT_ONCE]
            marks = ", ".join("?" * len(some))
            self._db.execute(
                f"UPDATE cache_results SET last_used = ?"  # noqa: S608
                f" WHERE last_used NOT BETWEEN ? AND ? AND canonical IN ({marks})",
                (now, now - _USE_RESOLUTION_S, now, *some),
            )

    def content_digest(self, snapshot: int, selector: str) -> str | None:
        """The digest of a snapshot's files that `selector` names, if it was computed before."""
        rows = self._db.query(
            "SELECT digest FROM content_digests WHERE snapshot = ? AND selector = ?", (snapshot, selector)
        )
        return str(rows[0][0]) if rows else None

    def save_content_digest(self, snapshot: int, selector: str, digest: str) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO content_digests (snapshot, selector, digest) VALUES (?, ?, ?)",
            (snapshot, selector, digest),
        )
