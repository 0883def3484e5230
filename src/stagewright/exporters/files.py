"""A result's files outside of any image: copied into a folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from stagewright.errors import StoreError, system_reason
from stagewright.snapshots.tree import copy_entry, remove_tree, walk


def copy_files(
    source: str, dest: str, *, epoch: int | None = None, progress: Callable[[int], None] | None = None
) -> None:
    """Copy all files below the folder `source` into the folder `dest`, which is made if need be.

    Folders that are there are merged with; any other entry of the same name is replaced, and no link in `dest` is
    followed. Modes, times (at most `epoch`, in seconds), links and extended attributes are kept, the owner is whoever
    runs this, as with BuildKit's client. `progress` is told the bytes copied so far. Raises StoreError where something
    cannot be written.
    """
    base = os.fsencode(dest)
    first_copies: dict[int, bytes] = {}
    folders: list[tuple[bytes, os.stat_result]] = []
    copied = 0
    try:
        os.makedirs(dest, exist_ok=True)
        for name, path, info in walk(source):
            target = os.path.join(base, name)
            if stat.S_ISDIR(info.st_mode):
                _merge_folder(target)
                folders.append((target, info))
            elif not stat.S_ISSOCK(info.st_mode):
                _replace(path, target, info, first_copies)
                _own(target, info, epoch)
                copied += info.st_size
                if progress is not None:
                    progress(copied)
        # Once they are full, from the innermost on: what lies in them changes their times, and modes may forbid more.
        for target, info in reversed(folders):
            _own(target, info, epoch)
    except OSError as error:
        hint = "only root can make devices" if error.errno == errno.EPERM else None
        raise StoreError(f"cannot write into {dest}: {system_reason(error)}", hint=hint) from error


def _merge_folder(target: bytes) -> None:
    try:
        os.mkdir(target, 0o700)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(target).st_mode):
            os.unlink(target)
            os.mkdir(target, 0o700)


def _replace(path: bytes, target: bytes, info: os.stat_result, first_copies: dict[int, bytes]) -> None:
    if os.path.lexists(target):
        remove_tree(os.fsdecode(target))
    if info.st_nlink > 1:
        first = first_copies.setdefault(info.st_ino, target)
        if first != target:
            os.link(first, target, follow_symlinks=False)
            return
    copy_entry(path, target)


def _own(target: bytes, info: os.stat_result, epoch: int | None) -> None:
    os.chown(target, os.geteuid(), os.getegid(), follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(target, stat.S_IMODE(info.st_mode))
    mtime_ns = info.st_mtime_ns if epoch is None else min(info.st_mtime_ns, epoch * 1_000_000_000)
    os.utime(target, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
