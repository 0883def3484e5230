"""What the space of a state directory is used for."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from stagewright.cache.leases import collecting
from stagewright.content.images import StoredImage
from stagewright.reach import needed_by_images, reach, with_ancestors
from stagewright.reports import UsageRow
from stagewright.snapshots.rows import SnapshotRow
from stagewright.snapshots.tree import tree_size
from stagewright.sources.git import remote_of
from stagewright.state import State


def disk_usage(state: State) -> list[UsageRow]:
    """A row for each image, snapshot, cache mount, git repository, and blob of no named image, and one for records."""
    with collecting(state.locks) as alone:
        pass
    return usage_rows(state, busy=not alone)


def usage_rows(state: State, *, busy: bool) -> list[UsageRow]:
    """See `disk_usage`; while something uses the store (`busy`) all is in use."""
    snapshots = _snapshots(state, busy)
    others = [*_cache_mounts(state, busy), *_repositories(state, busy), *_blobs(state, busy), *_history(state)]
    return [*_images(state), *snapshots, *others]


def disk_size(path: str) -> int:
    """The bytes that a file or a folder takes, its own entry included; 0 where it is missing."""
    try:
        size = os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
    return size + tree_size(path) if os.path.isdir(path) and not os.path.islink(path) else size


def _images(state: State) -> list[UsageRow]:
    """A row for each image, however many names it has; blobs that images share are the first one's."""
    images: dict[str, list[StoredImage]] = {}
    for image in state.images.list():
        images.setdefault(image.descriptor.digest, []).append(image)
    whole = {digest: reach(state.blobs, [named[0].descriptor]).blobs for digest, named in images.items()}
    count = Counter(blob for blobs in whole.values() for blob in blobs)
    counted: set[str] = set()
    rows = []
    for digest, named in images.items():
        own = whole[digest] - counted
        counted |= own
        size = sum(state.blobs.size(blob) for blob in own if state.blobs.has(blob))
        names = ", ".join(image.name for image in named)
        shared = any(count[blob] > 1 for blob in whole[digest])
        created = min(image.created for image in named)
        rows.append(UsageRow("image", digest, size, created, None, True, names, shared))
    return rows


def _snapshots(state: State, busy: bool) -> list[UsageRow]:
    """A row for each snapshot; a folder that several share is the first one's."""
    results = {
        snapshot: (name, last_used)
        for snapshot, name, last_used in state.db.query(
            "SELECT snapshot, name, last_used FROM cache_results ORDER BY last_used"
        )
    }
    chains = needed_by_images(state).chains
    snapshots = state.snapshots.rows()
    used = with_ancestors(snapshots, {row.id for row in snapshots if row.chain_id in chains})
    folders = Counter(row.dir for row in snapshots)
    counted: set[str] = set()
    rows = []
    for row in snapshots:
        size = 0 if row.dir in counted else state.snapshots.size(row.id)
        counted.add(row.dir)
        kind = snapshot_kind(row)
        name, last_used = results.get(row.id, (row.chain_id or "", row.last_used))
        in_use = busy or row.id in used
        rows.append(
            UsageRow(
                kind,
                str(row.id),
                size,
                row.created,
                max(last_used, row.last_used),
                in_use,
                name,
                shared=folders[row.dir] > 1,
                parent=None if row.parent is None else str(row.parent),
            )
        )
    return rows


def snapshot_kind(row: SnapshotRow) -> str:
    """The kind of a snapshot's row."""
    return "cache" if row.chain_id is None else "layer snapshot"


def _cache_mounts(state: State, busy: bool) -> list[UsageRow]:
    rows = state.db.query("SELECT id, dir, created, last_used FROM cache_mounts ORDER BY created")
    folder = state.root / "mounts"
    return [
        UsageRow("cache mount", name, disk_size(str(folder / name)), created, last_used, busy, identity)
        for identity, name, created, last_used in rows
    ]


def _repositories(state: State, busy: bool) -> list[UsageRow]:
    """A row for each remote of which commits were fetched."""
    return [
        UsageRow("git repository", path.name, disk_size(str(path)), _changed(path), None, busy, remote_of(path))
        for path in (sorted(state.git_repositories.iterdir()) if state.git_repositories.is_dir() else ())
    ]


def _changed(path: Path) -> float | None:
    """When a file, or what is in a folder, was written last: what is younger than a prune is to take stays."""
    try:
        paths = [path, *path.iterdir()] if path.is_dir() else [path]
        return max(os.lstat(found).st_mtime for found in paths)
    except FileNotFoundError:
        return None


def _history(state: State) -> list[UsageRow]:
    """A row for the records of builds, which are kept up to a number whatever is pruned."""
    builds = state.history.list()
    if not builds:
        return []
    size = disk_size(str(state.root / "history"))
    what = f"records of {len(builds)} {'build' if len(builds) == 1 else 'builds'}"
    return [UsageRow("history", "history", size, builds[-1].created, builds[0].created, True, what)]


def _blobs(state: State, busy: bool) -> list[UsageRow]:
    """A row for each blob of no named image; that of a layer was used when the layer was."""
    of_images = needed_by_images(state).blobs
    layers = {
        digest: (last_used, layer, count)
        for digest, last_used, layer, count in state.db.query(
            "SELECT b.digest, max(max(s.last_used, coalesce(r.last_used, 0))), min(s.id), count(DISTINCT s.id)"
            " FROM layer_blobs b JOIN snapshots s ON s.dir = b.dir"
            " LEFT JOIN cache_results r ON r.snapshot = s.id GROUP BY b.digest"
        )
    }
    rows = []
    for digest, size in sorted(state.blobs.digests()):
        if digest not in of_images:
            last_used, layer, count = layers.get(digest, (None, None, 0))
            what = "" if layer is None else f"layer of snapshot {layer}"
            created = _changed(state.blobs.path(digest))
            rows.append(UsageRow("blob", digest, size, created, last_used, busy, what, shared=count > 1))
    return rows
