"""Runs merge ops: the layers of each input laid on top of the ones before, without copying a file."""

from __future__ import annotations

from stagewright.graph.vertex import Vertex
from stagewright.ops.result import Result
from stagewright.ops.worker import Worker
from stagewright.progress.reporter import Reporter


class MergeRunner:
    """Runs MergeOp vertices."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def content_inputs(self, vertex: Vertex) -> tuple[int, ...]:
        return ()

    def content_digest(self, vertex: Vertex, index: int, source: Result) -> str:
        raise AssertionError("a merge reads nothing")

    def run(self, vertex: Vertex, inputs: tuple[Result, ...], reporter: Reporter) -> Result:
        snapshots = self._worker.snapshots
        merged = inputs[0].snapshot
        for source in inputs[1:]:
            for layer in snapshots.layers(source.snapshot):
                merged = snapshots.graft(layer, merged)
        sizes = [source.size for source in inputs[1:] if source.size is not None]
        return Result(merged, size=sum(sizes) if len(sizes) == len(inputs) - 1 else None)
