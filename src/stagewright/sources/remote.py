"""Sources that are not of this machine, behind one door: what they mean now, and their files as snapshots."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from stagewright.graph.ops import SourceOp
from stagewright.graph.vertex import Vertex
from stagewright.progress.reporter import Reporter

if TYPE_CHECKING:
    from stagewright.sources.git import GitSource
    from stagewright.sources.http import HttpSource

GIT = "git://"
# How rows of URLs in the table of resolutions begin; no image has such a name.
URL_ROW = "url:"


class RemoteSource(Protocol):
    """A kind of source. Thread-safe."""

    def resolve(self, op: SourceOp, reporter: Reporter) -> object:
        """What the op means now, as JSON-able data. Raises StagewrightError."""

    def snapshot(self, op: SourceOp, reporter: Reporter) -> int:
        """The snapshot of what it meant when it was resolved. Raises StagewrightError."""

    def close(self) -> None:
        """Throw away what was of no use."""


class RemoteSources:
    """URLs and git repositories of one build, in which each means one thing from its beginning to its end.

    `http` and `git` make the kinds when they are first needed. Thread-safe; closed by `close`.
    """

    def __init__(self, http: Callable[[], HttpSource], git: Callable[[], GitSource]) -> None:
        self._makers: dict[str, Callable[[], RemoteSource]] = {"http": http, "git": git}
        self._kinds: dict[str, RemoteSource] = {}
        self._meanings: dict[SourceOp, object] = {}
        self._lock = threading.Lock()

    def add(self, scheme: str, source: RemoteSource) -> None:
        """Let a source answer for the ops of a scheme of its own."""
        self._kinds[scheme] = source

    def resolve(self, vertex: Vertex, reporter: Reporter) -> object:
        """What the source means in this build, as JSON-able data. Raises StagewrightError."""
        op = _op(vertex)
        if op not in self._meanings:
            self._meanings[op] = self._kind(op).resolve(op, reporter)
        return self._meanings[op]

    def meaning(self, vertex: Vertex) -> object:
        """What the source was found to mean in this build; None for one that nobody asked for."""
        return self._meanings.get(vertex.op) if isinstance(vertex.op, SourceOp) else None

    def snapshot(self, vertex: Vertex, reporter: Reporter) -> int:
        """The snapshot of its files. Raises StagewrightError."""
        op = _op(vertex)
        return self._kind(op).snapshot(op, reporter)

    def close(self) -> None:
        """Throw away what was of no use."""
        for kind in self._kinds.values():
            kind.close()

    def _kind(self, op: SourceOp) -> RemoteSource:
        scheme = op.identifier.partition("://")[0]
        name = "http" if scheme == "https" else scheme
        with self._lock:
            if name not in self._kinds:
                self._kinds[name] = self._makers[name]()
            return self._kinds[name]


def _op(vertex: Vertex) -> SourceOp:
    assert isinstance(vertex.op, SourceOp)
    return vertex.op
