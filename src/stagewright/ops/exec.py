"""Exec ops: what their keys are made of, and what becomes of what their steps have made; `step` runs those."""

from __future__ import annotations

import posixpath
from contextlib import ExitStack

from stagewright.errors import CanceledError
from stagewright.graph.ops import ExecOp, Mount
from stagewright.graph.vertex import Vertex, digest_of
from stagewright.ops.result import Result
from stagewright.ops.selection import mount_digest
from stagewright.ops.worker import Worker
from stagewright.progress.reporter import Reporter
from stagewright.sources.digests import FileDigests
from stagewright.sources.tree import Tree

# What an identity has before the mark of the files that it starts with.
HOME_ONLY = "@@"


class ExecRunner:
    """Runs ExecOp vertices."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def content_inputs(self, vertex: Vertex) -> tuple[int, ...]:
        op = _op(vertex)
        inputs = {mount.input for mount in _bind_mounts(op) if mount.input is not None}
        # All of the root counts, whatever part of it is mounted a second time.
        return tuple(sorted(inputs - {_base(op)}))

    def content_digest(self, vertex: Vertex, index: int, source: Result) -> str:
        if source.snapshot is None:
            return "empty"
        selectors = [mount.selector for mount in _bind_mounts(_op(vertex)) if mount.input == index]
        name = digest_of(["mount", selectors])
        known = self._worker.keys.content_digest(source.snapshot, name)
        if known is None:
            with self._worker.snapshots.view(source.snapshot) as root:
                check, note = self._worker.check_canceled, self._worker.note_files
                known = mount_digest(Tree(root), selectors, FileDigests(), check, note)
            self._worker.keys.save_content_digest(source.snapshot, name, known)
        return known

    def run(self, vertex: Vertex, inputs: tuple[Result, ...], reporter: Reporter) -> Result:
        from stagewright.ops.step import Step, failure

        op = _op(vertex)
        snapshots = self._worker.snapshots
        base = _base(op)
        draft = snapshots.prepare(inputs[base].snapshot if base is not None else None)
        try:
            with ExitStack() as stack:
                outcome, log_tail = Step(self._worker, inputs, stack).run(op, draft, reporter)
        except BaseException:
            snapshots.discard(draft)
            raise
        if outcome.exit_code != 0:
            snapshots.discard(draft)
            if outcome.canceled:
                raise CanceledError
            raise failure(vertex, op, outcome, log_tail)
        leaks = self._worker.leaks
        try:
            size = snapshots.settle(draft)
            searched = {} if leaks is None else leaks.search_step(vertex, draft.fs)
        except BaseException:
            snapshots.discard(draft)
            raise
        snapshot = snapshots.commit(draft)
        if leaks is not None:
            leaks.remember(snapshot, searched)
        return Result(snapshot, size=size)


def _op(vertex: Vertex) -> ExecOp:
    assert isinstance(vertex.op, ExecOp)
    return vertex.op


def _bind_mounts(op: ExecOp) -> list[Mount]:
    """The mounts of which the files are the key: all binds but the root."""
    return [mount for mount in op.mounts if mount.kind == "bind" and mount.target != "/"]


def _base(op: ExecOp) -> int | None:
    """The input that the root starts from."""
    return next((mount.input for mount in op.mounts if mount.target == "/"), None)


def snapshot_of(mount: Mount, inputs: tuple[Result, ...]) -> int | None:
    """The snapshot that the mount shows, or that its files start with."""
    return inputs[mount.input].snapshot if mount.input is not None else None


def cache_identity(mount: Mount, snapshot: int | None) -> str:
    """Which cache mounts are the same one; `snapshot` is that of the files that it starts with.

    As in BuildKit a folder that starts as something else is another folder. One that starts with files is of this
    store alone.
    """
    identity = mount.id or posixpath.normpath(mount.target)
    if snapshot is None and (mount.mode, mount.uid, mount.gid) == (None, 0, 0):
        return identity
    start = [snapshot, mount.selector, mount.mode, mount.uid, mount.gid]
    return f"{identity}{'@' if snapshot is None else HOME_ONLY}{digest_of(start)[:16]}"
