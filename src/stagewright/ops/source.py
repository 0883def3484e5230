"""Runs source ops: build contexts in place, images pulled and unpacked, URLs and git repositories fetched."""

from __future__ import annotations

from stagewright.graph.ops import SourceOp
from stagewright.graph.vertex import Vertex
from stagewright.ops.result import Result
from stagewright.ops.worker import Worker
from stagewright.progress.reporter import Reporter
from stagewright.snapshots.tree import content_size

IMAGE = "docker-image://"
LOCAL = "local://"


class SourceRunner:
    """Runs SourceOp vertices."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def content_inputs(self, vertex: Vertex) -> tuple[int, ...]:
        return ()

    def content_digest(self, vertex: Vertex, index: int, source: Result) -> str:
        raise AssertionError("a source has no inputs")

    def run(self, vertex: Vertex, inputs: tuple[Result, ...], reporter: Reporter) -> Result:
        assert isinstance(vertex.op, SourceOp)
        identifier = vertex.op.identifier
        if identifier.startswith(LOCAL):
            name = identifier.removeprefix(LOCAL)
            # Named as BuildKit names it, for tools that look for the row.
            self._worker.context(name).digests.on_read = reporter.row("transferring context:").update
            return Result(context=name)
        if not identifier.startswith(IMAGE):
            snapshot: int | None = self._worker.remotes.snapshot(vertex, reporter)
        else:
            digest = identifier.rpartition("@")[2]
            snapshot = self._worker.images.snapshot(digest, reporter, self._worker.cancel)
        return Result(snapshot, size=sum(map(content_size, self._worker.snapshots.lowers(snapshot))))
