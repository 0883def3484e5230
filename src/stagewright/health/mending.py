"""What a build that comes upon damage in the store does about it: what was damaged is not in the cache any more."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from stagewright.cache.leases import BuildLease, collecting
from stagewright.cache.locks import LockFile
from stagewright.content.blobs import BlobStore
from stagewright.content.db import file_at
from stagewright.errors import DamagedBlobError, DamagedMetadataError, LostBlobError, LostSnapshotError
from stagewright.health.checkup import forget_lost_snapshots
from stagewright.health.metadata import damage, rebuild
from stagewright.state import State

# Whoever finds the same damage at the same time is in the way for a moment; a build that runs for longer.
_LOOKS, _BETWEEN_LOOKS_S = 20, 0.1
Damage = DamagedBlobError | DamagedMetadataError | LostBlobError | LostSnapshotError


def mend(root: Path, error: Damage) -> str:
    """Mend what an error tells of in the state directory `root`, which no lease of this process may be on.

    Answers what was wrong and what was done, in one line. Raises the error where it cannot be mended now.
    """
    if isinstance(error, DamagedMetadataError):
        return _mend_metadata(root, error)
    if isinstance(error, LostSnapshotError):
        with closing(State(str(root), {})) as state:
            problems = forget_lost_snapshots(state)
        lost = f"snapshot {problems[0].what} is damaged: {problems[0].wrong}" if problems else error.message
        more = f" and {len(problems) - 1} more like it" if len(problems) > 1 else ""
        return f"{lost}{more}: what was lost is made again"
    return f"{error.message}: it is made or fetched again"


def _mend_metadata(root: Path, error: DamagedMetadataError) -> str:
    locks, path = LockFile(root / "locks"), root / "metadata.db"
    for _ in range(_LOOKS):
        with collecting(locks) as alone:
            if alone and file_at(path) == error.file:
                wrong = damage(path) or error.message.partition(": ")[2]
                aside, kept = rebuild(path, BlobStore(root / "content"))
                left = f"images kept: {', '.join(kept)}" if kept else "no image was kept"
                return f"the metadata file {path} was damaged ({wrong}): it is {aside} now, the cache is empty, {left}"
        # Perhaps it is another build that is mending it.
        with BuildLease(locks):
            if file_at(path) != error.file:
                return f"the metadata file {path} was mended by another build"
        time.sleep(_BETWEEN_LOOKS_S)
    error.hint = "other builds use the store: build again when they have ended"
    raise error
