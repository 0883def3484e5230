"""File ops: what their keys are made of, and what becomes of what they have made; `actions` carries those out."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from stagewright.graph.ops import CopyAction, FileOp
from stagewright.graph.vertex import Vertex, digest_of
from stagewright.ops.result import Result
from stagewright.ops.selection import Note, content_digest
from stagewright.ops.worker import Worker
from stagewright.progress.reporter import Reporter
from stagewright.sources.digests import FileDigests
from stagewright.sources.tree import Tree


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
                    source.context, actions, self._worker.note_files
                )
                self._contents[taken] = digest
            self._digests[vertex.digest, index] = digest
            return digest
        if source.snapshot is None:
            return "empty"
        selector = digest_of([action.identity() for action in actions])
        known = self._worker.keys.content_digest(source.snapshot, selector)
        if known is None:
            with source_tree(self._worker, source) as tree:
                check, note = self._worker.check_canceled, self._worker.note_files
                known = content_digest(tree, actions, FileDigests(), check, note)
            self._worker.keys.save_content_digest(source.snapshot, selector, known)
        return known

    def _context_digest(self, name: str, actions: list[CopyAction], note: Note | None = None) -> str:
        context = self._worker.context(name)
        return content_digest(context.tree, actions, context.digests, self._worker.check_canceled, note)

    def run(self, vertex: Vertex, inputs: tuple[Result, ...], reporter: Reporter) -> Result:
        from stagewright.ops.actions import Actions

        op = _op(vertex)
        base = inputs[op.base].snapshot if op.base is not None else None
        snapshots = self._worker.snapshots
        draft = snapshots.prepare(base)
        try:
            actions = Actions(self._worker, draft, op, inputs)
            size = actions.run()
            exact = self._is_unchanged(vertex, inputs)
        except BaseException:
            snapshots.discard(draft)
            raise
        snapshot = snapshots.commit(draft, actions.origins)
        if exact:
            actions.note(snapshot)
        else:
            reporter.warn("the build context has changed since the build began: this step is not kept in the cache")
        return Result(snapshot, exact=exact, size=size)

    def _is_unchanged(self, vertex: Vertex, inputs: tuple[Result, ...]) -> bool:
        """Whether the contexts are still what the key was made of: a copy of another state is no result for it."""
        for index in self.content_inputs(vertex):
            known, context = self._digests.get((vertex.digest, index)), inputs[index].context
            if known is None or context is None:
                continue
            if self._context_digest(context, _copies_from(vertex, index)) != known:
                return False
        return True


def _op(vertex: Vertex) -> FileOp:
    assert isinstance(vertex.op, FileOp)
    return vertex.op


def _copies_from(vertex: Vertex, index: int) -> list[CopyAction]:
    return [action for action in _op(vertex).actions if isinstance(action, CopyAction) and action.input == index]


@contextmanager
def source_tree(worker: Worker, source: Result) -> Iterator[Tree]:
    """The files of an input, to look at and to copy from."""
    if source.context is not None:
        yield worker.context(source.context).tree
        return
    from stagewright.sources.snapshot import SnapshotTree

    snapshots = worker.snapshots
    with snapshots.view(source.snapshot) as root:
        tree = SnapshotTree(root, snapshots.lowers(source.snapshot))
        try:
            yield tree
        finally:
            tree.close()
