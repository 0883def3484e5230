"""What the space of a state directory is used for."""

from __future__ import annotations

import os

from stagewright.cache.leases import collecting
from stagewright.content.images import StoredImage
from stagewright.reach import needed_by_images, reach, with_ancestors
from stagewright.reports import UsageRow
from stagewright.snapshots.tree import tree_size
from stagewright.sources.git import remote_of
from stagewright.state import State


def disk_usage(state: State) -> list[UsageRow]:
    """A row for each image, snapshot, cache mount, git repository, and blob of no named image."""
    with collecting(state.locks) as alone:
        busy = not alone
    snapshots = _snapshots(state, busy)
    return [*_images(state), *snapshots, *_cache_mounts(state, busy), *_repositories(state, busy), *_blobs(state, busy)]


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
    counted: set[str] = set()
    rows = []
    for digest, named in images.items():
        own = reach(state.blobs, [named[0].descriptor]).blobs - counted
        counted |= own
        size = sum(state.blobs.size(blob) for blob in own if state.blobs.has(blob))
        names = ", ".join(image.name for image in named)
        rows.append(UsageRow("image", digest, size, min(image.created for image in named), None, True, names))
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
    counted: set[str] = set()
    rows = []
    for row in snapshots:
        size = 0 if row.dir in counted else state.snapshots.size(row.id)
        counted.add(row.dir)
        kind = "cache" if row.chain_id is None else "layer snapshot"
        name, last_used = results.get(row.id, (row.chain_id or "", row.last_used))
        in_use = busy or row.id in used
        rows.append(UsageRow(kind, str(row.id), size, row.created, max(last_used, row.last_used), in_use, name))
    return rows


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
        UsageRow("git repository", path.name, disk_size(str(path)), None, None, busy, remote_of(path))
        for path in (sorted(state.git_repositories.iterdir()) if state.git_repositories.is_dir() else ())
    ]


def _blobs(state: State, busy: bool) -> list[UsageRow]:
    of_images = needed_by_images(state).blobs
    return [
        UsageRow("blob", digest, size, None, None, busy, "")
        for digest, size in sorted(state.blobs.digests())
        if digest not in of_images
    ]
