"""Where outputs go: files that are there whole or not at all, or standard output."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from stagewright.errors import StoreError, UsageError

_NEW = os.O_WRONLY | os.O_CLOEXEC


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
    # Not a name that somebody else could have put a link at, should the folder be one of everybody's.
    partial = os.path.join(folder, f".{name[:200]}.{os.urandom(4).hex()}.partial")
    fd, is_named = _nameless(folder or ".") or (os.open(partial, _NEW | os.O_EXCL | os.O_CREAT, 0o666), True)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            if not is_named:
                # Without a folder's descriptor, of no use for absolute paths, Python has links not followed.
                os.link(f"/proc/self/fd/{file.fileno()}", partial, src_dir_fd=file.fileno())
                is_named = True
        os.replace(partial, path)
    except BaseException:
        if is_named:
            os.unlink(partial)
        raise


def _nameless(folder: str) -> tuple[int, bool] | None:
    """A file without a name, of which nothing is left if this process is killed; None where there are none."""
    try:
        return os.open(folder, _NEW | os.O_TMPFILE, 0o666), False
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise
