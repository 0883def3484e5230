"""Layers merged by fuse-overlayfs, where the kernel does not let this process mount an overlay but a FUSE file system.

We open the connection to the kernel and mount it ourselves, attached nowhere; the program only serves it. So nothing is
left in any mount table, and when our descriptor of the mount is closed, or this process dies, the program ends.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from stagewright.errors import StoreError
from stagewright.snapshots import overlay, syscalls
from stagewright.snapshots.changes import directories_below, entry_below, tidy
from stagewright.snapshots.snapshotter import Lent, root_of
from stagewright.snapshots.tree import times_kept, walk

PROGRAM = "fuse-overlayfs"
DEVICE = "/dev/fuse"
# How it notes down an opaque directory, beside the attribute that overlayfs knows.
_OPAQUE_MARKS = (b".wh..wh..opq", b".wh..opq")
_WHITEOUT_PREFIX = b".wh."
_OWN_XATTRS = "user.fuseoverlayfs."


class FuseSnapshotter:
    """A process of fuse-overlayfs for each mount. `empty` is an empty folder."""

    name = "fuse-overlayfs"

    def __init__(self, empty: str) -> None:
        self._empty = empty

    @contextmanager
    def view(self, lowers: tuple[str, ...]) -> Iterator[int]:
        """See `Snapshotter.view`."""
        with _served(lowers or (self._empty,)) as mount, root_of(mount) as root:
            yield root

    @contextmanager
    def mount(self, lowers: tuple[str, ...], upper: str, work: str) -> Iterator[int]:
        """See `Snapshotter.mount`."""
        with _served(lowers or (self._empty,), upper, work) as mount, root_of(mount) as root:
            yield root

    @contextmanager
    def lend_view(self, lowers: tuple[str, ...]) -> Iterator[Lent]:
        """See `Snapshotter.lend_view`."""
        with _served(lowers or (self._empty,)) as mount:
            yield mount

    @contextmanager
    def lend(self, lowers: tuple[str, ...], upper: str, work: str) -> Iterator[Lent]:
        """See `Snapshotter.lend`."""
        with _served(lowers or (self._empty,), upper, work) as mount:
            yield mount

    def settle(self, lowers: tuple[str, ...], upper: str) -> int:
        """See `Snapshotter.settle`: its own marks become those of overlayfs."""
        for _, path, info in list(walk(upper)):
            folder, _, name = path.rpartition(b"/")
            if name in _OPAQUE_MARKS:
                with times_kept(folder):
                    os.unlink(path)
                overlay.make_opaque(folder)
            elif name.startswith(_WHITEOUT_PREFIX) and stat.S_ISREG(info.st_mode) and not info.st_size:
                with times_kept(folder):
                    os.unlink(path)
                    overlay.make_whiteout(upper, folder, name[len(_WHITEOUT_PREFIX) :], info.st_mtime_ns)
            else:
                for key in os.listxattr(path, follow_symlinks=False):
                    if key.startswith(_OWN_XATTRS):
                        os.removexattr(path, key, follow_symlinks=False)
        _mend_folders(upper, lowers)
        return tidy(upper, lowers)

    def committed(self, lowers: tuple[str, ...], upper: str) -> None:
        """See `Snapshotter.committed`."""

    def discarded(self, upper: str) -> None:
        """See `Snapshotter.discarded`."""

    def close(self) -> None:
        """See `Snapshotter.close`."""


def refusal() -> str | None:
    """Why fuse-overlayfs cannot be used here; None where it can."""
    if shutil.which(PROGRAM) is None:
        return f"{PROGRAM} is not installed"
    try:
        mount, connection = _connect(syscalls.MOUNT_ATTR_RDONLY)
    except OSError as error:
        return f"{DEVICE} cannot be used: {error.strerror}"
    os.close(connection)
    os.close(mount)
    return None


def _mend_folders(upper: str, lowers: tuple[str, ...]) -> None:
    """Give folders of lower layers back what this program loses when it copies them up for the sake of what is in them.

    That is their set-group-ID bit, and their time where nothing was added, removed or put in another's place: then the
    last change in the folder is not older than all files in it.
    """
    pending = [(os.fsencode(upper), [os.fsencode(lower) for lower in lowers])]
    while pending:
        path, below = pending.pop()
        if not below:
            continue
        known = os.stat(below[0])
        info = os.stat(path)
        if known.st_mode & stat.S_ISGID and info.st_mode | stat.S_ISGID == known.st_mode:
            os.chmod(path, stat.S_IMODE(known.st_mode))
        with os.scandir(path) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        folders = {name: directories_below(below, name) for name, entry in found if stat.S_ISDIR(entry.st_mode)}
        in_place = all(
            entry_below(below, name) and (name in folders or entry.st_mtime_ns >= info.st_mtime_ns)
            for name, entry in found
        )
        if found and in_place and not overlay.is_opaque(path):
            os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
        pending += [(os.path.join(path, name), merged) for name, merged in folders.items()]


@contextmanager
def _served(lowers: tuple[str, ...], upper: str | None = None, work: str | None = None) -> Iterator[int]:
    """A detached mount of the merged tree, whose server ends with the block."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise StoreError(f"cannot merge {len(lowers)} layers: {PROGRAM} is not installed")
    options = ["lowerdir=" + ":".join(_plain(lower) for lower in lowers)]
    if upper is not None and work is not None:
        # Without `volatile` each fsync of a step syncs the disk for a draft that would not survive.
        options += [f"upperdir={_plain(upper)}", f"workdir={_plain(work)}", "volatile"]
    try:
        mount, connection = _connect(syscalls.MOUNT_ATTR_NODEV | (0 if upper else syscalls.MOUNT_ATTR_RDONLY))
    except OSError as error:
        raise StoreError(f"cannot mount by {DEVICE}: {error.strerror}") from error
    try:
        pid = os.posix_spawn(
            program,
            [program, "-f", "-o", ",".join(options), "/dev/fd/3"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, connection, 3),
                *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)),
            ],
            setsid=True,
        )
    except OSError as error:
        os.close(mount)
        raise StoreError(f"cannot start {program}: {error.strerror}") from error
    finally:
        # With the server's copy the last one, its end breaks the connection off: no one waits for it for ever.
        os.close(connection)
    try:
        yield mount
    finally:
        os.close(mount)
        os.waitpid(pid, 0)


def _connect(attributes: int) -> tuple[int, int]:
    """A detached FUSE mount, and the descriptor by which it is served."""
    connection = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        context = syscalls.fsopen("fuse")
        try:
            options = {"source": PROGRAM, "fd": str(connection), "rootmode": "40000", "user_id": "0", "group_id": "0"}
            for key, value in options.items():
                syscalls.fsconfig_string(context, key, value)
            for key in ("allow_other", "default_permissions"):
                syscalls.fsconfig_flag(context, key)
            syscalls.fsconfig_create(context)
            return syscalls.fsmount(context, attributes), connection
        finally:
            os.close(context)
    except BaseException:
        os.close(connection)
        raise


def _plain(path: str) -> str:
    if any(character in path for character in ":,\\"):
        raise StoreError(f"{PROGRAM} cannot use the path {path}", hint="choose a --root without colons and commas")
    return path
