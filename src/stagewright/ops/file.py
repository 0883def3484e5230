"""Runs file ops: COPY, ADD, WORKDIR and files written from text."""

from __future__ import annotations

import os
import posixpath
import stat
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from stagewright.errors import StagewrightError
from stagewright.graph.ops import CopyAction, FileOp, MkdirAction, MkfileAction
from stagewright.graph.vertex import Vertex, digest_of
from stagewright.ops.chmod import apply_mode, numeric_mode
from stagewright.ops.copy import Copier, write_all
from stagewright.ops.filtering import taken
from stagewright.ops.result import Result
from stagewright.ops.selection import Listing, Selected, content_digest, select
from stagewright.ops.target import Target
from stagewright.ops.worker import Worker
from stagewright.progress.reporter import Reporter
from stagewright.snapshots import owners
from stagewright.snapshots.store import Draft
from stagewright.snapshots.tree import content_size
from stagewright.sources.digests import FileDigests
from stagewright.sources.tree import Tree

if TYPE_CHECKING:
    from stagewright.ops.sharing import Sharer, Sharing

_FOLDER_MODE = 0o755


class FileRunner:
    """Runs FileOp vertices."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # What the keys of contexts were made of, to see whether a context changed before it was copied.
        self._digests: dict[tuple[str, int], str] = {}
        # The same by what is copied: hundreds of stages may take the same files to one place or another.
        self._contents: dict[tuple[object, ...], str] = {}
        self._reading: defaultdict[tuple[object, ...], threading.Lock] = defaultdict(threading.Lock)

    def content_inputs(self, vertex: Vertex) -> tuple[int, ...]:
        op = _op(vertex)
        return tuple(sorted({action.input for action in op.actions if isinstance(action, CopyAction)} - {op.base}))

    def content_digest(self, vertex: Vertex, index: int, source: Result) -> str:
        actions = _copies_from(vertex, index)
        if source.context is not None:
            taken = (source.context, *(action.selection() for action in actions))
            with self._reading[taken]:
                digest = self._contents.get(taken) or self._context_digest(
                    source.context, actions, self._worker.listings
                )
                self._contents[taken] = digest
            self._digests[vertex.digest, index] = digest
            return digest
        if source.snapshot is None:
            return "empty"
        selector = digest_of([action.identity() for action in actions])
        known = self._worker.keys.content_digest(source.snapshot, selector)
        if known is None:
            with self._tree(source) as tree:
                check, listings = self._worker.check_canceled, self._worker.listings
                known = content_digest(tree, actions, FileDigests(), check, listings)
            self._worker.keys.save_content_digest(source.snapshot, selector, known)
        return known

    def _context_digest(self, name: str, actions: list[CopyAction], listings: dict[str, Listing] | None = None) -> str:
        context = self._worker.context(name)
        return content_digest(context.tree, actions, context.digests, self._worker.check_canceled, listings)

    def run(self, vertex: Vertex, inputs: tuple[Result, ...], reporter: Reporter) -> Result:
        op = _op(vertex)
        base = inputs[op.base].snapshot if op.base is not None else None
        snapshots = self._worker.snapshots
        draft = snapshots.prepare(base)
        try:
            if op.base is None:
                _check_owners(op)
            unpacks = any(isinstance(action, CopyAction) and action.unpack for action in op.actions)
            # What unpacks may write to files that are there; a file that other snapshots have may not be written to.
            sharing = None if unpacks else self._sharing(draft, op, inputs)
            size = 0
            with self._target(draft, _mtime(op), through_overlay=unpacks) as target:
                for action in op.actions:
                    self._worker.check_canceled()
                    if isinstance(action, MkdirAction):
                        target.make_dirs(target.resolve(action.path), self._owner(target, action.owner), action.mode)
                    elif isinstance(action, MkfileAction):
                        self._make_file(target, action)
                        size += len(action.data)
                    else:
                        sharer = sharing.sharer(action.input) if sharing else None
                        size += self._copy(target, action, inputs[action.input], sharer)
                target.restore_times()
            exact = self._is_unchanged(vertex, inputs)
        except BaseException:
            snapshots.discard(draft)
            raise
        snapshot = snapshots.commit(draft, sharing.links.origins if sharing else ())
        if not exact:
            reporter.warn("the build context has changed since the build began: this step is not kept in the cache")
        elif sharing:
            sharing.note(snapshot)
        return Result(snapshot, exact=exact, size=content_size(snapshots.folder(snapshot)) if unpacks else size)

    def _is_unchanged(self, vertex: Vertex, inputs: tuple[Result, ...]) -> bool:
        """Whether the contexts are still what the key was made of: a copy of another state is no result for it."""
        for index in self.content_inputs(vertex):
            known, context = self._digests.get((vertex.digest, index)), inputs[index].context
            if known is None or context is None:
                continue
            if self._context_digest(context, _copies_from(vertex, index)) != known:
                return False
        return True

    @contextmanager
    def _target(self, draft: Draft, mtime: int | None, *, through_overlay: bool) -> Iterator[Target]:
        """What unpacks an archive may replace anything, so it works on the mounted draft, all else on its layer."""
        snapshots = self._worker.snapshots
        if through_overlay:
            with snapshots.mount(draft) as root:
                yield Target(root, None, mtime)
            return
        layer = os.open(draft.fs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if draft.parent is None:
                yield Target(layer, None, mtime)
            else:
                with snapshots.view(draft.parent) as below:
                    yield Target(layer, below, mtime)
        finally:
            os.close(layer)

    @contextmanager
    def _tree(self, source: Result) -> Iterator[Tree]:
        if source.context is not None:
            yield self._worker.context(source.context).tree
            return
        from stagewright.sources.snapshot import SnapshotTree

        snapshots = self._worker.snapshots
        with snapshots.view(source.snapshot) as root:
            tree = SnapshotTree(root, snapshots.lowers(source.snapshot))
            try:
                yield tree
            finally:
                tree.close()

    def _sharing(self, draft: Draft, op: FileOp, inputs: tuple[Result, ...]) -> Sharing:
        from stagewright.ops.sharing import Sharing

        return Sharing(self._worker, draft, op, inputs)

    def _owner(self, target: Target, spec: str) -> tuple[int, int] | None:
        if not spec:
            return None
        from stagewright.sandbox.users import resolve_owner

        return resolve_owner(spec, target.read_text("etc/passwd"), target.read_text("etc/group"))

    def _make_file(self, target: Target, action: MkfileAction) -> None:
        path = target.resolve(action.path)
        owner = self._owner(target, action.owner)
        folder = posixpath.dirname(path)
        target.hold_dirs(folder, owner)
        if target.is_dir(path):
            raise StagewrightError(f"cannot write the file {action.path}: it is a folder")
        try:
            os.unlink(path, dir_fd=target.layer)
        except FileNotFoundError:
            pass
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target.layer)
        try:
            write_all(handle, action.data)
            owners.change(handle, *(owner or (0, 0)))
            os.fchmod(handle, action.mode)
        finally:
            os.close(handle)
        if action.mtime is not None:
            os.utime(path, (action.mtime, action.mtime), dir_fd=target.layer)

    def _copy(self, target: Target, action: CopyAction, source: Result, sharer: Sharer | None) -> int:
        """Copy what the action names; answers the bytes of the files, without those that were unpacked."""
        size = 0
        owner = self._owner(target, action.owner)
        mode = partial(apply_mode, action.mode) if action.mode else None
        with self._tree(source) as whole, whole.at_hand() as tree:
            for selected in select(tree, action):
                if action.unpack and self._unpack(target, tree, selected, action, owner):
                    continue
                # As in BuildKit, the matches of a wildcard are copies apart: files that are linked become two.
                copier = Copier(
                    tree,
                    target,
                    self._worker.check_canceled,
                    owner,
                    mode,
                    action.mtime,
                    lambda top: taken(tree, top, action),
                    sharer,
                )
                self._copy_selected(target, copier, selected, action, owner)
                size += copier.size
        return size

    def _copy_selected(
        self, target: Target, copier: Copier, selected: Selected, action: CopyAction, owner: tuple[int, int] | None
    ) -> None:
        into_folder = action.dest.endswith("/")
        head, tail = posixpath.split(posixpath.normpath(action.dest))
        # As in BuildKit, folders that are made on the way get the mode of --chmod, if that is a number.
        number = numeric_mode(action.mode)
        mode = _FOLDER_MODE if number is None else number & 0o777
        target.make_dirs(target.resolve(action.dest if into_folder else head), owner, mode)
        path = target.resolve(posixpath.join(head, tail))
        known_dir = target.is_dir(path)
        if selected.entry.is_dir:
            if not known_dir and target.lstat(path) is not None:
                raise StagewrightError(f"cannot copy to non-directory: /{path}")
            target.hold_dirs(path, owner, mode)
            copier.copy_contents(selected.entry, path, take_metadata=action.folder_itself and not known_dir)
            return
        if known_dir:
            path = posixpath.join(path, selected.name)
        target.hold_dirs(posixpath.dirname(path), owner, mode)
        copier.copy_file(selected.entry, path)

    def _unpack(
        self, target: Target, tree: Tree, selected: Selected, action: CopyAction, owner: tuple[int, int] | None
    ) -> bool:
        """Unpack a source that is an archive into the destination folder; False where it is none."""
        from stagewright.snapshots.extract import is_archive, unpack_archive

        if not stat.S_ISREG(selected.entry.info.st_mode):
            return False
        handle = tree.open(selected.entry.path)
        with os.fdopen(handle, "rb") as file:
            if not is_archive(file):
                return False
            path = target.resolve(posixpath.normpath(action.dest))
            target.make_dirs(path, owner)
            folder = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target.layer)
            try:
                unpack_archive(file, folder, owner=owner)
            finally:
                os.close(folder)
        return True


def _op(vertex: Vertex) -> FileOp:
    assert isinstance(vertex.op, FileOp)
    return vertex.op


def _check_owners(op: FileOp) -> None:
    """Raise StagewrightError where owners are names, and there are no files yet to look them up in."""
    from stagewright.sandbox.users import needs_files

    for action in op.actions:
        if action.owner and needs_files(action.owner):
            raise StagewrightError(
                f"cannot tell who {action.owner} is: there is no passwd or group file to look in",
                hint="give numbers; a COPY or ADD with --link sees none of the stage's files",
            )


def _mtime(op: FileOp) -> int | None:
    return next((action.mtime for action in op.actions if action.mtime is not None), None)


def _copies_from(vertex: Vertex, index: int) -> list[CopyAction]:
    return [action for action in _op(vertex).actions if isinstance(action, CopyAction) and action.input == index]
