"""The image store: names of images that were built, pulled or loaded here, and what they lead to."""

from __future__ import annotations

import json
import time

from stagewright.content.db import Database
from stagewright.image.descriptor import Descriptor
from stagewright.records import dataclass


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One name in the store. `created` is when it was given, in seconds since the epoch."""

    name: str
    descriptor: Descriptor
    created: float


class ImageStore:
    """The table of names; a name is a whole reference, as `str(Reference)` writes it. The blobs are elsewhere."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, name: str) -> Descriptor | None:
        """What the name leads to, None if there is no such image."""
        rows = self._db.query("SELECT descriptor FROM images WHERE name = ?", (name,))
        return self._db.decoded(rows[0][0], Descriptor.from_json) if rows else None

    def put(self, name: str, descriptor: Descriptor) -> None:
        """Let the name lead to `descriptor` from now on; one that does already keeps its age."""
        self._db.execute(
            "INSERT INTO images (name, descriptor, created) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET descriptor = excluded.descriptor, created = excluded.created"
            " WHERE descriptor != excluded.descriptor",
            (name, json.dumps(descriptor.to_json()), time.time()),
        )

    def list(self) -> list[StoredImage]:
        """All names, in order."""
        rows = self._db.query("SELECT name, descriptor, created FROM images ORDER BY name")
        return [
            StoredImage(name, self._db.decoded(descriptor, Descriptor.from_json), created)
            for name, descriptor, created in rows
        ]

    def remove(self, name: str) -> bool:
        """Forget the name; False if it was not there."""
        with self._db.transaction():
            known = bool(self._db.query("SELECT 1 FROM images WHERE name = ?", (name,)))
            self._db.execute("DELETE FROM images WHERE name = ?", (name,))
        return known
