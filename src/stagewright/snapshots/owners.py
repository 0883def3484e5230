"""Owners of the files of layers: the kernel's own where it takes any, a note on the file where there is one id only.

In a user namespace of one id all files are root's. Whose they should be is kept in an extended attribute of files and
folders, by which copies and layers come out right; a running step sees root. Links and special files take no such
attribute and stay root's.
"""

from __future__ import annotations

import errno
import os
import stat

from stagewright import privilege
from stagewright.errors import StoreError

ATTRIBUTE = "user.stagewright.owner"
_MARK = "one-id"


def change(target: str | bytes | int, uid: int, gid: int, *, dir_fd: int | None = None) -> None:
    """Give a file, by path or by descriptor, an owner; a link is not followed. Raises OSError."""
    if not privilege.has_one_id():
        if isinstance(target, int):
            os.chown(target, uid, gid)
        else:
            os.chown(target, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
        return
    place = target if isinstance(target, int) else _place(target, dir_fd)
    follow = isinstance(target, int)
    if (uid, gid) == (0, 0):
        try:
            os.removexattr(place, ATTRIBUTE, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EPERM, errno.ENOTSUP):
                raise
        return
    mode = os.stat(place, follow_symlinks=follow).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        os.setxattr(place, ATTRIBUTE, b"%d:%d" % (uid, gid), follow_symlinks=follow)


def read(info: os.stat_result, source: bytes | int) -> tuple[int, int]:
    """The owner (UID, GID) of a file with this status, given by its absolute path or by a descriptor."""
    if privilege.has_one_id() and (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
        try:
            uid, _, gid = os.getxattr(source, ATTRIBUTE, follow_symlinks=isinstance(source, int)).partition(b":")
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
        else:
            if uid.isdigit() and gid.isdigit():
                return int(uid), int(gid)
    return info.st_uid, info.st_gid


def check_store(root: str, is_empty: bool) -> None:
    """Note how the snapshots below `root` keep owners. Raises StoreError where they are kept in the other way."""
    mark = os.path.join(root, _MARK)
    marked = os.path.exists(mark)
    if marked == privilege.has_one_id():
        return
    if not is_empty:
        made, now = ("without", "with") if marked else ("with", "without")
        raise StoreError(
            f"the store was made {made} subordinate ids and cannot be used {now} them",
            hint="run: stagewright prune --all, and remove the images, or take another --root",
        )
    if marked:
        os.unlink(mark)
    else:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _place(path: str | bytes, dir_fd: int | None) -> bytes:
    encoded = os.fsencode(path)
    return encoded if dir_fd is None else b"/proc/self/fd/%d/%s" % (dir_fd, encoded)
