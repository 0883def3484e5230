"""Carries out the actions of a file op in a draft: folders and files made, files copied, archives unpacked."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

from stagewright.errors import StagewrightError
from stagewright.graph.ops import CopyAction, FileOp, MkdirAction, MkfileAction
from stagewright.ops.chmod import apply_mode, numeric_mode
from stagewright.ops.copy import Copier, write_all
from stagewright.ops.file import source_tree
from stagewright.ops.filtering import taken
from stagewright.ops.result import Result
from stagewright.ops.selection import Selected, select
from stagewright.ops.sharing import Sharer, Sharing
from stagewright.ops.target import Target
from stagewright.ops.worker import Worker
from stagewright.sandbox.users import needs_files, resolve_owner
from stagewright.snapshots import owners
from stagewright.snapshots.store import Draft
from stagewright.sources.tree import Tree

_FOLDER_MODE = 0o755


class Actions:
    """The actions of one file op."""

    def __init__(self, worker: Worker, draft: Draft, op: FileOp, inputs: tuple[Result, ...]) -> None:
        self._worker = worker
        self._draft = draft
        self._op = op
        self._inputs = inputs
        self._unpacks = any(isinstance(action, CopyAction) and action.unpack for action in op.actions)
        # What unpacks may write to files that are there; a file that other snapshots have may not be written to.
        self._sharing = None if self._unpacks else Sharing(worker, draft, op, inputs)

    @property
    def origins(self) -> Collection[str]:
        """The folders of the snapshots whose files the draft has links to."""
        return self._sharing.links.origins if self._sharing else ()

    def note(self, snapshot: int) -> None:
        """Let later copies of the same share the files of what the draft has become."""
        if self._sharing:
            self._sharing.note(snapshot)

    def run(self) -> int:
        """Do them in their order; returns how many bytes of files they have made. Raises StagewrightError."""
        size = 0
        if self._op.base is None:
            _check_owners(self._op)
        with self._target(through_overlay=self._unpacks) as target:
            for action in self._op.actions:
                self._worker.check_canceled()
                if isinstance(action, MkdirAction):
                    target.make_dirs(target.resolve(action.path), self._owner(target, action.owner), action.mode)
                elif isinstance(action, MkfileAction):
                    self._make_file(target, action)
                    size += len(action.data)
                else:
                    sharer = self._sharing.sharer(action.input) if self._sharing else None
                    size += self._copy(target, action, self._inputs[action.input], sharer)
            target.restore_times()
        # What was unpacked nobody has counted.
        return self._worker.snapshots.settle(self._draft) if self._unpacks else size

    @contextmanager
    def _target(self, *, through_overlay: bool) -> Iterator[Target]:
        """What unpacks an archive may replace anything, so it works on the mounted draft, all else on its layer."""
        snapshots, draft, mtime = self._worker.snapshots, self._draft, _mtime(self._op)
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

    def _owner(self, target: Target, spec: str) -> tuple[int, int] | None:
        if not spec:
            return None
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
        with source_tree(self._worker, source) as whole, whole.at_hand() as tree:
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


def _check_owners(op: FileOp) -> None:
    """Raise StagewrightError where owners are names, and there are no files yet to look them up in."""
    for action in op.actions:
        if action.owner and needs_files(action.owner):
            raise StagewrightError(
                f"cannot tell who {action.owner} is: there is no passwd or group file to look in",
                hint="give numbers; a COPY or ADD with --link sees none of the stage's files",
            )


def _mtime(op: FileOp) -> int | None:
    return next((action.mtime for action in op.actions if action.mtime is not None), None)
