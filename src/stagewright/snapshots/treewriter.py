"""Archive members written beneath a folder, and never anywhere else, whatever their names and links say."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from stagewright import privilege
from stagewright.errors import IntegrityError, StoreError
from stagewright.snapshots import overlay, owners, syscalls, tarreader
from stagewright.snapshots.tarreader import TarEntry, shown
from stagewright.snapshots.tree import remove_entry

_T = TypeVar("_T")

_CACHED_DIRECTORIES = 16
_ODD = re.compile(rb"(?:^|/)\.{0,2}(?:/|$)")
_MAX_ID = (1 << 32) - 2
_MAX_TIME_NS = (1 << 63) - 1
# The directories' names and times are in memory until the archive's end: two million of common length.
_MAX_DIRECTORIES_BYTES = 512 << 20
_DIRECTORY_BYTES = 200


def clean_name(name: bytes) -> bytes:
    """An archive's relative name without `.`, `..` and doubled slashes; empty for the root.

    `..` is taken lexically, as Go's filepath.Clean does. Raises IntegrityError for a name that climbs above the root.
    """
    trimmed = name.strip(b"/")
    if _ODD.search(trimmed) is None:
        return trimmed
    parts: list[bytes] = []
    for part in trimmed.split(b"/"):
        if part == b"..":
            if not parts:
                raise IntegrityError(f"archive member {shown(name)} leads out of the archive's root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class TreeWriter:
    """Writes archive members beneath the directory `root` (a descriptor, which stays the caller's).

    Every parent directory is opened by the kernel under the rule `resolve` (RESOLVE_BENEATH: a symbolic link on the
    way must stay inside, RESOLVE_IN_ROOT: links are followed as if `root` were `/`); the last component is never
    followed. A member that already exists is replaced, but that a directory stays one. `owner` replaces the members'
    uid and gid. Raises IntegrityError naming a member that cannot be written within these rules.

    Used as a context manager. `finish()` sets the directories' times, which their contents have changed.
    """

    def __init__(self, root: int, *, resolve: int, owner: tuple[int, int] | None = None) -> None:
        self.root = root
        self._resolve = resolve | syscalls.RESOLVE_NO_MAGICLINKS
        self._owner = owner
        self._directories: dict[bytes, int] = {}
        self._stale: list[int] = []
        self._times: dict[bytes, int] = {}
        self._times_bytes = 0

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._retire_directories()
        self._close_stale()

    def write(self, name: bytes, entry: TarEntry, body: Iterable[memoryview]) -> None:
        """Write one member at the cleaned, non-empty `name`."""
        self._close_stale()
        with refusals(entry.name):
            mtime_ns = bounded_time(entry.mtime_ns)
            parent, base = self.parent(name, mtime_ns)
            if entry.type == tarreader.REGULAR:
                self._write_file(parent, base, entry, body)
            elif entry.type == tarreader.DIRECTORY:
                self.write_directory(parent, base, entry)
                self._keep_time(name, mtime_ns)
            elif entry.type == tarreader.HARD_LINK:
                self._write_link(parent, base, entry)
            elif entry.type == tarreader.SYMLINK:
                self._make(parent, base, lambda: os.symlink(entry.link_name, base, dir_fd=parent))
                self._set_metadata(parent, base, entry)
            else:
                self._write_special(parent, base, entry)

    def finish(self) -> None:
        """Give the directories the times that their members said."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        for name, mtime_ns in self._times.items():
            try:
                fd = syscalls.openat2(self.root, name, flags, resolve=self._resolve)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                    continue  # A later member took its place.
                raise
            try:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)

    def parent(self, name: bytes, mtime_ns: int) -> tuple[int, bytes]:
        """The open directory that holds `name`, and the last component; a missing directory is made.

        The descriptor stays this object's own and is valid until a few more were asked for.
        """
        directory, _, base = name.rpartition(b"/")
        return self.directory(directory, mtime_ns), base

    def directory(self, name: bytes, mtime_ns: int) -> int:
        """The open directory at a cleaned name, made where it is missing; `mtime_ns` is for those that are made."""
        try:
            return self.existing_directory(name)
        except FileNotFoundError:
            self._imply(name, mtime_ns)
            return self.existing_directory(name)

    def existing_directory(self, name: bytes) -> int:
        """The open directory at a cleaned name. Raises FileNotFoundError where there is none."""
        if not name:
            return self.root
        fd = self._directories.pop(name, None)
        if fd is None:
            fd = syscalls.openat2(self.root, name, os.O_PATH | os.O_DIRECTORY, resolve=self._resolve)
            if len(self._directories) >= _CACHED_DIRECTORIES:
                os.close(self._directories.pop(next(iter(self._directories))))
        self._directories[name] = fd
        return fd

    def make_implied(self, parent: int, base: bytes, name: bytes, mtime_ns: int) -> int:
        """Make a directory that members lie in but that is no member itself; answers its time in nanoseconds.

        `name` is its whole name, `mtime_ns` the time of the member that wants it.
        """
        os.mkdir(base, 0o755, dir_fd=parent)
        owners.change(base, *(self._owner or (0, 0)), dir_fd=parent)
        os.chmod(base, 0o755, dir_fd=parent)  # noqa: S103
        return mtime_ns

    def write_directory(self, parent: int, base: bytes, entry: TarEntry) -> None:
        """Make the directory, or give the one that is there the member's owner and mode."""
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            info = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                self._remove(parent, base, info)
                os.mkdir(base, 0o700, dir_fd=parent)
        self._set_metadata(parent, base, entry)

    def link_source(self, target: bytes, mtime_ns: int) -> tuple[int, bytes]:
        """The open directory and the last component of what a hard link names. Raises FileNotFoundError."""
        directory, _, base = target.rpartition(b"/")
        parent = self.existing_directory(directory)
        os.stat(base, dir_fd=parent, follow_symlinks=False)
        return parent, base

    def _imply(self, name: bytes, mtime_ns: int) -> None:
        parent, at = self.root, 0
        while at >= 0:
            at = name.find(b"/", at + 1)
            prefix = name if at < 0 else name[:at]
            try:
                parent = self.existing_directory(prefix)
            except FileNotFoundError:
                base = prefix.rpartition(b"/")[2]
                try:
                    self._keep_time(prefix, self.make_implied(parent, base, prefix, mtime_ns))
                except FileExistsError:
                    raise IntegrityError(f"archive member {shown(name)} goes through a link to nowhere") from None
                parent = self.existing_directory(prefix)

    def _keep_time(self, name: bytes, mtime_ns: int) -> None:
        if name not in self._times:
            self._times_bytes += len(name) + _DIRECTORY_BYTES
            if self._times_bytes > _MAX_DIRECTORIES_BYTES:
                raise IntegrityError("the archive has more directories than can be kept in memory")
        self._times[name] = mtime_ns

    def _write_file(self, parent: int, base: bytes, entry: TarEntry, body: Iterable[memoryview]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = self._make(parent, base, lambda: os.open(base, flags, 0o600, dir_fd=parent))
        try:
            if entry.regions is None:
                for piece in body:
                    _write_all(fd, piece)
            else:
                _write_sparse(fd, entry, body)
            owners.change(fd, *self._owner_of(entry))
            for key, value in entry.xattrs.items():
                _set_xattr(fd, key, value)
            os.fchmod(fd, entry.mode)
            mtime_ns = bounded_time(entry.mtime_ns)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def _write_link(self, parent: int, base: bytes, entry: TarEntry) -> None:
        target = clean_name(entry.link_name)
        try:
            source, source_base = self.link_source(target, bounded_time(entry.mtime_ns))
        except (FileNotFoundError, NotADirectoryError):
            raise IntegrityError(
                f"archive member {shown(entry.name)} is a hard link to {shown(entry.link_name)}, which does not exist"
            ) from None
        info = os.stat(source_base, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            raise IntegrityError(f"archive member {shown(entry.name)} is a hard link to a directory")
        if not _is_same(parent, base, info):
            self._make(
                parent,
                base,
                lambda: os.link(source_base, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False),
            )
        self._set_metadata(parent, base, entry, is_link=stat.S_ISLNK(info.st_mode))

    def _write_special(self, parent: int, base: bytes, entry: TarEntry) -> None:
        kinds = {tarreader.CHARACTER_DEVICE: stat.S_IFCHR, tarreader.BLOCK_DEVICE: stat.S_IFBLK}
        kind = kinds.get(entry.type, stat.S_IFIFO)
        major, minor = entry.device
        if not 0 <= major < 1 << 12 or not 0 <= minor < 1 << 20:
            raise IntegrityError(f"archive member {shown(entry.name)} has a device number that Linux does not have")
        device = os.makedev(major, minor)
        if kind != stat.S_IFIFO and device and privilege.in_user_namespace():
            return  # The kernel lets nobody make one there, and container tools leave them out.
        self._make(parent, base, lambda: os.mknod(base, kind | 0o600, device, dir_fd=parent))
        self._set_metadata(parent, base, entry)

    def _make(self, parent: int, base: bytes, create: Callable[[], _T]) -> _T:
        try:
            return create()
        except FileExistsError:
            self._remove(parent, base, os.stat(base, dir_fd=parent, follow_symlinks=False))
            return create()

    def _remove(self, parent: int, base: bytes, info: os.stat_result) -> None:
        if stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode):
            self._retire_directories()
        remove_entry(parent, base, info)

    def _set_metadata(self, parent: int, base: bytes, entry: TarEntry, *, is_link: bool = False) -> None:
        owners.change(base, *self._owner_of(entry), dir_fd=parent)
        for key, value in entry.xattrs.items():
            _set_xattr(b"/proc/self/fd/%d/%s" % (parent, base), key, value)
        # A mode is set after the owner, which takes the setuid bit away, and never through a link.
        if entry.type != tarreader.SYMLINK and not is_link:
            os.chmod(base, entry.mode, dir_fd=parent)
        mtime_ns = bounded_time(entry.mtime_ns)
        os.utime(base, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _owner_of(self, entry: TarEntry) -> tuple[int, int]:
        if self._owner is not None:
            return self._owner
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            raise IntegrityError(f"archive member {shown(entry.name)} has an impossible owner {entry.uid}:{entry.gid}")
        return entry.uid, entry.gid

    def _retire_directories(self) -> None:
        """Forget the open directories, whose names may now mean others; the member in work may still use some."""
        self._stale += self._directories.values()
        self._directories.clear()

    def _close_stale(self) -> None:
        while self._stale:
            os.close(self._stale.pop())


@contextmanager
def refusals(name: bytes) -> Iterator[None]:
    """Turn what the kernel refuses into an error that names the archive member."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ELOOP):
            raise IntegrityError(
                f"archive member {shown(name)} goes through a link out of the archive's root"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.EFBIG):
            raise IntegrityError(f"archive member {shown(name)} cannot be written: {error.strerror}") from error
        raise StoreError(f"cannot write archive member {shown(name)}: {error.strerror}") from error
    except StoreError as error:
        error.put_before(f"cannot write archive member {shown(name)}")
        raise


def bounded_time(mtime_ns: int) -> int:
    """The time itself, or the epoch where no file system could hold it (as containerd does)."""
    return mtime_ns if 0 <= mtime_ns <= _MAX_TIME_NS else 0


def _is_same(parent: int, base: bytes, info: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(base, dir_fd=parent, follow_symlinks=False), info)
    except FileNotFoundError:
        return False


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _write_sparse(fd: int, entry: TarEntry, body: Iterable[memoryview]) -> None:
    os.ftruncate(fd, entry.size)
    regions = iter(entry.regions or ())
    offset = left = 0
    for whole in body:
        piece = whole
        while piece:
            while not left:
                offset, left = next(regions)
            written = os.pwrite(fd, piece[:left], offset)
            offset, left, piece = offset + written, left - written, piece[written:]


def _set_xattr(target: int | bytes, name: str, value: bytes) -> None:
    if overlay.is_overlay_xattr(name):
        return  # It would mean something to overlayfs; no archive has a say in that.
    try:
        if isinstance(target, int):
            os.setxattr(target, name, value)
        else:
            os.setxattr(target, name, value, follow_symlinks=False)
    except OSError as error:
        # What this file system or this user cannot keep is left out, as container tools do.
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
