"""Stand-ins for ops: vertices whose work is a function, on real key and lock files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from stagewright.cache.keys import KeyStore
from stagewright.cache.locks import LockFile
from stagewright.content.db import Database
from stagewright.errors import NotFoundError, SourceRange, SourceText
from stagewright.graph.ops import CopyAction, ExecOp, FileOp, Mount, SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.ops.result import Result
from stagewright.progress.events import Event, StatusEvent, VertexEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.solver.solver import Solver

Work = Callable[[tuple[Result, ...], Reporter], object]
DOCKERFILE = SourceText("Dockerfile", "FROM scratch\nCOPY a /\nRUN b\n")


def at(line: int) -> SourceRange:
    return SourceRange(DOCKERFILE, line, line)


class Store:
    """A state directory with keys and locks, and rows in place of snapshots; `contents` holds their text by id."""

    def __init__(self, folder: Path) -> None:
        self.db = Database(folder / "metadata.db")
        self.keys = KeyStore(self.db)
        self.locks = LockFile(folder / "locks")
        self.contents: dict[int, str] = {}

    def snapshot(self, content: str) -> int:
        id = self.db.execute("INSERT INTO snapshots (dir, created, last_used) VALUES ('', 0, 0)")
        self.contents[id] = content
        return id

    def prune(self, snapshot: int) -> None:
        self.db.execute("DELETE FROM snapshots WHERE id = ?", (snapshot,))


class Build:
    """One solver's run. A vertex's result is a snapshot with the text that its work answers (by default its name).

    `ran` are the names of the vertices that ran, in order; `context` the text of the build context's files. `foreseen`
    are those that were announced to run. `means` is what sources that are only named mean now, by their identifiers;
    `resolved` those that were asked for. `why` says why a vertex of a name missed the cache.
    """

    def __init__(self, store: Store, jobs: int | None = None) -> None:
        self.store = store
        self.jobs = jobs
        self.cancel = threading.Event()
        self.work: dict[str, Work] = {}
        self.context: dict[str, str] = {}
        self.digest_errors: dict[str, BaseException] = {}
        self.ran: list[str] = []
        self.foreseen: list[str] = []
        self.digested: list[str] = []
        self.events: list[Event] = []
        self.means: dict[str, str] = {}
        self.resolved: list[str] = []
        self.why: Callable[[str], str] | None = None

    def resolve(self, vertex: Vertex, reporter: Reporter) -> object:
        assert isinstance(vertex.op, SourceOp)
        self.resolved.append(vertex.op.identifier)
        if vertex.op.identifier not in self.means:
            raise NotFoundError(f"{vertex.op.identifier}: not found")
        return [self.means[vertex.op.identifier]]

    def content_inputs(self, vertex: Vertex) -> tuple[int, ...]:
        if isinstance(vertex.op, FileOp):
            return tuple(
                action.input
                for action in vertex.op.actions
                if isinstance(action, CopyAction) and action.input != vertex.op.base
            )
        return ()

    def content_digest(self, vertex: Vertex, index: int, source: Result) -> str:
        self.digested.append(vertex.meta.name)
        if vertex.meta.name in self.digest_errors:
            raise self.digest_errors[vertex.meta.name]
        if source.context is not None:
            assert isinstance(vertex.op, FileOp)
            return self.context[vertex.op.actions[0].source]  # type: ignore[union-attr]
        assert source.snapshot is not None
        return self.store.contents[source.snapshot]

    def run(self, vertex: Vertex, inputs: tuple[Result, ...], reporter: Reporter) -> Result:
        if isinstance(vertex.op, SourceOp) and vertex.op.identifier.startswith("local://"):
            return Result(context="context")
        self.ran.append(vertex.meta.name)
        work = self.work.get(vertex.meta.name)
        outcome = work(inputs, reporter) if work else None
        if isinstance(outcome, Result):
            return outcome
        return Result(self.store.snapshot(str(outcome or vertex.meta.name)))

    def solve(self, *targets: Vertex, dry: bool = False) -> list[Result]:
        keys, locks, emitter = self.store.keys, self.store.locks, Emitter(self.events.append)
        self.solver = Solver(lambda vertex: self, keys, locks, emitter, self.cancel, self.jobs, self.resolve, dry=dry)
        self.solver.on_missed = lambda vertex: self.foreseen.append(vertex.meta.name)
        if self.why is not None:
            why = self.why
            self.solver.why_missed = lambda node: why(node.vertex.meta.name)
        return self.solver.solve(targets)

    def last(self, name: str) -> VertexEvent:
        return [event for event in self.events if isinstance(event, VertexEvent) and event.name == name][-1]

    def rows(self, id: str) -> list[StatusEvent]:
        return [event for event in self.events if isinstance(event, StatusEvent) and event.id == id]

    @property
    def cached(self) -> set[str]:
        vertices = [event for event in self.events if isinstance(event, VertexEvent)]
        return {event.name for event in vertices if event.cached}


def context() -> Vertex:
    return Vertex(SourceOp("local://context"), meta=Metadata("context"))


def named(identifier: str, *, line: int | None = None) -> Vertex:
    """A source whose op does not say what it means."""
    meta = Metadata(identifier, location=at(line) if line else None)
    return Vertex(SourceOp(identifier), meta=meta)


def run(name: str, *inputs: Vertex, ignore_cache: bool = False, line: int | None = None) -> Vertex:
    op = ExecOp((name,), (), "/", (Mount("bind", "/", 0 if inputs else None),))
    meta = Metadata(name, ignore_cache=ignore_cache, location=at(line) if line else None)
    return Vertex(op, inputs, meta=meta)


def copy(
    name: str, base: Vertex | None, source: Vertex, path: str = "/a", *, ignore_cache: bool = False, line: int = 2
) -> Vertex:
    """A COPY of a path of `source`, of which only the content counts."""
    inputs = (source,) if base is None else (base, source)
    op = FileOp((CopyAction(len(inputs) - 1, path, "/"),), base=None if base is None else 0)
    return Vertex(op, inputs, meta=Metadata(name, ignore_cache=ignore_cache, location=at(line)))
