"""Finds and makes paths inside a root directory, one component at a time, without ever leaving it.

Symbolic links are read and resolved here and never by the kernel, so that neither an absolute link, nor `..`, nor one
of /proc's magic links, nor somebody who swaps directories meanwhile can lead outside.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_LINKS = 255

FILE = "file"
DIRECTORY = "directory"


def resolve(
    root_fd: int,
    path: str,
    create: str | None = None,
    before_create: Callable[[list[str], str], None] | None = None,
    owner: tuple[int, int] | None = None,
) -> tuple[int, list[str]]:
    """Resolve `path` inside the directory `root_fd` as if that were the root of the file system.

    Comes back with an O_PATH descriptor and the real components below the root. With `create` (FILE or DIRECTORY)
    what is missing is made, less the umask: directories with mode 0755, a file with 0644, for `owner` (UID, GID) where
    there is one. `before_create` is called with the parent's components and the new name. Raises OSError.
    """
    descriptors = [os.dup(root_fd)]
    names: list[str] = []
    pending = path.split("/")[::-1]
    links = 0
    try:
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if names:
                    os.close(descriptors.pop())
                    names.pop()
                continue
            fd = _open(descriptors[-1], name)
            if fd is None:
                if create is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                if before_create is not None:
                    before_create(names, name)
                is_file = create == FILE and not any(part not in ("", ".") for part in pending)
                fd = _make(descriptors[-1], name, is_file, owner)
            descriptors.append(fd)
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                names.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink("", dir_fd=fd)
            os.close(descriptors.pop())
            if target.startswith("/"):
                for fd in descriptors[1:]:
                    os.close(fd)
                del descriptors[1:], names[:]
            pending.extend(target.split("/")[::-1])
        return descriptors.pop(), names
    finally:
        for fd in descriptors:
            os.close(fd)


def _open(parent: int, name: str) -> int | None:
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return None


def _make(parent: int, name: str, is_file: bool, owner: tuple[int, int] | None) -> int:
    if is_file:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=parent))
    else:
        os.mkdir(name, 0o755, dir_fd=parent)
    if owner is not None:
        # At once and by the parent's descriptor: whoever shares the folder may have moved the parent by now.
        os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
    return os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)


def read_text(root_fd: int, path: str, limit: int) -> str:
    """The text of a regular file inside `root_fd`, at most `limit` bytes of it; "" where there is none.

    Anything but a regular file with a size counts as none, so that neither a FIFO or a device in an image nor a link to
    one of /proc's files, some of which wait and take what they tell from others, can hold us up.
    """
    try:
        handle, _ = resolve(root_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return ""
        fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY)
    finally:
        os.close(handle)
    with open(fd, "rb") as file:
        return file.read(limit).decode("utf-8", "surrogateescape")


def find(root_fd: int, path: str) -> tuple[list[str], os.stat_result | None]:
    """Where `path` leads inside `root_fd`, as real components below the root, and what is there.

    Where something is missing, the components end with that, and nothing is there. Raises OSError.
    """

    def stop(parents: list[str], name: str) -> None:
        raise _MissingError([*parents, name])

    try:
        handle, names = resolve(root_fd, path, FILE, stop)
    except _MissingError as missing:
        return missing.names, None
    try:
        return names, os.fstat(handle)
    finally:
        os.close(handle)


class _MissingError(Exception):
    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names
