"""What the solver needs to know of an op, and which module runs which."""

from __future__ import annotations

from typing import Protocol

from stagewright.graph.vertex import Vertex
from stagewright.ops.result import Result
from stagewright.progress.reporter import Reporter


class OpRunner(Protocol):
    """Runs the vertices of one kind of op. All methods may be called from any thread."""

    def content_inputs(self, vertex: Vertex) -> tuple[int, ...]:
        """The inputs (by index, ascending) of which only some files are read, so that their content is the key."""

    def content_digest(self, vertex: Vertex, index: int, source: Result) -> str:
        """The digest of those files of input `index` that the vertex reads."""

    def run(self, vertex: Vertex, inputs: tuple[Result, ...], reporter: Reporter) -> Result:
        """Do the work. Raises StagewrightError."""
