"""A tree of files that steps read from: a build context as it lies on disk, or the view of a snapshot.

Paths are relative to the tree's root, `/`-separated, without a leading slash, `""` for the root itself; names that are
not UTF-8 are carried with surrogate escapes. Nothing here ever leaves the root: symbolic links are resolved as if the
root were the root of the file system, and the kernel is asked to refuse any that appear meanwhile (openat2).
"""

from __future__ import annotations

import errno
import itertools
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from stagewright.dockerfile.ignore import Folder, Matcher
from stagewright.dockerfile.suggest import similar_name
from stagewright.errors import NotFoundError, StagewrightError
from stagewright.snapshots import syscalls

_MAX_LINKS = 255
_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
# What lies deeper, or is longer (in characters), is left to the kernel, which knows when a path is too long.
_MAX_WAY = 32
_MAX_NEAR = 500
_NO_NAMES = ("", ".", "..")
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
# Files of a folder that are looked at before any of them is passed on.
_SCANNED = 1024
# A walk hands on so many files at once, at most: a folder may have hundreds of thousands.
_RUN = 256
# Among so many names one is looked for that a user may have meant.
_MOST_NAMES = 1000


class Entry:
    """One file of a tree: its path and what lstat says of it. Not a data class: there is one for each file.

    A folder may be `on_the_way` to what a copy takes, and not taken itself.
    """

    __slots__ = ("info", "is_dir", "on_the_way", "path")

    def __init__(self, path: str, info: os.stat_result, *, on_the_way: bool = False) -> None:
        self.path = path
        self.info = info
        self.on_the_way = on_the_way
        self.is_dir = info.st_mode & 0o170000 == 0o040000


def _next_run(
    entries: Iterator[Entry], ignore: Folder | None
) -> tuple[list[Entry], Entry | None, Folder | None]:
    """What comes next of a folder and is not hidden, up to the next folder that may be entered; empty at the end.

    With that one and the state of the ignore file in it; it is itself not in the list where it is hidden.
    """
    run = []
    if ignore is None:
        for entry in itertools.islice(entries, _RUN):
            run.append(entry)
            if entry.is_dir:
                return run, entry, None
        return run, None, None
    for entry in entries:
        name = entry.path.rpartition("/")[2]
        is_hidden = ignore.excludes(name)
        if not is_hidden:
            run.append(entry)
        if entry.is_dir:
            inner = ignore.enter(name)
            if not is_hidden or not inner.hopeless:
                return run, entry, inner
        if len(run) == _RUN:
            break
    return run, None, None


def resolve_links(path: str, readlink: Callable[[str], str | None], *, follow_last: bool) -> str:
    """Resolve the links of `path` inside a root; `readlink` answers what a path says, None where it is no link."""
    parts = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while parts:
        part = parts.pop()
        if part == "..":
            done = done[:-1]
            continue
        done.append(part)
        if not parts and not follow_last:
            break
        target = readlink("/".join(done))
        if target is None:
            continue
        links += 1
        if links > _MAX_LINKS:
            raise StagewrightError(f"too many links on the way to /{path}")
        done = [] if target.startswith("/") else done[:-1]
        parts.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
    return "/".join(done)


class Tree:
    """Reads the files below the directory descriptor `root` (which stays the caller's).

    `exclusion` hides files (.dockerignore). `owner` replaces every file's owner (a build context belongs to 0:0).
    `label` names the tree in messages.
    """

    def __init__(
        self, root: int, *, exclusion: Matcher | None = None, owner: tuple[int, int] | None = None, label: str = ""
    ) -> None:
        self._root = root
        self._exclusion = exclusion
        self.owner = owner
        self.label = label

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """The path without links: every link on the way resolved inside the root; what does not exist is kept.

        Raises NotFoundError where a hidden link is on the way.
        """
        return resolve_links(path, self._link, follow_last=follow_last)

    def _link(self, path: str) -> str | None:
        try:
            target = self._read_link(path)
        except FileNotFoundError:
            return None
        if self._hides(path):
            raise _hidden(path)
        return target

    def entry(self, path: str) -> Entry:
        """The file at a resolved path. Raises NotFoundError; a hidden file does not exist."""
        try:
            handle = self._open(path, os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFoundError(f'"/{path}": not found') from None
        try:
            entry = Entry(path, os.fstat(handle))
        finally:
            os.close(handle)
        if self._is_hidden(entry):
            raise _hidden(path)
        return entry

    def named(self, path: str) -> Entry:
        """The file at a path that a user wrote, links followed. Raises NotFoundError with what was perhaps meant."""
        resolved = self.resolve(path)
        try:
            return self.entry(resolved)
        except NotFoundError as error:
            error.hint = error.hint or self._near(resolved)
            raise

    def _near(self, path: str) -> str | None:
        """A question after a path that differs from this one in one name."""
        folder, _, name = path.rpartition("/")
        rest = ""
        while folder and not self._exists(folder):
            rest = posixpath.join(name, rest)
            folder, _, name = folder.rpartition("/")
        best = similar_name(name, (posixpath.basename(entry.path) for entry in self._first_children(folder)))
        if best is None:
            return None
        found, whole = posixpath.join(folder, best), posixpath.join(folder, best, rest).rstrip("/")
        return f"did you mean {whole if self._exists(whole) else found}?"

    def _exists(self, path: str) -> bool:
        try:
            self.entry(path)
        except NotFoundError:
            return False
        return True

    def _first_children(self, folder: str) -> Iterator[Entry]:
        try:
            yield from itertools.islice(self.children(folder), _MOST_NAMES)
        except StagewrightError:
            return  # It is no folder.

    def walk(self, top: str, enters: Callable[[Entry], bool] | None = None) -> Iterator[Entry]:
        """What is below the folder `top`, not itself: folders before their contents, names in order.

        A hidden folder appears only when something in it does not stay hidden. `enters` says of a folder, once it has
        appeared, whether what is in it is wanted.
        """
        return itertools.chain.from_iterable(self.runs(top, enters))

    def runs(self, top: str, enters: Callable[[Entry], bool] | None = None) -> Iterator[list[Entry]]:
        """The same as `walk`, in pieces: some entries of one folder, of which only the last one may be a folder."""
        # Beside each open folder stands its own entry if it is hidden; `waiting` are those in which nothing turned up.
        stack: list[tuple[Iterator[Entry], Entry | None, Folder | None]] = [
            (self._scan(top), None, self._ignore_state(top))
        ]
        waiting: list[Entry] = []
        while stack:
            entries, hidden, ignore = stack[-1]
            run, folder, inner = _next_run(entries, ignore)
            is_hidden = folder is not None and inner is not None and inner.excluded
            if run:
                for entry in waiting:
                    yield [entry]
                waiting.clear()
                yield run
            if folder is None:
                if run:
                    continue
                stack.pop()
                if waiting and waiting[-1] is hidden:
                    waiting.pop()
            elif is_hidden:
                waiting.append(folder)
                stack.append((self._scan(folder.path), folder, inner))
            elif enters is None or enters(folder):
                stack.append((self._scan(folder.path), None, inner))

    def children(self, folder: str) -> Iterator[Entry]:
        """What is in the folder and not hidden (a hidden folder counts when something below it is not)."""
        for entry in self._scan(folder):
            if not self._is_hidden(entry):
                yield entry

    def _ignore_state(self, folder: str) -> Folder | None:
        if self._exclusion is None:
            return None
        state = self._exclusion.root()
        for name in folder.split("/") if folder else ():
            state = state.enter(name)
        return state

    def _hides(self, path: str) -> bool:
        """Whether a pattern excludes the path itself."""
        folder, _, name = path.rpartition("/")
        ignore = self._ignore_state(folder)
        return ignore is not None and ignore.excludes(name)

    def _is_hidden(self, entry: Entry) -> bool:
        if not entry.path or not self._hides(entry.path):
            return False
        state = self._ignore_state(entry.path)
        if not entry.is_dir or state is None or state.hopeless:
            return True
        return next(self.walk(entry.path), None) is None

    def _scan(self, folder: str) -> Iterator[Entry]:
        """What is in a folder, in the order of the names. It may be a lot, so it is looked at piece by piece."""
        pieces: list[str] | None = None
        while pieces is None or pieces:
            try:
                handle = self._open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise self._refused(folder, error) from error
                return  # It went away after it was seen, or never was.
            try:
                if pieces is None:
                    pieces = _names(handle)
                found = _entries(handle, f"{folder}/" if folder else "", pieces.pop().split("\0")) if pieces else ()
            finally:
                os.close(handle)
            yield from found

    @contextmanager
    def at_hand(self) -> Iterator[TreeAtHand]:
        """The same tree for one thread that opens many files, those of one folder behind each other."""
        tree = TreeAtHand(self._root, exclusion=self._exclusion, owner=self.owner, label=self.label)
        try:
            yield tree
        finally:
            tree.let_go()

    def open(self, path: str) -> int:
        """A descriptor to read the file at a resolved path; never a device, never through a link."""
        return self.open_file(path)[0]

    def open_file(self, path: str) -> tuple[int, os.stat_result]:
        """As `open`, and what fstat says of the descriptor."""
        handle = self._open_known(path, _READ_FILE)
        info = os.fstat(handle)
        if info.st_mode & 0o170000 != 0o100000:
            os.close(handle)
            raise StagewrightError(f"cannot read {self.label}/{path}: it is no longer an ordinary file")
        return handle, info

    def open_folder(self, path: str) -> int:
        """A descriptor of the folder at a resolved path."""
        return self._open_known(path, os.O_RDONLY | os.O_DIRECTORY)

    def readlink(self, path: str) -> str:
        """What the link at a resolved path says."""
        try:
            return self._read_link(path)
        except FileNotFoundError as error:
            raise self._refused(path, error) from error

    def _read_link(self, path: str) -> str:
        """Raises FileNotFoundError where there is no link."""
        handle = self._open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.readlink("", dir_fd=handle)
        finally:
            os.close(handle)

    def _open_known(self, path: str, flags: int) -> int:
        try:
            return self._open(path, flags)
        except FileNotFoundError as error:
            raise self._refused(path, error) from error

    def _refused(self, path: str, error: OSError) -> StagewrightError:
        return StagewrightError(f"cannot read {self.label}/{path}: {os.strerror(error.errno or 0)}")

    def _base(self, path: str) -> int:
        """The directory descriptor that a path is relative to."""
        return self._root

    def _open(self, path: str, flags: int) -> int:
        try:
            return syscalls.openat2(self._base(path), os.fsencode(path or "."), flags, resolve=_BENEATH)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
                # Nothing has such a path, but what is below a folder may be too deep to have one.
                number = errno.ENAMETOOLONG if error.errno == errno.ENAMETOOLONG else errno.ENOENT
                raise FileNotFoundError(number, os.strerror(number), path) from None
            raise self._refused(path, error) from error


class TreeAtHand(Tree):
    """Keeps the folders open that lead to what it opened last: from there the next one is one short step away.

    For one thread, which calls `let_go` at the end. Each step is one that openat2 with `_BENEATH` would take; by calls
    that Python has, since loading ctypes takes longer than scanning many a context.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The open folders: path and descriptor, each in the one before, the first in this descriptor.
        self._way: list[tuple[str, int]] = []
        self._way_base = -1

    @contextmanager
    def at_hand(self) -> Iterator[TreeAtHand]:
        """See `Tree.at_hand`."""
        yield self

    @contextmanager
    def twin(self) -> Iterator[TreeAtHand]:
        """The same for another thread."""
        tree = self._copied()
        try:
            yield tree
        finally:
            tree.let_go()

    def _copied(self) -> TreeAtHand:
        return TreeAtHand(self._root, exclusion=self._exclusion, owner=self.owner, label=self.label)

    def let_go(self) -> None:
        """Close what is kept open."""
        while self._way:
            os.close(self._way.pop()[1])

    def _open(self, path: str, flags: int) -> int:
        folder, _, name = path.rpartition("/")
        base, way = self._base(path), self._way
        try:
            if way and way[-1][0] == folder and base == self._way_base and name not in _NO_NAMES:
                return os.open(name, flags | os.O_NOFOLLOW, dir_fd=way[-1][1])
            if len(path) <= _MAX_NEAR and path.count("/") < _MAX_WAY and name not in (".", ".."):
                return os.open(name or ".", flags | os.O_NOFOLLOW, dir_fd=self._enter(base, folder))
        except OSError:
            # What is wrong is for the kernel to say below.
            pass
        return super()._open(path, flags)

    def _enter(self, base: int, folder: str) -> int:
        """A descriptor of the folder at a path below `base`, which stays this object's own. Raises OSError."""
        if base != self._way_base:
            self.let_go()
            self._way_base = base
        while self._way and not f"{folder}/".startswith(f"{self._way[-1][0]}/"):
            os.close(self._way.pop()[1])
        known, handle = self._way[-1] if self._way else ("", base)
        for part in folder[len(known) :].strip("/").split("/") if folder != known else ():
            if part in ("", ".", ".."):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), folder)
            handle = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            known = f"{known}/{part}" if known else part
            self._way.append((known, handle))
        return handle


def _names(folder: int) -> list[str]:
    """The names in an open folder, so many in one text, with NUL between them; the first ones come last."""
    names = sorted(os.listdir(folder))
    return ["\0".join(names[at : at + _SCANNED]) for at in reversed(range(0, len(names), _SCANNED))]


def _entries(folder: int, prefix: str, names: Iterable[str]) -> list[Entry]:
    """The files of these names in an open folder, as far as they are still there."""
    found = []
    for name in names:
        try:
            found.append(Entry(prefix + name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
        except FileNotFoundError:
            continue
    return found


def _hidden(path: str) -> NotFoundError:
    return NotFoundError(f'"/{path}": not found', hint=f"a pattern in the ignore file excludes {path}")
