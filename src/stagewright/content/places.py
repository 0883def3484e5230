"""Where blobs of stored images are that never came into the store: an image whose layers a registry had already."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from stagewright.content.db import Database


class BlobPlaces:
    """The table `blob_places`. A place is the options of a `--cache-from`, with its `type`, and without credentials."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def note(self, digests: Iterable[str], places: Iterable[Mapping[str, str]]) -> None:
        """Note that each of these blobs is in each of these places."""
        texts = [json.dumps(place, sort_keys=True) for place in places]
        with self._db.transaction():
            for digest in digests:
                for text in texts:
                    self._db.execute("INSERT OR IGNORE INTO blob_places (digest, place) VALUES (?, ?)", (digest, text))

    def of(self, digest: str) -> list[dict[str, str]]:
        """The places of a blob, the one that was noted last at first."""
        rows = self._db.query("SELECT place FROM blob_places WHERE digest = ? ORDER BY rowid DESC", (digest,))
        return [self._db.decoded(place, dict) for (place,) in rows]

    def keep(self, digests: Collection[str]) -> None:
        """Forget all other blobs."""
        with self._db.transaction():
            for (digest,) in self._db.query("SELECT DISTINCT digest FROM blob_places"):
                if digest not in digests:
                    self._db.execute("DELETE FROM blob_places WHERE digest = ?", (digest,))
