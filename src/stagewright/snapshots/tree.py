"""Whole folders of layer changes: walk through them, measure them, copy from them, remove them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from stagewright.snapshots import overlay, owners
from stagewright.snapshots.holes import data_ranges

_COPY = 1 << 30


def walk(folder: str | bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Everything below a folder as name relative to it, path, and lstat: each directory's entries in byte order."""
    pending = [_listing(os.fsencode(folder), b"")]
    while pending:
        try:
            name, path, info = next(pending[-1])
        except StopIteration:
            pending.pop()
            continue
        yield name, path, info
        if stat.S_ISDIR(info.st_mode):
            pending.append(_listing(path, name + b"/"))


def _listing(folder: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    # The names alone, since there may be hundreds of thousands.
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        yield prefix + name, path, os.stat(path, follow_symlinks=False)


def tree_size(folder: str) -> int:
    """The bytes that a folder takes on disk; each name of a file counts for its share, wherever the others are.

    A running step may change a cache mount's folder meanwhile: what goes away does not count.
    """
    total = 0.0
    for info in _infos_below(folder):
        names = 1 if stat.S_ISDIR(info.st_mode) else max(info.st_nlink, 1)
        total += info.st_blocks * 512 / names
    return round(total)


def content_size(folder: str) -> int:
    """The bytes of the files in a layer's folder as an image has them; a file with several names counts once."""
    count = ContentSize()
    for info in _infos_below(folder):
        count.add(info)
    return count.total


class ContentSize:
    """As `content_size`, for whoever walks through a layer's folder anyway: `add` takes the lstat of all in it."""

    __slots__ = ("_counted", "total")

    def __init__(self) -> None:
        self.total = 0
        self._counted: set[tuple[int, int]] = set()

    def add(self, info: os.stat_result) -> None:
        if info.st_mode & 0o170000 != 0o100000:
            return
        if info.st_nlink > 1:
            if (info.st_dev, info.st_ino) in self._counted:
                return
            self._counted.add((info.st_dev, info.st_ino))
        self.total += info.st_size


def _infos_below(folder: str) -> Iterator[os.stat_result]:
    pending = [folder]
    while pending:
        for path, info in _infos(pending.pop()):
            if stat.S_ISDIR(info.st_mode):
                pending.append(path)
            yield info


def _infos(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """What is in a folder, as far as it stays there long enough."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    yield entry.path, entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        # A step can nest folders deeper than a path can name; what they hold can be removed, but not counted.
        if error.errno != errno.ENAMETOOLONG:
            raise


def remove_tree(path: str) -> int:
    """Remove a file or a folder and all in it, whatever the modes and the depth; one that is gone is fine.

    Answers how many files and folders that were.
    """
    parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = os.fsencode(os.path.basename(path))
        return remove_entry(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False))
    except FileNotFoundError:
        return 0
    finally:
        os.close(parent)


def remove_entry(parent: int, name: bytes, info: os.stat_result) -> int:
    """Remove what lies at `name` in an open directory; `info` is its lstat. No link is followed.

    Answers how many files and folders that were.
    """
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=parent)
        return 1
    # One open directory at a time, whatever the depth: neither descriptors, nor the stack, nor PATH_MAX run out.
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    path = [name]
    removed = 1
    here = os.open(name, flags, dir_fd=parent)
    try:
        while True:
            below, count = _empty_directory(here)
            removed += count
            if below is not None:
                above, here = here, os.open(below, flags, dir_fd=here)
                path.append(below)
            elif len(path) == 1:
                break
            else:
                above, here = here, os.open("..", flags, dir_fd=here)
                os.rmdir(path.pop(), dir_fd=here)
                removed += 1
            os.close(above)
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=parent)
    return removed


def _empty_directory(fd: int) -> tuple[bytes | None, int]:
    """Remove the files and empty folders of a directory, up to the first folder that is not empty.

    Answers that one's name, and how many are gone.
    """
    removed = 0
    with os.scandir(fd) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=fd)
            else:
                try:
                    os.rmdir(entry.name, dir_fd=fd)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    return os.fsencode(entry.name), removed
            removed += 1
    return None, removed


def copy_entry(source: bytes, target: bytes) -> None:
    """Make `target`, which does not exist, what `source` is: a file with its content, a link, an empty directory.

    Owner, mode, times and extended attributes are copied, too; neither path's last component is followed.
    """
    info = os.stat(source, follow_symlinks=False)
    if stat.S_ISDIR(info.st_mode):
        os.mkdir(target, 0o700)
    elif stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(info.st_mode):
        _copy_content(source, target)
    else:
        os.mknod(target, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev)
    copy_metadata(source, target)


def copy_metadata(source: str | bytes, target: str | bytes) -> None:
    """Give a file the owner, mode, times and extended attributes of another, but for overlayfs's own."""
    info = os.stat(source, follow_symlinks=False)
    owners.change(target, info.st_uid, info.st_gid)
    for name in os.listxattr(source, follow_symlinks=False):
        if not overlay.is_overlay_xattr(name):
            _copy_xattr(source, target, name)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(target, stat.S_IMODE(info.st_mode))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


@contextmanager
def times_kept(folder: str | bytes) -> Iterator[None]:
    """A folder has the times afterwards that it has now, whatever is done in it."""
    info = os.stat(folder, follow_symlinks=False)
    yield
    os.utime(folder, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


def _copy_content(source: bytes, target: bytes) -> None:
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(reader).st_size
            os.ftruncate(writer, size)
            for start, end in data_ranges(reader, size):
                _copy_range(reader, writer, start, end)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_range(reader: int, writer: int, start: int, end: int) -> None:
    os.lseek(reader, start, os.SEEK_SET)
    os.lseek(writer, start, os.SEEK_SET)
    left = end - start
    try:
        while left and (count := os.copy_file_range(reader, writer, min(left, _COPY))):
            left -= count
    except OSError as error:
        # Not every pair of file systems can; whatever was copied was counted by both offsets.
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        while left and (count := os.sendfile(writer, reader, None, min(left, _COPY))):
            left -= count


def _copy_xattr(source: str | bytes, target: str | bytes, name: str) -> None:
    try:
        os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    except OSError as error:
        # A label of the host's security module is given by the host.
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
