"""The rows of snapshots, as the metadata file has them; what lies in their folders is the business of `store.py`."""

from __future__ import annotations

import time
from collections.abc import Iterable

from stagewright.content.db import Database
from stagewright.errors import NotFoundError
from stagewright.records import dataclass

COLUMNS = "id, parent, dir, size, chain_id, created, last_used"
# All snapshots of a chain, by the id of the topmost one.
CHAIN = (
    f"WITH RECURSIVE chain({COLUMNS}, depth) AS (SELECT {COLUMNS}, 0 FROM snapshots WHERE id = ? UNION ALL"  # noqa: S608
    " SELECT s.id, s.parent, s.dir, s.size, s.chain_id, s.created, s.last_used, depth + 1"
    " FROM snapshots s JOIN chain ON s.id = chain.parent)"
)


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One snapshot as the metadata has it. `size` is in bytes, None until it was asked for; times are Unix seconds."""

    id: int
    parent: int | None
    dir: str
    size: int | None
    chain_id: str | None
    created: float
    last_used: float


class SnapshotRows:
    """The table `snapshots`, and that of the folders that are yet to come. Safe for use by threads and processes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def row(self, snapshot: int) -> SnapshotRow:
        """All that the metadata says about a snapshot."""
        rows = self._db.query(f"SELECT {COLUMNS} FROM snapshots WHERE id = ?", (snapshot,))  # noqa: S608
        if not rows:
            raise missing(snapshot)
        return SnapshotRow(*rows[0])

    def rows(self) -> list[SnapshotRow]:
        """All snapshots, the oldest first."""
        return [SnapshotRow(*row) for row in self._db.query(f"SELECT {COLUMNS} FROM snapshots ORDER BY id")]  # noqa: S608

    def exists(self, snapshot: int) -> bool:
        """Whether there is such a snapshot."""
        return bool(self._db.query("SELECT 1 FROM snapshots WHERE id = ?", (snapshot,)))

    def parent(self, snapshot: int) -> int | None:
        """The snapshot that this one's changes apply to; None for scratch."""
        return self.row(snapshot).parent

    def dir(self, snapshot: int) -> str:
        """The name under which `layer_blobs` knows the folder of a snapshot's changes; grafts share one."""
        return self.row(snapshot).dir

    def layers(self, snapshot: int | None) -> tuple[int, ...]:
        """The ids of the whole chain, the bottom layer first."""
        chain = []
        while snapshot is not None:
            chain.append(snapshot)
            snapshot = self.parent(snapshot)
        return tuple(reversed(chain))

    def by_chain(self, chain_id: str) -> int | None:
        """The snapshot of an image's layers, by their OCI chain ID, if its files are here."""
        rows = self._db.query(
            "SELECT id FROM snapshots WHERE chain_id = ? AND dir NOT IN (SELECT dir FROM lazy_layers)", (chain_id,)
        )
        return int(rows[0][0]) if rows else None

    def set_chain(self, snapshot: int, chain_id: str) -> int:
        """Note that a snapshot holds the layers with this chain ID; answers the one that was noted first."""
        self._db.execute("UPDATE OR IGNORE snapshots SET chain_id = ? WHERE id = ?", (chain_id, snapshot))
        return self.by_chain(chain_id) or snapshot

    def add_lazy(self, parent: int | None, chain_id: str, created: float | None) -> int:
        """The snapshot of an image's layers, by their OCI chain ID: a new one without a folder where there is none.

        `created` is when another machine made it (Unix seconds), None for now.
        """
        with self._db.transaction():
            rows = self._db.query("SELECT id FROM snapshots WHERE chain_id = ?", (chain_id,))
            if rows:
                return int(rows[0][0])
            now = time.time()
            snapshot = self._db.execute(
                "INSERT INTO snapshots (parent, dir, chain_id, created, last_used) VALUES (?, '', ?, ?, ?)",
                (parent, chain_id, now if created is None else created, now),
            )
            self._db.execute("UPDATE snapshots SET dir = ? WHERE id = ?", (str(snapshot), snapshot))
            self._db.execute("INSERT INTO lazy_layers (dir) VALUES (?)", (str(snapshot),))
        return snapshot

    def lazy_rows(self, snapshot: int) -> list[SnapshotRow]:
        """Those of a snapshot's chain whose folders are yet to come, the bottom one first."""
        rows = self._db.query(
            f"{CHAIN} SELECT {COLUMNS} FROM chain WHERE dir IN (SELECT dir FROM lazy_layers)"  # noqa: S608
            " ORDER BY depth DESC",
            (snapshot,),
        )
        return [SnapshotRow(*row) for row in rows]

    def is_lazy(self, name: str) -> bool:
        """Whether a folder, by its `dir`, is yet to come."""
        return bool(self._db.query("SELECT 1 FROM lazy_layers WHERE dir = ?", (name,)))

    def touch(self, snapshots: Iterable[int]) -> None:
        """Note that these snapshots are of use now."""
        now = time.time()
        with self._db.transaction():
            for snapshot in snapshots:
                self._db.execute("UPDATE snapshots SET last_used = ? WHERE id = ?", (now, snapshot))


def missing(snapshot: int) -> NotFoundError:
    """What to raise for an id that does not exist."""
    return NotFoundError(f"snapshot {snapshot} does not exist")
