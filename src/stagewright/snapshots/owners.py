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
_MARK = "owners"
_MAKERS = {
    "machine": "by root",
    "namespace": "in a user namespace",
    "one": "in a user namespace without subordinate ids",
    "contained": "in a container without privileges",
}


def change(target: str | bytes | int, uid: int, gid: int, *, dir_fd: int | None = None) -> None:
    """Give a file, by path or by descriptor, an owner; a link is not followed.

    Raises OSError, and StoreError where the user namespace has no such owner.
    """
    if not privilege.has_one_id():
        try:
            if isinstance(target, int):
                os.chown(target, uid, gid)
            else:
                os.chown(target, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL or not privilege.in_user_namespace():
                raise
            raise StoreError(
                f"the owner {uid}:{gid} lies outside the ids of this user",
                hint="give the user more of them in /etc/subuid and /etc/subgid",
            ) from error
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
    """Note who owns the files of the snapshots below `root`. Raises StoreError where they are owned in another way.

    Overlayfs's own notes on them differ as well between the machine's root and that of a user namespace.
    """
    path = os.path.join(root, _MARK)
    try:
        with open(path, encoding="ascii") as file:
            made = file.read()
    except FileNotFoundError:
        made = ""
    if privilege.in_user_namespace():
        now = "one" if privilege.has_one_id() else "namespace"
    else:
        now = "machine" if privilege.may_administer() else "contained"
    if made == now:
        return
    if made in _MAKERS and not is_empty:
        raise StoreError(
            f"the store was made {_MAKERS[made]} and cannot be used {_MAKERS[now]}",
            hint="take another --root, or empty this one: stagewright rm all images, then stagewright prune --all",
        )
    with open(path, "w", encoding="ascii") as file:
        file.write(now)


def _place(path: str | bytes, dir_fd: int | None) -> bytes:
    encoded = os.fsencode(path)
    return encoded if dir_fd is None else b"/proc/self/fd/%d/%s" % (dir_fd, encoded)
