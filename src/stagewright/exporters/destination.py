"""Where outputs go: files that are there whole or not at all, or standard output."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from stagewright.errors import StoreError, UsageError

_NEW = os.O_WRONLY | os.O_CLOEXEC
_SUFFIX = ".partial"


def check_stream(dest: str | None, kind: str) -> None:
    """Raise UsageError where the output would go to a terminal, or its file cannot be one."""
    if dest in (None, "", "-"):
        if os.isatty(sys.stdout.fileno()):
            raise UsageError(f"--output type={kind}: an archive does not belong on a terminal", hint="give a dest=FILE")
    elif os.path.isdir(dest or ""):
        raise UsageError(f"--output type={kind}: the destination {dest} is a folder")


@contextmanager
def output_file(dest: str | None) -> Iterator[BinaryIO]:
    """As `whole_file`, in a folder that is made if need be; standard output for "-". Raises StoreError."""
    try:
        if dest is not None and dest not in ("", "-"):
            os.makedirs(os.path.dirname(os.path.realpath(dest)), exist_ok=True)
            with whole_file(dest) as file:
                yield file
            return
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError as error:
        raise StoreError(f"cannot write {dest or 'standard output'}: {error.strerror or error}") from error


@contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """A file that is at `path` once the block has ended, and nowhere if it has failed.

    A link is followed, and what is there but no ordinary file (a device, a pipe) is written to as it is. Raises
    StoreError where that fails.
    """
    try:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "wb") as file:
                yield file
            return
        with replaced(os.path.realpath(path)) as file:
            yield file
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replaced(path: str) -> Iterator[BinaryIO]:
    """A file that takes the place of what is at `path`, a link too, once the block has ended. Raises OSError."""
    folder, name = os.path.split(path)
    folder = folder or "."
    fd = _nameless(folder)
    partial = None
    if fd is None:
        fd, partial = _named(folder, name)
    try:
        # Closed before it takes its place, as some file systems only then say that a write has failed.
        with os.fdopen(os.dup(fd), "wb") as file:
            yield file
        if partial is None and not _linked(fd, path):
            _remove_dead(folder, name)
            _lock(fd)
            new = _partial(folder, name)
            _link(fd, new)
            partial = new
        if partial is not None:
            os.replace(partial, path)
    except BaseException:
        if partial is not None:
            os.unlink(partial)
        raise
    finally:
        os.close(fd)


def _partial(folder: str, name: str) -> str:
    """A path for what becomes `name`, at which nobody else can have put a link, should the folder be shared."""
    return os.path.join(folder, f".{name[:200]}.{os.urandom(4).hex()}{_SUFFIX}")


def _nameless(folder: str) -> int | None:
    """A file without a name, of which nothing is left if this process is killed; None where there are none."""
    try:
        return os.open(folder, _NEW | os.O_TMPFILE, 0o666)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise


def _named(folder: str, name: str) -> tuple[int, str]:
    """A new file that becomes `name`, locked, and its path."""
    _remove_dead(folder, name)
    while True:
        partial = _partial(folder, name)
        fd = os.open(partial, _NEW | os.O_EXCL | os.O_CREAT, 0o666)
        _lock(fd)
        # Who removes what is dead may have come between.
        if os.fstat(fd).st_nlink:
            return fd, partial
        os.close(fd)


def _linked(fd: int, path: str) -> bool:
    """Give a file without a name that of the path, if nothing has it: then a killed process leaves no other name."""
    try:
        _link(fd, path)
    except FileExistsError:
        return False
    return True


def _link(fd: int, path: str) -> None:
    # Without a folder's descriptor, of no use for absolute paths, Python has links not followed.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)


def _lock(fd: int) -> None:
    """Lock a file for as long as this process has it open, where the file system knows locks."""
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX)


def _remove_dead(folder: str, name: str) -> None:
    """Remove what killed processes have left of the file: what nobody holds a lock on."""
    start = f".{name[:200]}."
    # What cannot be listed, opened or locked is somebody else's, or in use.
    with suppress(OSError):
        for found in os.listdir(folder):
            if found.startswith(start) and len(found) == len(start) + 8 + len(_SUFFIX) and found.endswith(_SUFFIX):
                with suppress(OSError):
                    _remove_if_dead(os.path.join(folder, found))


def _remove_if_dead(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(fd)
