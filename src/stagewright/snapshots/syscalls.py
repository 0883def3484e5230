"""The Linux system calls that Python does not offer: the file descriptor mount API and openat2, by ctypes."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ctypes

# Numbers from 424 on are the same on every architecture.
_OPEN_TREE = 428
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_OPENAT2 = 437

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NODEV = 0x04
CLONE_NEWNS = 0x00020000
MS_RDONLY = 0x01
MS_NODEV = 0x04
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
_CLOEXEC = 0x01
_OPEN_TREE_CLONE = 0x01


@cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    import ctypes

    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _syscall(what: str, number: int, *arguments: Any) -> int:
    import ctypes

    # A variadic C function takes what it is given: a plain int would be cut to 32 bits.
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *wide), what)


def fsopen(filesystem: str) -> int:
    """A configuration descriptor for a new filesystem instance (close-on-exec)."""
    return _syscall("fsopen", _FSOPEN, filesystem.encode(), _CLOEXEC)


def fsconfig_string(fd: int, key: str, value: str) -> None:
    """Set one option of a filesystem instance; OSError EINVAL where the kernel does not know it."""
    _syscall(f"fsconfig {key}", _FSCONFIG, fd, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)


def fsconfig_flag(fd: int, key: str) -> None:
    """Set one option that has no value."""
    _syscall(f"fsconfig {key}", _FSCONFIG, fd, FSCONFIG_SET_FLAG, key.encode(), None, 0)


def fsconfig_create(fd: int) -> None:
    """Make the instance from the options that were set."""
    _syscall("fsconfig create", _FSCONFIG, fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(fd: int, attributes: int) -> int:
    """A directory descriptor of a mount that is attached nowhere; closing its last copy ends the mount."""
    return _syscall("fsmount", _FSMOUNT, fd, _CLOEXEC, attributes)


def open_tree_clone(path: str) -> int:
    """A directory descriptor of a detached copy of the mount at `path`."""
    return _syscall("open_tree", _OPEN_TREE, -100, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC)


def unshare(flags: int) -> None:
    """Give the calling thread its own copy of what `flags` (CLONE_*) name."""
    _checked(_libc().unshare(flags), "unshare")


def syncfs(fd: int) -> None:
    """Have all that was written to the file system of a file on its disk. Raises OSError where the disk refuses."""
    _checked(_libc().syncfs(fd), "syncfs")


def mount(source: str, target: str, filesystem: str, flags: int, data: str) -> None:
    """The classic mount call; `data` is the option string (at most a page)."""
    import ctypes

    arguments = (os.fsencode(source), os.fsencode(target), filesystem.encode(), ctypes.c_ulong(flags))
    _checked(_libc().mount(*arguments, os.fsencode(data)), "mount")


def openat2(directory: int, path: bytes, flags: int, mode: int = 0, resolve: int = RESOLVE_BENEATH) -> int:
    """Open `path` under the directory descriptor with the kernel's RESOLVE_* rules; the result is close-on-exec.

    Raises OSError: EXDEV where the path would leave the directory, ELOOP where it goes through a refused link.
    """
    import ctypes

    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        result = _libc().syscall(
            ctypes.c_long(_OPENAT2), ctypes.c_long(directory), path, how, ctypes.c_long(ctypes.sizeof(how))
        )
        if result >= 0:
            return int(result)
        number = ctypes.get_errno()
        # EAGAIN: something was renamed meanwhile and the kernel could not be sure about a "..".
        if number not in (4, 11):
            raise OSError(number, os.strerror(number), os.fsdecode(path))
