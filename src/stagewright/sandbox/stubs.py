"""Mountpoints that had to be made in a step's root: noted before the step, removed from its layer after it.

Making `/etc/resolv.conf` for a mount leaves an empty file, a changed time on `/etc`, and copies `/etc` itself up into
the layer. None of that is the step's doing, so all of it is undone, unless the step has put something there itself.
"""

from __future__ import annotations

import os
import stat

_FUSE_MARKS = frozenset({".wh..wh..opq", ".wh..opq"})
OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")

DirectoryState = tuple[int, int, int, int, tuple[tuple[str, bytes], ...], bool, int]
"""Mode, UID, GID, mtime before (ns), extended attributes, was in the upper directory before, mtime after (ns)."""


class StubRecorder:
    """Watches mountpoints being made in a root whose changes go to the directory `upper`."""

    def __init__(self, root_fd: int, upper: str | None) -> None:
        self._root_fd = root_fd
        self._upper = upper
        self._mounted: list[list[str]] = []
        self._created: list[str] = []
        self._directories: dict[str, tuple[int, int, int, int, tuple[tuple[str, bytes], ...], bool]] = {}

    def mounted(self, names: list[str]) -> None:
        """Something is mounted at this path: what is made below it is not in the root any more."""
        self._mounted.append(names)

    def before_create(self, parent_names: list[str], name: str) -> None:
        """Note how the parent directory and its ancestors are, before overlayfs copies them up."""
        if self._upper is None or any(parent_names[: len(names)] == names for names in self._mounted):
            return
        for depth in range(len(parent_names) + 1):
            path = "/".join(parent_names[:depth])
            if path not in self._directories and path not in self._created:
                self._directories[path] = self._look(self._upper, path)
        self._created.append("/".join([*parent_names, name]))

    def _look(self, upper: str, path: str) -> tuple[int, int, int, int, tuple[tuple[str, bytes], ...], bool]:
        status = os.stat(path or ".", dir_fd=self._root_fd)
        handle = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root_fd)
        try:
            xattrs = tuple(sorted((key, os.getxattr(handle, key)) for key in os.listxattr(handle)))
        finally:
            os.close(handle)
        in_upper = path == "" or os.path.lexists(f"{upper}/{path}")
        return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs, in_upper

    def report(self) -> tuple[tuple[str, ...], dict[str, DirectoryState]]:
        """What was made, parents first, and the directories that were there before; call it before the step starts."""
        after = {path: os.stat(path or ".", dir_fd=self._root_fd).st_mtime_ns for path in self._directories}
        return tuple(self._created), {path: (*state, after[path]) for path, state in self._directories.items()}


def remove_stubs(upper: str, created: tuple[str, ...], directories: dict[str, DirectoryState]) -> None:
    """Undo in `upper`, which must not be mounted any more, what the recorder's report says.

    Empty mountpoints go, then directories that are only there since overlayfs copied them up and that say nothing
    that the layer below does not, and the directories that remain get back the time that the step left them with.
    """
    times: dict[str, int] = {}
    for path in reversed(created):
        _remove_if_empty(upper, path, times)
    for path in sorted(directories, key=lambda name: name.count("/") if name else -1, reverse=True):
        mode, uid, gid, before, xattrs, was_in_upper, after = directories[path]
        fd = _open_directory(upper, path)
        if fd is None:
            continue
        try:
            status = os.fstat(fd)
            mtime = times.get(path, status.st_mtime_ns)
            if mtime == after:
                mtime = before
            if mtime != status.st_mtime_ns:
                os.utime(fd, ns=(status.st_atime_ns, mtime))
            same = (status.st_mode, status.st_uid, status.st_gid, mtime) == (mode, uid, gid, before)
            redundant = not was_in_upper and same and _xattrs_without_marks(fd) == xattrs
        finally:
            os.close(fd)
        if redundant:
            _remove_if_empty(upper, path, times)


def _xattrs_without_marks(fd: int) -> tuple[tuple[str, bytes], ...] | None:
    """Extended attributes other than overlayfs's own notes; None for an opaque directory, which hides the lower one."""
    found = []
    for key in os.listxattr(fd):
        if not key.startswith(OVERLAY_XATTRS):
            found.append((key, os.getxattr(fd, key)))
        elif key.endswith(".opaque"):
            return None
    return tuple(sorted(found))


def _remove_if_empty(upper: str, path: str, times: dict[str, int]) -> None:
    """Remove an empty directory or file; `times` keeps the mtime of each parent from before its first removal."""
    parent, _, name = path.rpartition("/")
    fd = _open_directory(upper, parent)
    if fd is None:
        return
    try:
        mtime = os.fstat(fd).st_mtime_ns
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            _remove_marks(upper, path)
            os.rmdir(name, dir_fd=fd)
        elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(name, dir_fd=fd)
        else:
            return
        times.setdefault(parent, mtime)
    except OSError:
        # Gone, or filled by the step: then it belongs to the layer.
        return
    finally:
        os.close(fd)


def _remove_marks(upper: str, path: str) -> None:
    """Remove what fuse-overlayfs writes into each directory that it makes, from one that holds nothing else."""
    fd = _open_directory(upper, path)
    if fd is not None:
        try:
            names = os.listdir(fd)
            for name in names if _FUSE_MARKS.issuperset(names) else ():
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)


def _open_directory(upper: str, path: str) -> int | None:
    """Open a directory below `upper` without following any link; None where there is no such directory now."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    fd = os.open(upper, flags)
    for name in path.split("/") if path else ():
        try:
            inner = os.open(name, flags, dir_fd=fd)
        except OSError:
            return None
        finally:
            os.close(fd)
        fd = inner
    return fd
