"""Which layers were searched for which secrets, and what was found, so that no layer is searched twice for one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from stagewright.content.db import Database
from stagewright.records import dataclass

# Enough to notice another value, and no help to whoever guesses it: each guess fits with 1 in 65536.
_MARK_BYTES = 2


@dataclass(frozen=True, slots=True)
class Searched:
    """What is known of a secret in a layer.

    `mark` tells one value from another (see `mark_of`), None where the layer's step had the secret and nobody looked.
    `places` are where the value is.
    """

    mark: int | None
    places: tuple[str, ...] = ()


class SecretSearches:
    """The table `secret_searches`. Layers go by the names of their folders, as in `layer_blobs`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, folder: str) -> dict[str, Searched]:
        """What is known of a layer, by the secret's ID."""
        rows = self._db.query("SELECT secret, mark, places FROM secret_searches WHERE dir = ?", (folder,))
        return {secret: Searched(mark, self._db.decoded(places, tuple)) for secret, mark, places in rows}

    def record(self, folder: str, secret: str, mark: int | None, places: Sequence[str] = ()) -> None:
        """Note what a search came to; `places` must not hold the value themselves."""
        self._db.execute(
            "INSERT OR REPLACE INTO secret_searches (dir, secret, mark, places) VALUES (?, ?, ?, ?)",
            (folder, name_of(secret), mark, json.dumps(places)),
        )


def name_of(secret: str) -> str:
    """A secret's ID as the table has it: it may hold any bytes, the database only characters."""
    return secret.encode(errors="backslashreplace").decode()


def mark_of(value: bytes) -> int:
    """A number that differs, most likely, for another value of a secret."""
    return int.from_bytes(hashlib.sha256(value).digest()[:_MARK_BYTES])
