"""Locks between threads and processes, by name, that leave nothing behind.

All names share one file: a name is a byte range of it, locked with Linux's open file description locks, which the
kernel gives back when their owner dies. Two names that hash to one byte only wait for each other.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stagewright.errors import CanceledError, StoreError

# struct flock on 64-bit Linux: short type, short whence, (padding) off_t start, off_t len, pid_t pid (0 for OFD locks).
_FLOCK = struct.Struct("hhqqi4x")
_WAIT_BETWEEN_TRIES_S = 0.02


class LockFile:
    """Named locks in the file `path`; threads and processes that open the same file exclude each other."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def hold(self, name: str, *, shared: bool = False, cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold `name` within; waits for it. Raises CanceledError where `cancel` is set meanwhile."""
        handle = self._open()
        try:
            if cancel is None:
                fcntl.fcntl(handle, fcntl.F_OFD_SETLKW, _request(name, shared))
            else:
                # Only tries can be given up: nothing wakes a blocked F_OFD_SETLKW when the build is canceled.
                while not _try_lock(handle, name, shared):
                    if cancel.wait(_WAIT_BETWEEN_TRIES_S):
                        raise CanceledError
            yield
        finally:
            os.close(handle)

    def try_hold(self, name: str, *, shared: bool = False) -> int | None:
        """Hold `name` if it is free: a descriptor whose closing gives it back, else None."""
        handle = self._open()
        if _try_lock(handle, name, shared):
            return handle
        os.close(handle)
        return None

    def is_held(self, name: str, *, shared: bool = False) -> bool:
        """Whether somebody holds `name`, so that it cannot be held (`shared`, if asked for) now."""
        handle = self.try_hold(name, shared=shared)
        if handle is not None:
            os.close(handle)
        return handle is None

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = "make it writable, or use another --root" if error.errno == errno.EROFS else None
            raise StoreError(f"cannot lock anything in {self._path}: {error.strerror}", hint=hint) from error


def _request(name: str, shared: bool) -> bytes:
    start = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:7], "big")
    return _FLOCK.pack(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)


def _try_lock(handle: int, name: str, shared: bool) -> bool:
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _request(name, shared))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
