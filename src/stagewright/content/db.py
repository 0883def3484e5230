"""The one metadata file of a state directory: SQLite in WAL mode, its schema, and how it is opened.

Each room owns the tables that are listed under its name below and is the only one to write to them.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from stagewright.content.unsynced import Unsynced
from stagewright.errors import DamagedMetadataError, IntegrityError, StoreError

# What each version of the file adds to the one before; a file of an earlier one gets what it lacks when it is opened.
_SCHEMAS = (
    """
-- snapshots/: `dir` names the folder that holds the changes; two snapshots share one where a layer was put on another
-- parent (COPY --link). `chain_id` is the OCI chain ID of layers that came from an image.
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    parent INTEGER REFERENCES snapshots(id),
    dir TEXT NOT NULL,
    size INTEGER,
    chain_id TEXT UNIQUE,
    created REAL NOT NULL,
    last_used REAL NOT NULL
);
CREATE INDEX snapshots_parent ON snapshots(parent);
CREATE INDEX snapshots_dir ON snapshots(dir);
-- snapshots/: the blobs that a snapshot folder was packed to or unpacked from. `variant` tells how it was packed
-- ("" as it was pulled; else compression, level, media type family and timestamp rule).
CREATE TABLE layer_blobs (
    dir TEXT NOT NULL,
    variant TEXT NOT NULL,
    media_type TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    diff_id TEXT NOT NULL,
    PRIMARY KEY (dir, variant)
);
-- cache/: a definition key leads to the canonical key of the work, the canonical key to its result.
CREATE TABLE cache_keys (
    key TEXT PRIMARY KEY,
    canonical TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE cache_results (
    canonical TEXT PRIMARY KEY,
    snapshot INTEGER,
    name TEXT NOT NULL,
    created REAL NOT NULL,
    last_used REAL NOT NULL
);
CREATE INDEX cache_results_snapshot ON cache_results(snapshot);
-- cache/: digests of a snapshot's files as a step read them.
CREATE TABLE content_digests (
    snapshot INTEGER NOT NULL,
    selector TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (snapshot, selector)
) WITHOUT ROWID;
-- cache/: directories that RUN --mount=type=cache keeps between builds.
CREATE TABLE cache_mounts (
    id TEXT NOT NULL,
    dir TEXT NOT NULL UNIQUE,
    created REAL NOT NULL,
    last_used REAL NOT NULL
);
CREATE INDEX cache_mounts_id ON cache_mounts(id);
-- sources/: what a name meant when it was last asked for.
CREATE TABLE resolutions (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    resolved REAL NOT NULL
) WITHOUT ROWID;
-- content/: the image store. `descriptor` is the JSON of the manifest's or index's descriptor.
CREATE TABLE images (
    name TEXT PRIMARY KEY,
    descriptor TEXT NOT NULL,
    created REAL NOT NULL
) WITHOUT ROWID;
""",
    """
-- snapshots/: which folders were searched for which secrets, and where they hold its value (a JSON list). `mark` tells
-- one value of a secret from another; it is NULL where nobody looked at what a step that had the secret left.
CREATE TABLE secret_searches (
    dir TEXT NOT NULL,
    secret TEXT NOT NULL,
    mark INTEGER,
    places TEXT NOT NULL,
    PRIMARY KEY (dir, secret)
) WITHOUT ROWID;
""",
    """
-- snapshots/: folders of snapshots that are not there yet: who needs their files unpacks them from a blob that
-- `layer_blobs` names (a result that came from an imported cache).
CREATE TABLE lazy_layers (
    dir TEXT PRIMARY KEY
) WITHOUT ROWID;
""",
    """
-- snapshots/: files of the folder `dir` are hard links to files that were made in the folder `origin`.
CREATE TABLE linked_files (
    dir TEXT NOT NULL,
    origin TEXT NOT NULL,
    PRIMARY KEY (dir, origin)
) WITHOUT ROWID;
-- snapshots/: what a copy from a build context has made last: the folder, the paths in it (each ends where a NUL is),
-- and the digests of the files there, 32 bytes each.
CREATE TABLE context_copies (
    source TEXT PRIMARY KEY,
    dir TEXT NOT NULL,
    paths BLOB NOT NULL,
    digests BLOB NOT NULL
);
CREATE INDEX context_copies_dir ON context_copies(dir);
""",
    """
-- content/: where blobs of stored images are that were left where a cache or a push had them. `place` is a JSON object,
-- the options of a --cache-from.
CREATE TABLE blob_places (
    digest TEXT NOT NULL,
    place TEXT NOT NULL,
    PRIMARY KEY (digest, place)
);
""",
    """
-- content/: what may not be on the disk yet, and which boot of the machine wrote it (see `unsynced`).
CREATE TABLE unsynced (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    boot TEXT NOT NULL,
    UNIQUE (kind, name)
);
""",
)
SCHEMA_VERSION = len(_SCHEMAS)
_T = TypeVar("_T")
_SHOWN = 100
# What SQLite says of a sound file in which something else stands than was written.
_NOT_AS_WRITTEN = ("no such table", "no such column", "Could not decode")
# What cannot be decoded may be a part of the message itself.
_ERRORS = (sqlite3.Error, UnicodeDecodeError)


def statements_since(version: int) -> list[str]:
    """What a file of an earlier version lacks, 0 for one that is new."""
    lines = "\n".join(_SCHEMAS[version:]).splitlines()
    return "\n".join(line for line in lines if not line.startswith("--")).split(";")


class Database:
    """One connection to the metadata file, shared by the threads of a process under a lock.

    Other processes may have the same file open: a write waits for theirs (up to 60 s). Raises StoreError where the
    file is damaged, cannot be written, or was made by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._path = path
        self.unsynced = Unsynced(self, path.parent)
        try:
            # The layers below hold other people's setuid programs, which no other user may come by.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            try:
                self._open(path)
            except BaseException:
                self._connection.close()
                raise
        except _ERRORS as error:
            raise _refusal(path, "opened", error) from error
        except OSError as error:
            raise StoreError(f"cannot use the state directory {path.parent}: {error.strerror}") from error

    def _open(self, path: Path) -> None:
        version = self._version()
        if version < SCHEMA_VERSION:
            # SQLite does not wait for another process that is changing the journal's mode, so only one at a time does.
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                version = self._version()
                if version == 0:
                    self.unsynced.begin()
                    self._connection.execute("PRAGMA journal_mode=WAL")
                if version < SCHEMA_VERSION:
                    self._extend(version)
            finally:
                os.close(folder)
            version = self._version()
        self._connection.execute("PRAGMA synchronous=NORMAL")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} was made by another version of Stagewright (schema {version}, this one has {SCHEMA_VERSION})",
                hint="use that version, or another --root, or remove the state directory",
            )

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _extend(self, version: int) -> None:
        """Add what a file of this version lacks."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements_since(version):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION:d}")
            self._connection.execute("COMMIT")
        except BaseException:
            # Of some failures SQLite rolls back by itself, as where the disk is full.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def query(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT."""
        try:
            with self._lock:
                return self._connection.execute(sql, tuple(parameters)).fetchall()
        except _ERRORS as error:
            raise _refusal(self._path, "read", error) from error

    def execute(self, sql: str, parameters: Iterable[Any] = ()) -> int:
        """Run one statement that writes; answers the last row id (of an INSERT)."""
        try:
            with self._lock:
                return self._connection.execute(sql, tuple(parameters)).lastrowid or 0
        except _ERRORS as error:
            raise _refusal(self._path, "written", error) from error

    def decoded(self, text: str, decode: Callable[[Any], _T]) -> _T:
        """What a row's JSON stands for. Raises DamagedMetadataError where it is none, or not what was written."""
        try:
            return decode(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, IntegrityError) as error:
            raise _damaged(self._path, f"{text[:_SHOWN]!r} cannot be read") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements within take effect together, or none; nested uses join the outermost."""
        with self._lock:
            if self._depth:
                yield
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise _refusal(self._path, "written", error) from error
            self._depth = 1
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise _refusal(self._path, "written", error) from error
                raise
            finally:
                self._depth = 0

    @contextmanager
    def durably(self) -> Iterator[None]:
        """What is written within is on the disk by the end of each statement. For use outside of transactions."""
        with self._lock:
            self.execute("PRAGMA synchronous=FULL")
            try:
                yield
            finally:
                self.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _damaged(path: Path, why: str) -> DamagedMetadataError:
    return DamagedMetadataError(
        f"the metadata file {path} is damaged: {why}",
        file=file_at(path),
        hint="stagewright check says what of the store is whole, and check --repair lets builds work again",
    )


def _refusal(path: Path, doing: str, error: sqlite3.Error | UnicodeDecodeError) -> StoreError:
    """What SQLite's error means for who uses the store, and what can be done."""
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    is_unreadable = isinstance(error, UnicodeDecodeError) or str(error).startswith(_NOT_AS_WRITTEN)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or is_unreadable:
        return _damaged(path, str(error))
    # SQLite gives other names to a full disk, too, where it is about files beside the one that it writes to.
    other_name = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _is_full(path)
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE or other_name:
        return StoreError(
            f"the metadata file {path} cannot be {doing}: the disk is full",
            hint="make room on it; stagewright du says what the store takes, prune --all frees it",
        )
    if code == sqlite3.SQLITE_READONLY or (code == sqlite3.SQLITE_CANTOPEN and not os.access(path.parent, os.W_OK)):
        return StoreError(
            f"the metadata file {path} cannot be {doing}: the state directory is read-only",
            hint="make it writable, or use another --root",
        )
    return StoreError(
        f"the metadata file {path} cannot be {doing}: {error}",
        hint="the disk may be full, over its quota or failing" if code == sqlite3.SQLITE_IOERR else None,
    )


def file_at(path: Path) -> tuple[int, int]:
    """Which file is there now: its device and its inode."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _is_full(path: Path) -> bool:
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < 1 << 16 or (room.f_files > 0 and not room.f_favail)
