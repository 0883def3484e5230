"""A sync of the file systems of a state directory when a build has ended, in a process of its own.

Until then, a power failure may cost what the build has made (see `content.unsynced`). The process creates and removes
nothing, and imports little.
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress

from stagewright.content.unsynced import ASKED, DONE, boot_id

# Each may be a file system of its own.
_PARTS = ("", "snapshots", "content", "mounts")


def sync(root: str) -> None:
    """Sync what was asked for in the state directory `root`, and note that. Raises OSError."""
    done = os.open(os.path.join(root, DONE), os.O_RDWR | os.O_CLOEXEC)
    try:
        # Whoever holds it may do what is asked now.
        fcntl.flock(done, fcntl.LOCK_EX)
        with open(os.path.join(root, ASKED), "rb") as file:
            asked = file.read()
        if asked == os.pread(done, len(asked) + 1, 0) or asked.partition(b" ")[0] != boot_id().encode():
            return
        seen: set[int] = set()
        for part in _PARTS:
            with suppress(FileNotFoundError):
                seen.add(_sync_file_system(os.path.join(root, part), seen))
        os.pwrite(done, asked, 0)
        os.ftruncate(done, len(asked))
        os.fdatasync(done)
    finally:
        os.close(done)


def _sync_file_system(folder: str, known: set[int]) -> int:
    """Sync the file system that a folder is on, unless it is `known`; its device."""
    from stagewright.snapshots.syscalls import syncfs

    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = os.fstat(handle).st_dev
        if device not in known:
            syncfs(handle)
        return device
    finally:
        os.close(handle)


def main() -> None:
    """Sync the state directory that is the process's argument."""
    os.nice(19)
    with suppress(OSError):
        sync(sys.argv[1])
