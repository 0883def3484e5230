"""Which runner runs which kind of op."""

from __future__ import annotations

from collections.abc import Callable

from stagewright.graph.ops import ExecOp, FileOp, MergeOp, SourceOp
from stagewright.graph.vertex import Vertex
from stagewright.ops.base import OpRunner
from stagewright.ops.exec import ExecRunner
from stagewright.ops.file import FileRunner
from stagewright.ops.merge import MergeRunner
from stagewright.ops.source import SourceRunner
from stagewright.ops.worker import Worker


def runners(worker: Worker) -> Callable[[Vertex], OpRunner]:
    """A function that answers the runner for a vertex."""
    by_op: dict[type, OpRunner] = {
        SourceOp: SourceRunner(worker),
        ExecOp: ExecRunner(worker),
        FileOp: FileRunner(worker),
        MergeOp: MergeRunner(worker),
    }
    return lambda vertex: by_op[type(vertex.op)]
