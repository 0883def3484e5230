"""Where outputs go: a file that is there whole or not at all, or standard output."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from stagewright.errors import StoreError, UsageError


def check_stream(dest: str | None, kind: str) -> None:
    """Raise UsageError where the output would go to a terminal, or its file cannot be one."""
    if dest in (None, "", "-"):
        if os.isatty(sys.stdout.fileno()):
            raise UsageError(f"--output type={kind}: an archive does not belong on a terminal", hint="give a dest=FILE")
    elif os.path.isdir(dest or ""):
        raise UsageError(f"--output type={kind}: the destination {dest} is a folder")


@contextmanager
def output_file(dest: str | None) -> Iterator[BinaryIO]:
    """A file that is at `dest` once the block has ended, and nowhere if it has failed; standard output for "-".

    What is there but no ordinary file (a device, a pipe) is written to as it is. Raises StoreError where that fails.
    """
    try:
        if dest in (None, "", "-"):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        assert dest is not None
        if os.path.exists(dest) and not stat.S_ISREG(os.stat(dest).st_mode):
            with open(dest, "wb") as file:
                yield file
            return
        with _aside(os.path.realpath(dest)) as file:
            yield file
    except OSError as error:
        raise StoreError(f"cannot write {dest or 'standard output'}: {error.strerror or error}") from error


@contextmanager
def _aside(path: str) -> Iterator[BinaryIO]:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, f".{name[:200]}.{os.urandom(4).hex()}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
