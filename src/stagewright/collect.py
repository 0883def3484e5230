"""Garbage collection: what nothing needs any more leaves the state directory.

What makes it safe:
- While a build or a transfer holds its lease, only what dead processes left is removed, each piece of which has a lock
  of its own (drafts, ingest files) or no name at all (trash). Everything else waits for a quiet moment.
- Without leases nobody reads or adds anything, and none begins before the end.
- A row goes before what it names, so that a collection that is killed leaves folders and blobs that no row names,
  which the next one finds.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence

from stagewright.cache.leases import collecting
from stagewright.errors import StoreError, system_reason
from stagewright.image.descriptor import Descriptor
from stagewright.policy import Policy, choose
from stagewright.reach import needed_by_images, needed_by_resolutions, reach, with_ancestors
from stagewright.records import dataclass, field, replace
from stagewright.reports import PruneReport, UsageRow
from stagewright.snapshots.layers import LayerBlobs
from stagewright.snapshots.tree import remove_tree
from stagewright.sources.digests import is_readable
from stagewright.sources.git import remote_of
from stagewright.state import State
from stagewright.usage import disk_size, snapshot_kind, usage_rows


@dataclass(slots=True)
class _Removed:
    reclaimed: int = 0
    rows: list[UsageRow] = field(default_factory=list)

    def add(self, row: UsageRow) -> None:
        self.rows.append(row)
        self.reclaimed += row.size


class Collector:
    """Frees the space of a state directory. Raises StoreError where the disk refuses."""

    def __init__(self, state: State) -> None:
        self._state = state

    def prune(self, *, all: bool) -> PruneReport:
        """Remove what nothing needs; with `all` also what only makes the next build faster.

        Without `all` the build cache, what base images were resolved to, and all that they need stay.
        """
        return self._prune(lambda removed: self._collect(all, removed))

    def reclaim(self, policies: Sequence[Policy]) -> PruneReport:
        """Remove what each policy in turn says, and what nothing needs after that."""

        def collect(removed: _Removed) -> None:
            for policy in policies:
                disk = shutil.disk_usage(self._state.root)
                chosen = choose(usage_rows(self._state, busy=False), policy, disk.free, disk.total, time.time())
                self._note(chosen)
                for row in chosen:
                    removed.add(replace(row, size=self._remove(row)))
            self._collect(False, removed)

        return self._prune(collect)

    def _prune(self, collect: Callable[[_Removed], None]) -> PruneReport:
        """Remove what dead processes left and, where nothing uses the store, what `collect` does."""
        removed = _Removed()
        try:
            with collecting(self._state.locks) as alone:
                # These are safe at any time.
                self._state.cache_mounts.bring_back()
                self._state.snapshots.clean()
                removed.reclaimed += self._state.blobs.clean()
                if alone:
                    collect(removed)
                    self._remove_stale_indexes()
                    self._state.history.trim()
        except OSError as error:
            raise StoreError(f"cannot prune {self._state.root}: {system_reason(error)}") from error
        return PruneReport(removed.reclaimed, removed.rows, busy=not alone)

    def _note(self, chosen: Sequence[UsageRow]) -> None:
        """Remember which results go, so that a build can say why a step runs again."""
        snapshots = {row.id for row in chosen}
        results = self._state.db.query("SELECT canonical, snapshot FROM cache_results")
        keys = [key for key, snapshot in results if str(snapshot) in snapshots]
        if keys:
            self._state.history.note_pruned(keys, time.time())

    def _remove(self, row: UsageRow) -> int:
        """Remove what takes space for one row; answers the bytes."""
        state = self._state
        if row.kind == "blob":
            state.blobs.delete(row.id)
            return row.size
        if row.kind == "cache mount":
            state.db.execute("DELETE FROM cache_mounts WHERE dir = ?", (row.id,))
            return _remove(str(state.root / "mounts" / row.id))
        if row.kind == "git repository":
            return _remove(str(state.git_repositories / row.id))
        state.db.execute("DELETE FROM cache_results WHERE snapshot = ?", (int(row.id),))
        return state.snapshots.remove(int(row.id))

    def _remove_stale_indexes(self) -> None:
        """Remove stat indexes that were being written when their process died, or are of another version."""
        folder = self._state.context_indexes
        for name in _names(str(folder)):
            if not is_readable(folder / name):
                (folder / name).unlink(missing_ok=True)

    def drop_image(self, target: Descriptor) -> list[str]:
        """Remove the blobs of an image that has no name any more, but those that something else needs.

        Answers the digests of those that are gone: none while a build runs, which leaves them to a later prune.
        """
        with collecting(self._state.locks) as alone:
            if not alone:
                return []
            kept = needed_by_images(self._state).blobs | needed_by_resolutions(self._state).blobs | self._layer_blobs()
            dropped = sorted(reach(self._state.blobs, [target]).blobs - kept)
            for digest in dropped:
                self._state.blobs.delete(digest)
        return dropped

    def _collect(self, all: bool, removed: _Removed) -> None:
        images = needed_by_images(self._state)
        if all:
            self._forget_cache(removed)
        bases = needed_by_resolutions(self._state)
        self._remove_snapshots(images.chains | bases.chains, removed)
        self._forget_dangling()
        # A layer's blob can be packed or pulled again, and its row says which one it was.
        needed = images.blobs if all else images.blobs | bases.blobs | self._layer_blobs()
        for digest, size in list(self._state.blobs.digests()):
            if digest not in needed:
                self._state.blobs.delete(digest)
                removed.add(UsageRow("blob", digest, size, None, None, False, ""))
        self._state.places.keep(images.blobs)
        self._remove_unnamed_mounts(removed)

    def _layer_blobs(self) -> set[str]:
        return LayerBlobs(self._state.snapshots, self._state.blobs, self._state.db).digests()

    def _forget_cache(self, removed: _Removed) -> None:
        db = self._state.db
        mounts = db.query("SELECT id, dir, created, last_used FROM cache_mounts ORDER BY created")
        with db.transaction():
            for table in ("cache_results", "cache_keys", "content_digests", "cache_mounts", "resolutions"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608
        for identity, name, created, last_used in mounts:
            size = _remove(str(self._state.root / "mounts" / name))
            removed.add(UsageRow("cache mount", name, size, created, last_used, False, identity))
        self._state.history.note_emptied(time.time())
        folder = self._state.context_indexes
        for index in _names(str(folder)):
            removed.reclaimed += _remove(str(folder / index))
        for name in _names(str(self._state.git_repositories)):
            path = self._state.git_repositories / name
            remote = remote_of(path)
            removed.add(UsageRow("git repository", name, _remove(str(path)), None, None, False, remote))

    def _remove_snapshots(self, chains: set[str], removed: _Removed) -> None:
        """Remove the snapshots that are, and are below, neither a result nor a layer of an image with these chains."""
        rows = self._state.snapshots.rows()
        results = {snapshot for (snapshot,) in self._state.db.query("SELECT snapshot FROM cache_results")}
        kept = with_ancestors(rows, {row.id for row in rows if row.id in results or row.chain_id in chains})
        # A child's id is always above its parent's.
        for row in reversed(rows):
            if row.id not in kept:
                kind, size = snapshot_kind(row), self._state.snapshots.remove(row.id)
                name = row.chain_id or ""
                removed.add(UsageRow(kind, str(row.id), size, row.created, row.last_used, False, name))

    def _forget_dangling(self) -> None:
        """Remove the rows that speak of snapshots that are gone."""
        db = self._state.db
        with db.transaction():
            db.execute(
                "DELETE FROM cache_results WHERE snapshot IS NOT NULL AND snapshot NOT IN (SELECT id FROM snapshots)"
            )
            db.execute("DELETE FROM content_digests WHERE snapshot NOT IN (SELECT id FROM snapshots)")
            for table in ("layer_blobs", "lazy_layers"):
                db.execute(f"DELETE FROM {table} WHERE dir NOT IN (SELECT dir FROM snapshots)")  # noqa: S608

    def _remove_unnamed_mounts(self, removed: _Removed) -> None:
        """Remove the folders of cache mounts whose maker died before, or whose remover died after, the row."""
        for folder in self._state.cache_mounts.unnamed():
            removed.reclaimed += _remove(folder)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _remove(path: str) -> int:
    """Remove a file or a folder, which may be missing; answers its size in bytes."""
    size = disk_size(path)
    if os.path.lexists(path):
        remove_tree(path)
    return size
