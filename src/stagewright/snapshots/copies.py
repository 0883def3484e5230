"""Layers merged without any mount: a tree is a real folder, and what a step changed in it is found afterwards.

A tree to be written holds copies. One that is only read holds hard links to the files of the layers where the file
system allows it. A working tree is handed on: what a step leaves is the tree of the layer that becomes of it, so the
next step on that layer starts there, and a tree for a layer further up is made from it by that layer's changes alone.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stagewright.errors import StoreError, system_reason
from stagewright.records import dataclass, field
from stagewright.snapshots import overlay
from stagewright.snapshots.chain import Chain
from stagewright.snapshots.changes import same_entry
from stagewright.snapshots.snapshotter import Lent
from stagewright.snapshots.tree import content_size, copy_entry, copy_metadata, remove_tree, times_kept, walk

# A change within one tick of the kernel's coarse clock, at most that long, may leave no trace in a file's times.
_TICK_NS = 10_000_000

_Mark = tuple[int, int]
"""Inode, time of the last change of anything (ns)."""

_Entries = dict[bytes, os.stat_result]
"""The lstat of all that is in a tree, by names relative to it; a folder comes before what is in it."""


@dataclass(slots=True, eq=False)
class _Tree:
    """A folder that holds what the layers `lowers` hold; `marks` is how its entries were when it came to be so.

    `certain_before` (ns): marks of changes before that time tell that nothing has changed since. `parted` tells that
    names of one file in a layer are files of their own here.
    """

    folder: str
    linked: bool
    lowers: tuple[str, ...] = ()
    readers: int = 0
    marks: dict[bytes, _Mark] = field(default_factory=dict)
    certain_before: int = 0
    parted: bool = False

    @property
    def path(self) -> str:
        return os.path.join(self.folder, "tree")


class CopiesSnapshotter:
    """Trees in folders of their own: `new_folder` makes one, `throw_away` removes it and all in it."""

    name = "copies"

    def __init__(self, new_folder: Callable[[], str], throw_away: Callable[[str], None]) -> None:
        self._new_folder = new_folder
        self._throw_away = throw_away
        self._lock = threading.Lock()
        self._idle: list[_Tree] = []
        self._read: list[_Tree] = []
        self._drafts: dict[str, _Tree] = {}

    @contextmanager
    def view(self, lowers: tuple[str, ...]) -> Iterator[int]:
        """See `Snapshotter.view`."""
        with self.lend_view(lowers) as path:
            assert isinstance(path, str)
            root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield root
            finally:
                os.close(root)

    @contextmanager
    def mount(self, lowers: tuple[str, ...], upper: str, work: str) -> Iterator[int]:
        """See `Snapshotter.mount`."""
        with self.lend(lowers, upper, work) as path:
            assert isinstance(path, str)
            root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield root
            finally:
                os.close(root)

    @contextmanager
    def lend_view(self, lowers: tuple[str, ...]) -> Iterator[Lent]:
        """See `Snapshotter.lend_view`."""
        tree = self._reading(lowers)
        try:
            yield tree.path
        finally:
            with self._lock:
                tree.readers -= 1
                if not tree.readers:
                    self._read.remove(tree)
                    self._idle.append(tree)

    @contextmanager
    def lend(self, lowers: tuple[str, ...], upper: str, work: str) -> Iterator[Lent]:
        """See `Snapshotter.lend`."""
        tree = self._drafts.get(upper)
        if tree is None:
            tree = self._advanced(self._taken(lowers, linked=False), lowers)
            if not tree.marks:
                _note_marks(tree, _scanned(tree.path))
            self._drafts[upper] = tree
        yield tree.path

    def settle(self, lowers: tuple[str, ...], upper: str) -> int:
        """See `Snapshotter.settle`: compare the tree with the layers below it."""
        tree = self._drafts.get(upper)
        if tree is not None:
            found = _scanned(tree.path)
            _collect(tree, found, lowers, upper)
            _part_links(tree, found)
            _note_marks(tree, found)
        return content_size(upper)

    def committed(self, lowers: tuple[str, ...], upper: str) -> None:
        """See `Snapshotter.committed`."""
        tree = self._drafts.pop(upper, None)
        if tree is not None:
            tree.lowers = lowers
            with self._lock:
                self._idle.append(tree)

    def discarded(self, upper: str) -> None:
        """See `Snapshotter.discarded`."""
        tree = self._drafts.pop(upper, None)
        if tree is not None:
            self._throw_away(tree.folder)

    def close(self) -> None:
        """See `Snapshotter.close`."""
        with self._lock:
            trees, self._idle = self._idle, []
        for tree in trees:
            self._throw_away(tree.folder)

    def _reading(self, lowers: tuple[str, ...]) -> _Tree:
        """A tree with one more reader."""
        with self._lock:
            tree = next((tree for tree in self._read if tree.lowers == lowers), None)
            if tree is None:
                tree = next((tree for tree in self._idle if tree.lowers == lowers and not tree.parted), None)
                if tree is not None:
                    self._idle.remove(tree)
                    self._read.append(tree)
            if tree is not None:
                tree.readers += 1
                return tree
        tree = self._advanced(self._taken(lowers, linked=True), lowers)
        tree.readers = 1
        with self._lock:
            self._read.append(tree)
        return tree

    def _taken(self, lowers: tuple[str, ...], *, linked: bool) -> _Tree:
        """The idle tree that needs the fewest layers more, or a new one; it is nobody else's now.

        Who only reads may have a tree of copies, too.
        """
        with self._lock:
            fitting = [
                tree
                for tree in self._idle
                if not (tree.parted if linked else tree.linked)
                and tree.lowers == lowers[len(lowers) - len(tree.lowers) :]
            ]
            if fitting:
                best = max(fitting, key=lambda tree: (len(tree.lowers), tree.linked))
                self._idle.remove(best)
                return best
        tree = _Tree(self._new_folder(), linked)
        os.mkdir(tree.path, 0o755)
        return tree

    def _advanced(self, tree: _Tree, lowers: tuple[str, ...]) -> _Tree:
        """Apply the layers that a tree lacks."""
        missing = lowers[: len(lowers) - len(tree.lowers)]
        try:
            for layer in reversed(missing):
                tree.parted |= _apply(layer, tree.path, linked=tree.linked)
        except OSError as error:
            self._throw_away(tree.folder)
            raise StoreError(f"cannot copy the files of {len(missing)} layers: {system_reason(error)}") from error
        except BaseException:
            self._throw_away(tree.folder)
            raise
        if missing:
            tree.marks.clear()
        tree.lowers = lowers
        return tree


def _apply(layer: str, tree: str, *, linked: bool) -> bool:
    """Change a tree as a layer says; answers whether names of one file became files of their own.

    As in an overlay, a step that writes to a file by one of its names leaves the others alone, so copies are apart.
    """
    top = os.fsencode(tree)
    names: set[int] = set()
    parted = False
    folders: list[tuple[bytes, bytes]] = [(os.fsencode(layer), top)]
    for name, source, info in walk(layer):
        target = os.path.join(top, name)
        known = _lstat(target)
        if stat.S_ISDIR(info.st_mode):
            if known is not None and (not stat.S_ISDIR(known.st_mode) or overlay.is_opaque(source)):
                remove_tree(os.fsdecode(target))
                known = None
            if known is None:
                os.mkdir(target, 0o700)
            folders.append((source, target))
            continue
        if known is not None:
            remove_tree(os.fsdecode(target))
        if overlay.is_whiteout(info, source):
            continue
        if linked and _link(source, target):
            continue
        copy_entry(source, target)
        if info.st_nlink > 1:
            parted = parted or info.st_ino in names
            names.add(info.st_ino)
    # Once all is in them, from the innermost on: their modes may forbid more, and filling them changes their times.
    for source, target in reversed(folders):
        copy_metadata(source, target)
    return parted


def _link(source: bytes, target: bytes) -> bool:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        # Too many links, another owner's file, or a file system that has none: a copy is as good.
        return False
    return True


def _scanned(folder: str) -> _Entries:
    """All that is in a tree; a step takes as long as this at least, so it is done once."""
    found: _Entries = {}
    pending = [(os.fsencode(folder), b"")]
    while pending:
        path, prefix = pending.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                name = prefix + entry.name
                found[name] = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, name + b"/"))
    return found


def _part_links(tree: _Tree, found: _Entries) -> None:
    """Make files of their own of the links that a step has made: they are a layer's now."""
    top = os.fsencode(tree.path)
    aside = os.path.join(os.fsencode(tree.folder), b"link")
    for name, info in list(found.items()):
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            path, folder = os.path.join(top, name), os.path.dirname(name)
            with times_kept(os.path.join(top, folder)):
                copy_entry(path, aside)
                os.rename(aside, path)
            for changed in (name, folder):
                if changed:
                    found[changed] = os.stat(os.path.join(top, changed), follow_symlinks=False)
            tree.parted = True


def _note_marks(tree: _Tree, found: _Entries) -> None:
    """Remember how everything in the tree was when it was scanned."""
    tree.marks = {name: _mark(info) for name, info in found.items()}
    # The clock of file times, which runs behind the one that processes see.
    probe = os.open(tree.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.utime(probe)
        tree.certain_before = os.fstat(probe).st_ctime_ns - _TICK_NS
    finally:
        os.close(probe)


def _collect(tree: _Tree, found: _Entries, lowers: tuple[str, ...], upper: str) -> None:
    """Write into the layer's folder `upper` what in the tree is not as the layers say."""
    draft = os.fsencode(upper)
    top = os.fsencode(tree.path)
    unseen = dict(tree.marks)
    mirrored: dict[bytes, None] = {b"": None}
    links: dict[int, bytes] = {}
    with Chain(lambda: lowers) as chain:

        def mirror(folder: bytes) -> None:
            if folder in mirrored:
                return
            mirror(folder.rpartition(b"/")[0])
            mirrored[folder] = None
            target = os.path.join(draft, folder)
            known = _lstat(target)
            if known is not None and not stat.S_ISDIR(known.st_mode):
                os.unlink(target)
                known = None
            if known is None:
                os.mkdir(target, 0o700)

        for name, info in found.items():
            before = unseen.pop(name, None)
            if before == (info.st_ino, info.st_ctime_ns) and before[1] < tree.certain_before:
                continue
            path = os.path.join(top, name)
            if _is_as_before(chain, name, path, info, before):
                continue
            if stat.S_ISDIR(info.st_mode):
                mirror(name)
                continue
            mirror(name.rpartition(b"/")[0])
            target = os.path.join(draft, name)
            if _lstat(target) is not None:
                remove_tree(os.fsdecode(target))
            first = links.setdefault(info.st_ino, target) if info.st_nlink > 1 else target
            if first != target:
                os.link(first, target, follow_symlinks=False)
            else:
                copy_entry(path, target)
        for name in unseen:
            folder, _, base = name.rpartition(b"/")
            if _is_directory(os.path.join(top, folder)) and chain.find(name) is not None:
                mirror(folder)
                at = os.path.join(draft, folder)
                overlay.make_whiteout(draft, at, base, os.stat(os.path.join(top, folder)).st_mtime_ns)
    for folder in reversed(mirrored):
        copy_metadata(os.path.join(top, folder), os.path.join(draft, folder))


def _is_as_before(chain: Chain, name: bytes, path: bytes, info: os.stat_result, before: _Mark | None) -> bool:
    """Whether an entry of the tree says nothing new, whatever was done to it meanwhile."""
    if before is None:
        return False
    if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
        return False
    found = chain.find(name)
    if found is None:
        return False
    root, known = found
    return stat.S_IFMT(known.st_mode) == stat.S_IFMT(info.st_mode) and same_entry(
        path, info, b"/proc/self/fd/%d/%s" % (root, name), known
    )


def _mark(info: os.stat_result) -> _Mark:
    return info.st_ino, info.st_ctime_ns


def _lstat(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_directory(path: bytes) -> bool:
    info = _lstat(path)
    return info is not None and stat.S_ISDIR(info.st_mode)
