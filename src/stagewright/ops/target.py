"""Where file actions write: a draft's own layer, with what lies below it in sight.

Writing straight into the layer's folder spares overlayfs's copying up, and is allowed as long as nothing is removed:
what is written here only ever hides what is below. A folder of a lower layer that gets something new is mirrored into
the layer with its metadata, times too, so that equal steps give equal layers.
"""

from __future__ import annotations

import os
import stat

from stagewright.errors import StagewrightError
from stagewright.snapshots import owners
from stagewright.sources.digests import read_xattrs
from stagewright.sources.tree import resolve_links

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Target:
    """The draft behind the directory descriptor `layer`, on top of the read-only view `below` (None: nothing).

    Folders that are made on the way get the time `mtime`, in seconds (None: that of their last change). Paths are
    relative to the root, without a leading slash; `resolved` ones hold no links.
    """

    def __init__(self, layer: int, below: int | None, mtime: int | None = None) -> None:
        self.layer = layer
        self._below = below
        self._mtime = mtime
        self._made: list[str] = []
        self._mirrored: dict[str, os.stat_result] = {}

    def resolve(self, path: str) -> str:
        """The path with all links resolved inside the root; what does not exist is kept."""
        return resolve_links(path, self._link, follow_last=True)

    def _link(self, path: str) -> str | None:
        info = self.lstat(path)
        if info is None or not stat.S_ISLNK(info.st_mode):
            return None
        try:
            return os.readlink(path, dir_fd=self.layer)
        except OSError:
            assert self._below is not None
            return os.readlink(path, dir_fd=self._below)

    def lstat(self, path: str) -> os.stat_result | None:
        """What is at a resolved path, None if nothing is."""
        for root in (self.layer, self._below):
            if root is not None:
                try:
                    return os.stat(path or ".", dir_fd=root, follow_symlinks=False)
                except (FileNotFoundError, NotADirectoryError):
                    continue
        return None

    def is_dir(self, path: str) -> bool:
        info = self.lstat(path)
        return info is not None and stat.S_ISDIR(info.st_mode)

    def make_dirs(self, path: str, owner: tuple[int, int] | None, mode: int = 0o755) -> None:
        """Make the folder at a resolved path and those above it where they are missing; one that exists is not touched.

        Raises StagewrightError where something else is in the way.
        """
        if not self.is_dir(path):
            self.hold_dirs(path, owner, mode)

    def hold_dirs(self, path: str, owner: tuple[int, int] | None, mode: int = 0o755) -> None:
        """As `make_dirs`, and have the folder in the layer itself, ready to be written to.

        Raises StagewrightError where something else is in the way.
        """
        done = ""
        for part in path.split("/") if path else []:
            done = f"{done}/{part}" if done else part
            info = self.lstat(done)
            if info is None:
                os.mkdir(done, mode, dir_fd=self.layer)
                self._made.append(done)
                os.chmod(done, mode, dir_fd=self.layer)
                if owner is not None:
                    owners.change(done, *owner, dir_fd=self.layer)
            elif not stat.S_ISDIR(info.st_mode):
                raise StagewrightError(f"cannot make the folder /{path}: /{done} is not a folder")
            else:
                self._mirror(done, info)

    def _mirror(self, path: str, info: os.stat_result) -> None:
        try:
            os.mkdir(path, 0o700, dir_fd=self.layer)
        except FileExistsError:
            return
        assert self._below is not None
        source = os.open(path, _FOLDER, dir_fd=self._below)
        copy = os.open(path, _FOLDER, dir_fd=self.layer)
        try:
            owners.change(copy, *owners.read(info, source))
            os.fchmod(copy, stat.S_IMODE(info.st_mode))
            copy_xattrs(source, copy)
        finally:
            os.close(source)
            os.close(copy)
        self._mirrored[path] = info

    def restore_times(self) -> None:
        """Give the mirrored folders the times that they have below, and the made ones that which was given."""
        if self._mtime is not None:
            for path in self._made:
                os.utime(path, (self._mtime, self._mtime), dir_fd=self.layer, follow_symlinks=False)
        for path, info in self._mirrored.items():
            os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=self.layer, follow_symlinks=False)

    def touched(self, path: str) -> None:
        """The folder at `path` got metadata of its own: its times are not those from below."""
        self._mirrored.pop(path, None)

    def read_text(self, path: str, limit: int = 1 << 20) -> str:
        """A small text file of the root, "" where there is none (passwd, group)."""
        resolved = self.resolve(path)
        for root in (self.layer, self._below):
            if root is None:
                continue
            try:
                handle = os.open(resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
            except OSError:
                continue
            with os.fdopen(handle, "rb") as file:
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    return file.read(limit).decode(errors="surrogateescape")
        return ""


def copy_xattrs(source: int, destination: int) -> None:
    """Copy extended attributes between descriptors, but for those that are overlayfs's or the store's own.

    One that the destination's filesystem does not take is left out, as `cp -a` and BuildKit do.
    """
    for name, value in read_xattrs(source):
        if name == owners.ATTRIBUTE:
            continue
        try:
            os.setxattr(destination, name, value)
        except OSError:
            continue
