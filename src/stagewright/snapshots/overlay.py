"""Overlay mounts that are attached nowhere: a directory descriptor is the mount, and closing it is the unmount.

No other process sees such a mount and none can be left over, however this process ends. What is in it is reached
relative to the descriptor (`dir_fd=`), or by name as `/proc/self/fd/N/...`; it can be given a place by move_mount.
"""

from __future__ import annotations

import errno
import os
from functools import cache

from stagewright import privilege
from stagewright.errors import StoreError
from stagewright.snapshots import syscalls, volatile

# The kernel's OVL_MAX_STACK.
MAX_LOWERS = 500
# A mount's option string is one page.
_MAX_OPTIONS = 4095

# Copies of a snapshot folder must mean the same on every machine and under every parent, so nothing that ties an
# upper directory to its lower ones (index, redirect, metacopy) is written, nor followed.
_OPTIONS = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"))


@cache
def xattr_prefix() -> str:
    """What the names of overlayfs's own extended attributes begin with: `trusted.` takes privilege on the machine."""
    return "user.overlay." if privilege.in_user_namespace() or not privilege.may_administer() else "trusted.overlay."


def is_overlay_xattr(name: str) -> bool:
    """Whether an extended attribute is overlayfs's own, under either prefix."""
    return name.startswith(("trusted.overlay.", "user.overlay."))


def is_opaque(path: str | bytes | int) -> bool:
    """Whether a directory of a layer hides everything below it in the chain."""
    try:
        if isinstance(path, int):
            return os.getxattr(path, xattr_prefix() + "opaque") == b"y"
        return os.getxattr(path, xattr_prefix() + "opaque", follow_symlinks=False) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def may_be_whiteout(mode: int) -> bool:
    """Whether an entry with that mode is worth to be looked at by `is_whiteout`."""
    return mode == 0o100000 or mode & 0o170000 == 0o020000


def is_whiteout(info: os.stat_result, path: str | bytes) -> bool:
    """Whether an entry of a layer, with its lstat, says that the name does not exist.

    That is a character device 0:0 or, where nobody could make one, an empty file without a mode that is marked so.
    """
    if info.st_mode & 0o170000 == 0o020000:
        return info.st_rdev == 0
    if info.st_mode != 0o100000 or info.st_size:
        return False
    try:
        return os.getxattr(path, xattr_prefix() + "whiteout", follow_symlinks=False) is not None
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def make_whiteout(layer: str | bytes, folder: str | bytes, name: bytes, mtime_ns: int) -> None:
    """Say in the folder of a layer that a name, which is free there, does not exist.

    Old kernels let only root make the device. The other form is that of Linux 6.8: the file's mark, and marks on its
    folder and on the layer by which overlayfs knows to look for it.
    """
    path = os.path.join(os.fsencode(folder), name)
    try:
        os.mknod(path, 0o020000, 0)
    except PermissionError:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o200))
        os.setxattr(path, xattr_prefix() + "whiteout", b"y")
        os.chmod(path, 0)
        for marked in (folder, layer):
            if not is_opaque(marked):
                os.setxattr(marked, xattr_prefix() + "opaque", b"x")
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def make_opaque(path: str | bytes) -> None:
    """Have a directory of a layer hide everything below it in the chain."""
    os.setxattr(path, xattr_prefix() + "opaque", b"y", follow_symlinks=False)


def mount(
    lowers: tuple[str, ...],
    upper: str | None = None,
    work: str | None = None,
    *,
    attributes: int = syscalls.MOUNT_ATTR_NODEV,
) -> int:
    """Mount an overlay and answer its root as an O_PATH descriptor; the mount ends when the caller closes it.

    `lowers` are absolute folders, topmost first: at least one with an upper directory, two without.
    `attributes` are MOUNT_ATTR_* bits; a mount without an upper directory is read-only.
    Raises StoreError where the kernel refuses.
    """
    if len(lowers) > MAX_LOWERS:
        raise StoreError(f"a chain of {len(lowers)} layers is more than overlayfs takes ({MAX_LOWERS})")
    if upper is None:
        attributes |= syscalls.MOUNT_ATTR_RDONLY
    options = list(_OPTIONS)
    try:
        if _has_lowerdir_plus():
            return _mount_by_descriptor(lowers, upper, work, options, attributes)
        return _mount_by_string(lowers, upper, work, options, attributes)
    except OSError as error:
        hint = None
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP) and upper is not None:
            hint = "put the state directory (--root) on a filesystem that overlayfs can write to, such as ext4 or xfs"
        elif error.errno == errno.ENODEV:
            hint = "load the kernel's overlay module"
        raise StoreError(f"cannot mount an overlay of {len(lowers)} layers: {error.strerror}", hint=hint) from error


@cache
def _has_lowerdir_plus() -> bool:
    """Whether the kernel takes lower directories one by one (Linux 6.5)."""
    fd = syscalls.fsopen("overlay")
    try:
        syscalls.fsconfig_string(fd, "lowerdir+", "/")
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    finally:
        os.close(fd)
    return True


def _mount_by_descriptor(
    lowers: tuple[str, ...], upper: str | None, work: str | None, options: list[tuple[str, str]], attributes: int
) -> int:
    fd = syscalls.fsopen("overlay")
    try:
        for key, value in options:
            syscalls.fsconfig_string(fd, key, value)
        if privilege.in_user_namespace():
            syscalls.fsconfig_flag(fd, "userxattr")
        for lower in lowers:
            syscalls.fsconfig_string(fd, "lowerdir+", lower)
        if upper is not None and work is not None:
            volatile.forget(work)
            syscalls.fsconfig_flag(fd, "volatile")
            syscalls.fsconfig_string(fd, "upperdir", upper)
            syscalls.fsconfig_string(fd, "workdir", work)
        syscalls.fsconfig_create(fd)
        return syscalls.fsmount(fd, attributes)
    finally:
        os.close(fd)


def _mount_by_string(
    lowers: tuple[str, ...], upper: str | None, work: str | None, options: list[tuple[str, str]], attributes: int
) -> int:
    """Mount by the classic call, whose option string is short: names are relative to the lowers' common folder.

    The working directory and the mount namespace are those of a thread made for this, so that no one else sees a
    change; the namespace ends with the thread, the detached copy of the mount lives on.
    """
    import threading

    base = os.path.dirname(lowers[0])
    parts = [f"{key}={value}" for key, value in options]
    if privilege.in_user_namespace():
        parts.append("userxattr")
    parts.append("lowerdir=" + ":".join(os.path.relpath(lower, base) for lower in lowers))
    if upper is not None and work is not None:
        volatile.forget(work)
        parts += ["volatile", f"upperdir={os.path.relpath(upper, base)}", f"workdir={os.path.relpath(work, base)}"]
    data = ",".join(parts)
    if len(data) > _MAX_OPTIONS:
        raise StoreError(f"a chain of {len(lowers)} layers does not fit into one mount call of this kernel")
    flags = (syscalls.MS_RDONLY if attributes & syscalls.MOUNT_ATTR_RDONLY else 0) | (
        syscalls.MS_NODEV if attributes & syscalls.MOUNT_ATTR_NODEV else 0
    )
    outcome: list[int | OSError] = []

    def work_apart() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
            os.chdir(base)
            syscalls.mount("overlay", base, "overlay", flags, data)
            outcome.append(syscalls.open_tree_clone(base))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=work_apart, name="overlay-mount")
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]
