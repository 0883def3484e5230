"""The snapshots of a state directory: folders of layer changes, their parent chains, and drafts of new ones.

`<root>/<dir>` holds what one layer changes, in overlay format (a row of `lazy_layers` says that it is yet to come);
what is in `<root>/drafts` belongs to running processes (see `drafts`); `<root>/trash` is on its way out. A folder is
renamed into place, or out of it, in the same transaction that writes its row, so a process that dies leaves at most a
draft or a folder that no row names.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stagewright import privilege
from stagewright.content.db import Database
from stagewright.content.folders import make_private
from stagewright.errors import LostSnapshotError, NotFoundError, StoreError, system_reason
from stagewright.records import dataclass
from stagewright.snapshots import owners
from stagewright.snapshots.drafts import Drafts
from stagewright.snapshots.rows import CHAIN, COLUMNS, SnapshotRow, SnapshotRows
from stagewright.snapshots.tree import copy_metadata, tree_size

if TYPE_CHECKING:
    from stagewright.snapshots.links import Links, SharedFiles
    from stagewright.snapshots.selection import Choice
    from stagewright.snapshots.snapshotter import Lent, Snapshotter


@dataclass(frozen=True, slots=True)
class Draft:
    """A layer that is being written: its folder, the upper directory `fs` and overlayfs's `work` directory in it."""

    parent: int | None
    path: str
    fs: str
    work: str


class SnapshotStore(SnapshotRows):
    """All snapshots below `root`. Safe for use by several threads and several processes at once.

    A snapshot is immutable and is only ever a lower directory. `None` stands for the empty one (scratch).
    `snapshotter` is how layers are merged: a name of `selection.NAMES`. `on_worse` is called where it has to be another
    way than the best one, `fill` with a snapshot of which some folders are yet to come, to have them there.
    Methods raise NotFoundError for an id that does not exist, LostSnapshotError for files that are not here any more,
    and StoreError where the disk refuses.
    """

    def __init__(self, root: Path, db: Database, snapshotter: str = "auto") -> None:
        super().__init__(db)
        self._root = os.path.abspath(root)
        self._drafts = Drafts(self._root)
        self._trash = self._drafts.trash
        # Overlayfs wants a lower directory even where there is none, and two of them for a view.
        self._empty = (os.path.join(self._root, "empty", "0"), os.path.join(self._root, "empty", "1"))
        self._lowers: dict[int, tuple[str, ...]] = {}
        self._mountpoints: dict[tuple[str, ...], str] = {}
        self._found: set[str] = set()
        self._open: set[str] = set()
        self._wanted = snapshotter
        self._choice: Choice | None = None
        self._choosing = threading.Lock()
        self._mounted: set[str] = set()
        self._settled: dict[str, int] = {}
        self._owners_checked = False
        self.on_worse: Callable[[Choice], None] = lambda choice: None
        self.fill: Callable[[int], None] = _nobody_fills
        with self._disk():
            make_private(self._root)
            for path in self._empty:
                os.makedirs(path, mode=0o755, exist_ok=True)
            self._drafts.create()

    def lowers(self, snapshot: int | None) -> tuple[str, ...]:
        """The absolute folders of the whole chain, topmost first; empty for scratch."""
        if snapshot is None:
            return ()
        known = self._lowers.get(snapshot)
        if known is None:
            rows = self._db.query(
                f"{CHAIN} SELECT dir, dir IN (SELECT dir FROM lazy_layers) FROM chain ORDER BY depth",  # noqa: S608
                (snapshot,),
            )
            if not rows:
                raise _forgotten(snapshot)
            if any(is_lazy for _, is_lazy in rows):
                self.fill(snapshot)
            known = tuple(os.path.join(self._root, name) for name, _ in rows)
            self._check_folders(snapshot, known)
            self._lowers[snapshot] = known
        return known

    def _check_folders(self, snapshot: int, folders: Iterable[str]) -> None:
        """Of a merged tree without one of its layers nobody would notice that files are missing."""
        for folder in folders:
            if folder in self._found:
                continue
            if not os.path.isdir(folder):
                raise LostSnapshotError(
                    f"the folder {folder} of snapshot {snapshot} is missing",
                    hint="stagewright check --repair lets the next build make again what it held",
                )
            self._found.add(folder)

    def prepare(self, parent: int | None) -> Draft:
        """A new draft on `parent`, this process's own until it is committed or discarded."""
        privilege.require()
        self._check_owners()
        lowers = self.lowers(parent)
        with self._disk():
            path = self._drafts.new()
            self._open.add(path)
            draft = Draft(parent, path, os.path.join(path, "fs"), os.path.join(path, "work"))
            os.mkdir(draft.fs, 0o755)
            os.mkdir(draft.work, 0o700)
            if lowers:
                copy_metadata(lowers[0], draft.fs)
            else:
                os.chmod(draft.fs, 0o755)  # noqa: S103
        return draft

    def _check_owners(self) -> None:
        if not self._owners_checked:
            with self._disk():
                owners.check_store(self._root, not self._db.query("SELECT 1 FROM snapshots LIMIT 1"))
            self._owners_checked = True

    def links(self, draft: Draft) -> Links:
        """What of other snapshots the draft may have links to; `commit` takes the `origins` of those it has."""
        from stagewright.snapshots.links import Links

        return Links(self.shared(), self.lowers(draft.parent))

    def shared(self) -> SharedFiles:
        """Which files snapshots have in common."""
        from stagewright.snapshots.links import SharedFiles

        return SharedFiles(self._db)

    def commit(self, draft: Draft, origins: Iterable[str] = ()) -> int:
        """Make the draft a snapshot and answer its id. Nothing may have it mounted any more.

        `origins` are those of `links`.
        """
        if draft.path not in self._open:
            raise StoreError(f"draft {draft.path} was already committed or discarded")
        lowers = self.lowers(draft.parent)
        with self._disk():
            if draft.path in self._mounted:
                self.settle(draft)
            else:
                from stagewright.snapshots.changes import strip_needless_opaque

                strip_needless_opaque(draft.fs, lowers)
            with self._db.transaction():
                if draft.parent is not None and not self.exists(draft.parent):
                    # Its files would be missing in what is built on this one, and nobody would notice.
                    raise _forgotten(draft.parent)
                now = time.time()
                snapshot = self._db.execute(
                    "INSERT INTO snapshots (parent, dir, created, last_used) VALUES (?, '', ?, ?)",
                    (draft.parent, now, now),
                )
                name = str(snapshot)
                self._db.execute("UPDATE snapshots SET dir = ? WHERE id = ?", (name, snapshot))
                self.shared().record(name, origins)
                self._db.unsynced.note("snapshot", name)
                self._place(draft.fs, os.path.join(self._root, name))
            if draft.path in self._mounted:
                self._snapshotter().committed(self.lowers(snapshot), draft.fs)
        self._end(draft)
        return snapshot

    def commit_layer(self, draft: Draft, chain_id: str) -> int:
        """Make the draft the snapshot of an image's layers, by their OCI chain ID; answers the first one of that ID.

        Where that one's folder is yet to come, the draft becomes it.
        """
        rows = self._db.query(f"SELECT {COLUMNS} FROM snapshots WHERE chain_id = ?", (chain_id,))  # noqa: S608
        if not rows:
            return self.set_chain(self.commit(draft), chain_id)
        first = SnapshotRow(*rows[0])
        self.fill_in(first, draft)
        return first.id

    def fill_in(self, row: SnapshotRow, draft: Draft) -> None:
        """Give a snapshot the draft for its folder, unless the folder has come meanwhile; the draft is used up."""
        from stagewright.snapshots.changes import strip_needless_opaque

        lowers = self.lowers(draft.parent)
        with self._disk(), self._db.transaction():
            if self.is_lazy(row.dir):
                strip_needless_opaque(draft.fs, lowers)
                self._place(draft.fs, os.path.join(self._root, row.dir))
                self._db.execute("DELETE FROM lazy_layers WHERE dir = ?", (row.dir,))
                self._db.unsynced.note("snapshot", row.dir)
        self._end(draft)

    def settle(self, draft: Draft) -> int:
        """Have all changes of a draft in its folder `fs`; it may not be mounted or lent any more, nor again.

        Answers the bytes of the files that are in that folder then, as `content_size` counts them.
        """
        if draft.path not in self._settled:
            with self._disk():
                self._settled[draft.path] = self._snapshotter().settle(self.lowers(draft.parent), draft.fs)
        return self._settled[draft.path]

    def discard(self, draft: Draft) -> None:
        """Throw the draft away. Does nothing where it was already committed or discarded."""
        if draft.path in self._open:
            self._end(draft)

    def choice(self) -> Choice:
        """How layers are merged here, found out when it is first asked for, and why not in a better way."""
        with self._choosing:
            if self._choice is None:
                from stagewright.snapshots.selection import choose

                drafts = self._drafts
                with self._disk():
                    self._choice = choose(self._wanted, self._empty, drafts.new_folder, drafts.remove_folder)
                if self._choice.refusals:
                    self.on_worse(self._choice)
            return self._choice

    def _snapshotter(self) -> Snapshotter:
        return self.choice().snapshotter

    @contextmanager
    def view(self, snapshot: int | None) -> Iterator[int]:
        """The read-only merged root of a snapshot, as a directory descriptor that is valid within the block."""
        privilege.require()
        with self._snapshotter().view(self.lowers(snapshot)) as root:
            yield root

    @contextmanager
    def mount(self, draft: Draft) -> Iterator[int]:
        """The writable merged root of a draft, as a directory descriptor that is valid within the block."""
        self._mounted.add(draft.path)
        with self._snapshotter().mount(self.lowers(draft.parent), draft.fs, draft.work) as root:
            yield root

    @contextmanager
    def lend_view(self, snapshot: int | None) -> Iterator[Lent]:
        """As `view`, for another process, which must not write to what it gets."""
        with self._snapshotter().lend_view(self.lowers(snapshot)) as lent:
            yield lent

    @contextmanager
    def lend(self, draft: Draft) -> Iterator[Lent]:
        """As `mount`, for another process, which must have let go of the tree by the end of the block."""
        self._mounted.add(draft.path)
        with self._snapshotter().lend(self.lowers(draft.parent), draft.fs, draft.work) as lent:
            yield lent

    def mountpoints(self, files: tuple[str, ...]) -> str:
        """A folder that may be the lowest one of a step's root and holds these files, empty (see `mountpoints`)."""
        if files not in self._mountpoints:
            from stagewright.snapshots import mountpoints

            with self._disk():
                folder = mountpoints.make(os.path.join(self._root, "mountpoints"), self._drafts, files)
            self._mountpoints[files] = folder
        return self._mountpoints[files]

    def close(self) -> None:
        """Give back what merged trees were kept for later, and come back when all that was thrown away is gone."""
        if self._choice is not None:
            self._choice.snapshotter.close()
        with self._disk():
            self._drafts.close()

    def graft(self, snapshot: int, onto: int | None) -> int:
        """The snapshot that holds the changes of `snapshot`'s own layer on another parent; the folder is shared.

        The same pair gives the same id. Where the two hold links to the same files, the folder is copied.
        """
        shared = self.shared()
        # By the names alone: folders that are yet to come need not come for this.
        names = [name for (name,) in self._db.query(f"{CHAIN} SELECT dir FROM chain", (onto,))]  # noqa: S608
        if shared.origins([self.dir(snapshot)]) & shared.origins(names):
            return self._copied(snapshot, onto)
        with self._db.transaction():
            row = self.row(snapshot)
            found = self._db.query("SELECT id FROM snapshots WHERE dir = ? AND parent IS ?", (row.dir, onto))
            if found:
                return int(found[0][0])
            if onto is not None:
                self.row(onto)
            now = time.time()
            return self._db.execute(
                "INSERT INTO snapshots (parent, dir, size, created, last_used) VALUES (?, ?, ?, ?, ?)",
                (onto, row.dir, row.size, now, now),
            )

    def _copied(self, snapshot: int, onto: int | None) -> int:
        from stagewright.snapshots.links import copy_layer

        draft = self.prepare(onto)
        try:
            with self._disk():
                copy_layer(self.folder(snapshot), draft.fs)
            return self.commit(draft)
        except BaseException:
            self.discard(draft)
            raise

    def folder(self, snapshot: int) -> str:
        """The absolute path of the folder that holds a snapshot's changes."""
        return self.lowers(snapshot)[0]

    def folder_named(self, name: str) -> str:
        """The absolute path of the folder that `dir` names, whether it is still there or not."""
        return os.path.join(self._root, name)

    def size(self, snapshot: int) -> int:
        """The bytes on disk of a snapshot's own folder: measured when first asked for, then kept."""
        row = self.row(snapshot)
        if row.size is not None:
            return row.size
        if self.is_lazy(row.dir):
            return 0
        privilege.require()
        with self._disk():
            size = tree_size(os.path.join(self._root, row.dir))
        self._db.execute("UPDATE snapshots SET size = ? WHERE dir = ?", (size, row.dir))
        return size

    def remove(self, snapshot: int) -> int:
        """Remove a snapshot and answer the bytes that this frees: none where another one shares its folder.

        Raises StoreError where another snapshot is built on it.
        """
        size = self.size(snapshot)
        name = self._remove_row(snapshot)
        if name is None:
            return 0
        # Only now: a row without its folder would be worse than a folder without a row, which clean() finds.
        self._throw_away(os.path.join(self._root, name))
        return size

    def _remove_row(self, snapshot: int) -> str | None:
        """Remove a snapshot but for its folder, whose name is answered where no other one has it."""
        with self._db.transaction():
            name = self.row(snapshot).dir
            if self._db.query("SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", (snapshot,)):
                raise StoreError(f"snapshot {snapshot} is in use by others that are built on it")
            self._db.execute("DELETE FROM snapshots WHERE id = ?", (snapshot,))
            shared = bool(self._db.query("SELECT 1 FROM snapshots WHERE dir = ? LIMIT 1", (name,)))
            if not shared:
                self._db.execute("DELETE FROM layer_blobs WHERE dir = ?", (name,))
                self._db.execute("DELETE FROM lazy_layers WHERE dir = ?", (name,))
                self._db.execute("DELETE FROM secret_searches WHERE dir = ?", (name,))
                self.shared().forget(name)
        self._lowers.pop(snapshot, None)
        return None if shared else name

    def forget(self, snapshots: Iterable[int]) -> None:
        """Remove the rows of snapshots, all of which is built on them among these, without their folders."""
        with self._db.transaction():
            for snapshot in sorted(snapshots, reverse=True):
                self._remove_row(snapshot)

    def clean(self) -> None:
        """Remove what dead processes left: drafts that nobody holds, folders without a row, trash."""
        self.clean_drafts()
        with self._disk():
            with self._db.transaction():
                # Within the transaction no other process is between placing a folder and writing its row.
                known = {name for (name,) in self._db.query("SELECT dir FROM snapshots")}
                for name in os.listdir(self._root):
                    if name.isdecimal() and name not in known:
                        self._trash.add(os.path.join(self._root, name))
            self._trash.empty()

    def clean_drafts(self) -> None:
        """Remove the drafts of dead processes, in which their steps' secrets may lie. Safe while builds run."""
        with self._disk():
            self._drafts.clean()

    def _place(self, source: str, target: str) -> None:
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # A process died after its rename and before its row was written; the id was given out again.
            self._trash.add(target)
            os.rename(source, target)

    def _end(self, draft: Draft) -> None:
        if draft.path in self._mounted:
            self._mounted.discard(draft.path)
            self._settled.pop(draft.path, None)
            self._snapshotter().discarded(draft.fs)
        # A step that comes next does not wait for it.
        with self._disk():
            self._trash.remove_soon(draft.path)
        self._open.discard(draft.path)

    def _throw_away(self, path: str) -> None:
        with self._disk():
            self._trash.remove(path)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"cannot use the snapshot directory {self._root}: {system_reason(error)}") from error


def _nobody_fills(snapshot: int) -> None:
    raise NotFoundError(f"files of snapshot {snapshot} were never fetched from the cache that they are in")


def _forgotten(snapshot: int) -> LostSnapshotError:
    return LostSnapshotError(f"snapshot {snapshot} has been forgotten meanwhile", hint="build again")
