"""Whole folders of layer changes: measure them, remove them, and mend what overlayfs writes into them."""

from __future__ import annotations

import errno
import os
import stat

from stagewright.snapshots import overlay


def tree_size(folder: str) -> int:
    """The bytes that a folder takes on disk; files with several names in it count once."""
    total = 0
    seen: set[int] = set()
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    pending.append(entry.path)
                elif info.st_nlink > 1:
                    if info.st_ino in seen:
                        continue
                    seen.add(info.st_ino)
                total += info.st_blocks * 512
    return total


def remove_tree(path: str) -> None:
    """Remove a folder and all in it, whatever the modes; one that is gone, also midway, is fine."""
    import shutil

    def on_error(_call: object, _path: str, failure: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(failure[1], FileNotFoundError):
            raise failure[1]

    shutil.rmtree(path, onerror=on_error)


def copy_metadata(source: str, target: str) -> None:
    """Give a directory the owner, mode, times and extended attributes of another, but for overlayfs's own."""
    info = os.stat(source, follow_symlinks=False)
    os.chown(target, info.st_uid, info.st_gid)
    os.chmod(target, stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        if not overlay.is_overlay_xattr(name):
            _copy_xattr(source, target, name)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _copy_xattr(source: str, target: str, name: str) -> None:
    try:
        os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    except OSError as error:
        # A label of the host's security module is given by the host.
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


def strip_needless_opaque(folder: str, lowers: tuple[str, ...]) -> None:
    """Take the opaque mark from directories that hide nothing.

    Overlayfs marks each directory that a step makes new, to save itself look-ups. The layer would then hide what
    another parent has there, when it is grafted, and would carry a marker for nothing when it is packed.
    """
    pending = [(os.fsencode(folder), [os.fsencode(lower) for lower in lowers])]
    while pending:
        path, below = pending.pop()
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            child = os.path.join(path, name)
            merged = _merged(below, name)
            if overlay.is_opaque(child):
                if not merged:
                    os.removexattr(child, overlay.xattr_prefix() + "opaque", follow_symlinks=False)
                merged = []
            pending.append((child, merged))


def _merged(below: list[bytes], name: bytes) -> list[bytes]:
    """The directories, topmost first, that `name` under these merged directories consists of."""
    found = []
    for lower in below:
        path = os.path.join(lower, name)
        try:
            info = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(info.st_mode):
            break
        found.append(path)
        if overlay.is_opaque(path):
            break
    return found
