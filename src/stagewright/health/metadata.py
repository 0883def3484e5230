"""The metadata file as a file: whether SQLite can use it, and a new one in the place of one that it cannot.

What a damaged file said of the build cache is not trusted. The names of images can be: each leads to a digest, which
tells whether what it leads to is whole.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from stagewright.content.blobs import BlobStore
from stagewright.content.db import SCHEMA_VERSION, Database, statements_since
from stagewright.content.images import ImageStore
from stagewright.errors import IntegrityError, NotFoundError, UsageError
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Manifest, parse_manifest
from stagewright.registry.reference import Reference

_BESIDE = ("", "-wal", "-shm")
_COMPLAINTS = 5


def damage(path: Path) -> str:
    """What SQLite finds wrong with the file, or cannot read of it; "" for nothing, or where there is no file yet."""
    if not path.exists() or not path.stat().st_size:
        return ""
    try:
        with closing(_connect(path)) as connection:
            found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({_COMPLAINTS})")]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        return str(error)
    if found == ["ok"]:
        return _unreadable(path)
    return "; ".join(" ".join(complaint.split()) for complaint in found)


def _unreadable(path: Path) -> str:
    """What cannot be read of a file that SQLite finds sound: it takes all that stands in one for what was written."""
    with closing(_connect(path)) as connection, closing(sqlite3.connect(":memory:")) as wanted:
        if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
            return ""
        for statement in statements_since(0):
            wanted.execute(statement)
        try:
            for (table,) in wanted.execute("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE TABLE%'").fetchall():
                columns = ", ".join(row[1] for row in wanted.execute(f"PRAGMA table_info({table})"))
                for _ in connection.execute(f"SELECT {columns} FROM {table}"):  # noqa: S608
                    pass
        except (sqlite3.Error, UnicodeDecodeError) as error:
            return str(error)
    return ""


def rebuild(path: Path, blobs: BlobStore) -> tuple[Path, list[str]]:
    """Set a damaged file aside, and make one that knows the images whose blobs are whole.

    Answers where the damaged one is now, and the names that were kept. Nobody may have the file open.
    """
    named = _salvage(path)
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for ending in _BESIDE:
        with suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{aside}{ending}")
    kept = []
    with closing(Database(path)) as database:
        images = ImageStore(database)
        for name, descriptor in named.items():
            if is_complete(blobs, descriptor):
                images.put(name, descriptor)
                kept.append(name)
    return aside, sorted(kept)


def is_complete(blobs: BlobStore, target: Descriptor) -> bool:
    """Whether all blobs of an image, of an index those of one of its images, are here and whole."""
    try:
        document = parse_manifest(blobs.read(target.digest), target.media_type)
    except (NotFoundError, IntegrityError):
        return False
    if isinstance(document, Manifest):
        return all(
            blob.media_type in mediatypes.FOREIGN_LAYERS or blobs.is_whole(blob.digest)
            for blob in (document.config, *document.layers)
        )
    return any(is_complete(blobs, entry) for entry in document.manifests)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=60, isolation_level=None)


def _salvage(path: Path) -> dict[str, Descriptor]:
    """The names of images that can still be read, and what they lead to."""
    try:
        with closing(_connect(path)) as connection:
            # SQLite refuses a file that is shorter than it should be unless it is told to expect oddities.
            connection.execute("PRAGMA writable_schema=ON")
            rows = connection.execute("SELECT name, descriptor FROM images").fetchall()
        return dict(_readable(rows))
    except (sqlite3.Error, UnicodeDecodeError):
        return {}


def _readable(rows: list[tuple[str, str]]) -> list[tuple[str, Descriptor]]:
    readable = []
    for name, text in rows:
        with suppress(ValueError, TypeError, IntegrityError, UsageError):
            if str(Reference.parse(name)) == name:
                readable.append((name, Descriptor.from_json(json.loads(text))))
    return readable
