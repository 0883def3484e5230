"""Copies files of a tree into a target: contents, owners, modes, times, extended attributes, links."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stagewright.errors import StagewrightError
from stagewright.ops.crew import Crew
from stagewright.ops.target import Target, copy_xattrs
from stagewright.records import dataclass, field
from stagewright.snapshots import owners
from stagewright.snapshots.holes import data_ranges
from stagewright.sources.tree import Entry, TreeAtHand

if TYPE_CHECKING:
    from concurrent.futures import Future

    from stagewright.ops.sharing import Sharer
    from stagewright.snapshots.links import Found

_SMALL = 1 << 18
_CHUNK = 1 << 26
# Files of one folder that are copied as one piece of work.
_BATCH = 64
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Mode = Callable[[int, bool], int]


@dataclass(slots=True)
class _Folder:
    """A folder that is being filled: what it copies, where to, and whether nothing of it lay below the layer.

    `files` are those that are yet to be copied, `copying` is the work on others.
    """

    entry: Entry
    prefix: str
    path: str
    handle: int
    fresh: bool
    take_metadata: bool
    files: list[tuple[Entry, str]] = field(default_factory=list)
    copying: list[Future[None]] = field(default_factory=list)


class Copier:
    """The copy of one source. `owner` replaces all owners (None: each file's own), `mode` computes permission bits
    from a file's own and from whether it is a folder (None: the file's own), `mtime` replaces all times, in seconds.
    `below` answers what is copied of a folder (None: everything). `check` is called now and then, and may raise.
    `sharer` finds files that may be linked to instead; the target must be a draft's own layer then."""

    def __init__(
        self,
        tree: TreeAtHand,
        target: Target,
        check: Callable[[], None],
        owner: tuple[int, int] | None = None,
        mode: Mode | None = None,
        mtime: int | None = None,
        below: Callable[[Entry], Iterator[list[Entry]]] | None = None,
        sharer: Sharer | None = None,
    ) -> None:
        self._tree = tree
        self._target = target
        self._check = check
        self._owner = owner
        self._mode = mode
        self._mtime = mtime
        self._below = below or (lambda top: tree.runs(top.path))
        self._sharer = sharer
        # Hard links among the sources stay hard links: (device, inode) -> path in the layer.
        self._links: dict[tuple[int, int], str] = {}
        # The open folders of the layer.
        self._handles: set[int] = set()
        # The bytes of the files that were made; another name of one is none of its own.
        self.size = 0

    def copy_file(self, entry: Entry, path: str) -> None:
        """Copy what is no folder to the resolved path `path`, whose folder exists in the layer.

        Raises StagewrightError where a folder is in the way.
        """
        folder, name = posixpath.split(path)
        handle = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._target.layer)
        try:
            self._clear(path, name, handle)
            if not self._make(entry, handle, name, path, self._find([entry], [path])[0]):
                self._copy_regular(self._tree, entry, handle, name)
        finally:
            os.close(handle)

    def copy_contents(self, top: Entry, path: str, *, take_metadata: bool = False) -> None:
        """Copy what is in the folder `top` into the folder at the resolved path `path`, which exists in the layer.

        With `take_metadata` that folder gets the owner, mode, attributes and times of `top`.
        """
        with self._closing(), Crew() as crew:
            folders = [self._open(top, path, fresh=False, take_metadata=take_metadata)]
            for run in self._below(top):
                self._check()
                while not run[0].path.startswith(folders[-1].prefix):
                    self._leave(folders.pop(), crew)
                folder = folders[-1]
                self._make_run([entry for entry in run if not entry.is_dir], folder, crew)
                if run[-1].is_dir:
                    folders.append(self._enter(run[-1], folder))
            while folders:
                self._leave(folders.pop(), crew)
            crew.finish()

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Close the folders that nobody left."""
        try:
            yield
        finally:
            while self._handles:
                os.close(self._handles.pop())

    def _open(self, entry: Entry, path: str, *, fresh: bool, take_metadata: bool) -> _Folder:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        handle = os.open(path or ".", flags, dir_fd=self._target.layer)
        self._handles.add(handle)
        return _Folder(entry, f"{entry.path}/" if entry.path else "", path, handle, fresh, take_metadata)

    def _make_run(self, entries: list[Entry], folder: _Folder, crew: Crew) -> None:
        """Make entries of one folder, none of them a folder, or have them made."""
        names = [entry.path[len(folder.prefix) :] for entry in entries]
        paths = [f"{folder.path}/{name}" for name in names] if folder.path else names
        if not folder.fresh:
            for name, path in zip(names, paths, strict=True):
                self._clear(path, name, folder.handle)
        for entry, name, path, found in zip(entries, names, paths, self._find(entries, paths), strict=True):
            if not self._make(entry, folder.handle, name, path, found):
                folder.files.append((entry, name))
                if len(folder.files) == _BATCH:
                    self._copy_files(folder, crew)

    def _enter(self, entry: Entry, parent: _Folder) -> _Folder:
        name = entry.path[len(parent.prefix) :]
        path = f"{parent.path}/{name}" if parent.path else name
        known = None if parent.fresh else self._target.lstat(path)
        if known is None:
            os.mkdir(name, 0o700, dir_fd=parent.handle)
        elif stat.S_ISDIR(known.st_mode):
            self._target.hold_dirs(path, None)
            if entry.on_the_way:
                # BuildKit gives such a folder the source's mode, and nothing else of it.
                os.chmod(name, stat.S_IMODE(entry.info.st_mode), dir_fd=parent.handle)
        else:
            raise StagewrightError(f"cannot copy to non-directory: /{path}")
        return self._open(entry, path, fresh=known is None, take_metadata=known is None or not entry.on_the_way)

    def _copy_files(self, folder: _Folder, crew: Crew) -> None:
        files, folder.files = folder.files, []

        def work() -> None:
            with self._tree.twin() as tree:
                for entry, name in files:
                    self._check()
                    self._copy_regular(tree, entry, folder.handle, name)

        future = crew.do(work, len(files))
        if future is not None:
            folder.copying.append(future)

    def _leave(self, folder: _Folder, crew: Crew) -> None:
        """Metadata comes last, since filling a folder changes its times, and its mode may forbid filling it."""
        self._copy_files(folder, crew)
        if folder.take_metadata:
            self._target.touched(folder.path)

        def work() -> None:
            # They were begun before.
            for future in folder.copying:
                future.result()
            if folder.take_metadata:
                with self._tree.twin() as tree:
                    source = tree.open_folder(folder.entry.path)
                    try:
                        self._apply(folder.entry.info, source, folder.handle)
                    finally:
                        os.close(source)
            self._handles.discard(folder.handle)
            os.close(folder.handle)

        crew.do(work, 0)

    def _clear(self, path: str, name: str, folder: int) -> None:
        known = self._target.lstat(path)
        if known is None:
            return
        if stat.S_ISDIR(known.st_mode):
            raise StagewrightError(f"cannot replace to directory /{path} with file")
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            # It lies below the layer; the new file will hide it.
            pass

    def _find(self, entries: list[Entry], paths: list[str]) -> list[Found | None]:
        """The files of other snapshots that may do for a copy of these, which are of one folder, and have one name."""
        found: list[Found | None] = [None] * len(entries)
        if self._sharer is not None:
            infos = [entry.info for entry in entries]
            asked = [at for at, info in enumerate(infos) if stat.S_ISREG(info.st_mode) and info.st_nlink == 1]
            if asked:
                answers = self._sharer.find(self._tree, [entries[at] for at in asked], [paths[at] for at in asked])
                for at, answer in zip(asked, answers, strict=True):
                    found[at] = answer
        return found

    def _make(self, entry: Entry, folder: int, name: str, path: str, found: Found | None) -> bool:
        """Make what is no folder, but for a file that takes a copy of its own, which may wait (False)."""
        info = entry.info
        if stat.S_ISREG(info.st_mode):
            return self._make_regular(entry, folder, name, path, found)
        if stat.S_ISLNK(info.st_mode):
            os.symlink(self._tree.readlink(entry.path), name, dir_fd=folder)
            self._apply_special(info, folder, name)
        elif stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            raise StagewrightError(f"cannot copy /{entry.path}: the device 0:0 would hide what is below it in an image")
        elif not stat.S_ISSOCK(info.st_mode):
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=folder)
            self._apply_special(info, folder, name)
        elif self._tree.owner is None:
            # No layer holds a socket: BuildKit puts an empty file in its place. One of a build context, which is some
            # running program's, it leaves out.
            os.mknod(name, stat.S_IFREG | 0o600, dir_fd=folder)
            self._apply_special(info, folder, name)
        return True

    def _make_regular(self, entry: Entry, folder: int, name: str, path: str, found: Found | None) -> bool:
        info = entry.info
        if info.st_nlink > 1:
            known = self._links.setdefault((info.st_dev, info.st_ino), path)
            if known != path:
                os.link(known, name, src_dir_fd=self._target.layer, dst_dir_fd=folder, follow_symlinks=False)
                return True
            if self._sharer is not None:
                found = self._sharer.find(self._tree, [entry], [path])[0]
        self.size += info.st_size
        if found is not None and self._link(found, entry, folder, name):
            return True
        if info.st_nlink > 1:
            # Its other names will be links to this one.
            self._copy_regular(self._tree, entry, folder, name)
            return True
        return False

    def _link(self, found: Found, entry: Entry, folder: int, name: str) -> bool:
        """Have another snapshot's file instead of a copy, if it is as the copy would be."""
        assert self._sharer is not None
        mode = stat.S_IMODE(entry.info.st_mode)
        owner = self._owner or self._tree.owner
        return (
            stat.S_IMODE(found.info.st_mode) == (self._mode(mode, False) if self._mode else mode)
            and found.info.st_mtime_ns == self._times(entry.info)[1]
            and (owner is None or owner == owners.read(found.info, found.path))
            and self._sharer.giver.link(found, folder, name)
        )

    def _copy_regular(self, tree: TreeAtHand, entry: Entry, folder: int, name: str) -> None:
        source, _ = tree.open_file(entry.path)
        try:
            destination = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
            try:
                copy_data(source, destination, entry.info, self._check)
                self._apply(entry.info, source, destination)
            finally:
                os.close(destination)
        finally:
            os.close(source)

    def _apply(self, info: os.stat_result, source: int, destination: int) -> None:
        # The owner first: changing it clears set-user-ID bits and capabilities.
        owners.change(destination, *(self._owner or self._tree.owner or owners.read(info, source)))
        mode = stat.S_IMODE(info.st_mode)
        os.fchmod(destination, self._mode(mode, stat.S_ISDIR(info.st_mode)) if self._mode else mode)
        copy_xattrs(source, destination)
        os.utime(destination, ns=self._times(info))

    def _apply_special(self, info: os.stat_result, folder: int, name: str) -> None:
        owner = self._owner or self._tree.owner or (info.st_uid, info.st_gid)
        owners.change(name, *owner, dir_fd=folder)
        if not stat.S_ISLNK(info.st_mode):
            mode = stat.S_IMODE(info.st_mode)
            os.chmod(name, self._mode(mode, False) if self._mode else mode, dir_fd=folder)
        os.utime(name, ns=self._times(info), dir_fd=folder, follow_symlinks=False)

    def _times(self, info: os.stat_result) -> tuple[int, int]:
        if self._mtime is not None:
            return self._mtime * 1_000_000_000, self._mtime * 1_000_000_000
        return info.st_atime_ns, info.st_mtime_ns


def copy_data(source: int, destination: int, info: os.stat_result, check: Callable[[], None]) -> None:
    """Copy a file's bytes between descriptors at their starts; holes of a large sparse file stay holes.

    No more is copied than the size that `info` has, however the file grows meanwhile. `check` is called between blocks,
    and may raise.
    """
    if info.st_size <= _SMALL:
        left = info.st_size
        while left and (block := os.read(source, left)):
            write_all(destination, block)
            left -= len(block)
        return
    if info.st_blocks * 512 < info.st_size:
        _copy_sparse(source, destination, info.st_size, check)
        return
    copied = 0
    while copied < info.st_size:
        count = _copy_range(source, destination, copied, min(info.st_size - copied, _CHUNK))
        if not count:
            return
        copied += count
        check()


def _copy_sparse(source: int, destination: int, size: int, check: Callable[[], None]) -> None:
    os.ftruncate(destination, size)
    for start, end in data_ranges(source, size):
        offset = start
        while offset < end:
            count = _copy_range(source, destination, offset, min(end - offset, _CHUNK))
            if not count:
                return
            offset += count
            check()


def _copy_range(source: int, destination: int, offset: int, length: int) -> int:
    try:
        return os.copy_file_range(source, destination, length, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    # Between two filesystems some kernels copy nothing themselves.
    block = os.pread(source, min(length, _SMALL * 4), offset)
    os.lseek(destination, offset, os.SEEK_SET)
    write_all(destination, block)
    return len(block)


def write_all(destination: int, block: bytes) -> None:
    """Write all of a block, however little the kernel takes at a time."""
    view = memoryview(block)
    while view:
        view = view[os.write(destination, view) :]
