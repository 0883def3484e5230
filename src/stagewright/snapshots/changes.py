"""What a layer says, brought into one form: the same changes are the same entries, however they came about.

Overlayfs writes down how a step worked and not only what it changed: a file that was opened for writing and left as it
was, a directory that hides all below since it was removed and made again. Another way of merging layers would write
something else. As BuildKit's differ, we keep what differs: an entry that is as below is no change, and a directory's
missing entries are named one by one.
"""

from __future__ import annotations

import os
import stat

from stagewright.snapshots import overlay
from stagewright.snapshots.tree import ContentSize, times_kept

_CHUNK = 1 << 20

Below = list[bytes]
"""The directories of layers, topmost first, that a directory consists of."""


def strip_needless_opaque(folder: str, lowers: tuple[str, ...]) -> None:
    """Take the opaque mark from directories that hide nothing.

    The layer would hide what another parent has there, when it is grafted, and would carry a marker for nothing when
    it is packed.
    """
    pending = [(os.fsencode(folder), [os.fsencode(lower) for lower in lowers])]
    while pending:
        path, below = pending.pop()
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            child = os.path.join(path, name)
            merged = directories_below(below, name)
            if overlay.is_opaque(child):
                if not merged:
                    _remove_opaque(child)
                merged = []
            pending.append((child, merged))


def tidy(folder: str, lowers: tuple[str, ...]) -> int:
    """Have a layer that a step wrote by overlayfs say what is different, and no more; answers its `content_size`."""
    layer = os.fsencode(folder)
    size = ContentSize()
    visited: list[tuple[bytes, Below, os.stat_result]] = []
    pending = [(layer, [os.fsencode(lower) for lower in lowers], False)]
    while pending:
        path, below, covers = pending.pop()
        info, found = _listed(path)
        if path != layer and overlay.is_opaque(path):
            _remove_opaque(path)
            covers = True
        if covers:
            _hide_others(layer, path, below, {name for name, _ in found})
        for name, child_info in found:
            if child_info.st_mode & 0o170000 == 0o040000:
                # What is in a directory that covers all below it does so, too.
                pending.append((os.path.join(path, name), directories_below(below, name), covers))
            elif below and _is_as_below(os.path.join(path, name), child_info, below, name):
                os.unlink(os.path.join(path, name))
            else:
                size.add(child_info)
        visited.append((path, below, info))
    for path, below, info in reversed(visited):
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        if below and path != layer and same_metadata(path, info, below[0], os.stat(below[0], follow_symlinks=False)):
            try:
                os.rmdir(path)
            except OSError:
                continue  # Something in it is a change.
    return size.total


def _listed(path: bytes) -> tuple[os.stat_result, list[tuple[bytes, os.stat_result]]]:
    """The lstat of a directory and of all in it, whose paths the kernel needs not go each time."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(handle) as entries:
            found = [(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries]
        return os.fstat(handle), found
    finally:
        os.close(handle)


def directories_below(below: Below, name: bytes) -> Below:
    """The directories that `name` in the merged directory `below` consists of; none where it is no directory."""
    found = []
    for folder in below:
        path = os.path.join(folder, name)
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


def entry_below(below: Below, name: bytes) -> tuple[bytes, os.stat_result] | None:
    """The path and the lstat of what `name` in the merged directory `below` is; None where there is nothing."""
    for folder in below:
        path = os.path.join(folder, name)
        try:
            info = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            continue
        return None if overlay.is_whiteout(info, path) else (path, info)
    return None


def same_metadata(path: bytes, info: os.stat_result, other: bytes, other_info: os.stat_result) -> bool:
    """Whether two entries of one kind agree in mode, owner, time of change, device number and extended attributes."""
    return (
        info.st_mode == other_info.st_mode
        and (info.st_uid, info.st_gid) == (other_info.st_uid, other_info.st_gid)
        and info.st_mtime_ns == other_info.st_mtime_ns
        and info.st_rdev == other_info.st_rdev
        and _xattrs(path) == _xattrs(other)
    )


def same_entry(path: bytes, info: os.stat_result, other: bytes, other_info: os.stat_result) -> bool:
    """Whether two entries are the same in all that a layer says of them; of directories, but for what is in them."""
    if not stat.S_ISDIR(info.st_mode) and info.st_size != other_info.st_size:
        return False
    if not same_metadata(path, info, other, other_info):
        return False
    if stat.S_ISLNK(info.st_mode):
        return os.readlink(path) == os.readlink(other)
    return not stat.S_ISREG(info.st_mode) or _same_content(path, other)


def _is_as_below(path: bytes, info: os.stat_result, below: Below, name: bytes) -> bool:
    """Whether an entry of a layer, no directory, repeats what is below; one of several links is new as such."""
    known = entry_below(below, name)
    return known is not None and info.st_nlink == 1 and same_entry(path, info, *known)


def _hide_others(layer: bytes, path: bytes, below: Below, kept: set[bytes]) -> None:
    names = {name for folder in below for name in os.listdir(folder)}
    mtime_ns = os.stat(path).st_mtime_ns
    with times_kept(path):
        for name in sorted(names - kept):
            if entry_below(below, name) is not None:
                overlay.make_whiteout(layer, path, name, mtime_ns)


def _remove_opaque(path: bytes) -> None:
    os.removexattr(path, overlay.xattr_prefix() + "opaque", follow_symlinks=False)


def _xattrs(path: bytes) -> dict[str, bytes]:
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if not overlay.is_overlay_xattr(name)
    }


def _same_content(path: bytes, other: bytes) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(path, "rb", opener=lambda name, _: os.open(name, flags)) as one,
        open(other, "rb", opener=lambda name, _: os.open(name, flags)) as two,
    ):
        while True:
            block = one.read(_CHUNK)
            if block != two.read(_CHUNK):
                return False
            if not block:
                return True
