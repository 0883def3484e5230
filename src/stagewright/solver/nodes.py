"""Vertices while they are solved: what is known of each by now, how it is announced, and how it ends by an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from stagewright.cache.keys import CachedResult
from stagewright.errors import CanceledError, PrivilegeNeededError, StagewrightError, system_reason
from stagewright.graph.vertex import Vertex, walk
from stagewright.ops.base import OpRunner
from stagewright.ops.result import Result
from stagewright.progress.events import VertexEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.records import dataclass, field


@dataclass(slots=True, eq=False)
class Node:
    """A vertex while it is being solved."""

    vertex: Vertex
    runner: OpRunner
    reporter: Reporter
    inputs: list[Node]
    content_inputs: tuple[int, ...]
    users: list[Node] = field(default_factory=list)
    keys_missing: int = 0
    contents: dict[int, str] = field(default_factory=dict)
    readers_missing: int = 0
    definition: str | None = None
    canonical: str | None = None
    also_known_as: list[str] = field(default_factory=list)
    cached: CachedResult | None = None
    result: Result | None = None
    wanted: bool = False
    waiting_for_content: bool = False
    results_missing: int = 0
    unexplained: bool = False
    waiters: list[Node] = field(default_factory=list)

    @property
    def input_keys(self) -> list[str]:
        """The canonical keys of the inputs, which have to be known."""
        return [node.canonical or "" for node in self.inputs]

    def solved(self) -> Solved:
        """What has become of it."""
        result = self.result or self.cached
        return Solved(
            self.vertex,
            self.definition,
            self.canonical or "",
            self.contents,
            has_result=result is not None,
            snapshot=None if result is None else result.snapshot,
            is_exact=self.result is None or self.result.exact,
        )


@dataclass(frozen=True, slots=True)
class Solved:
    """A vertex with its keys (see cache/keys.py), the digests of what it read of its inputs, and its result, if any.

    `definition` is None for what reads a build context. `is_exact` is as in `Result`.
    """

    vertex: Vertex
    definition: str | None
    canonical: str
    contents: Mapping[int, str]
    has_result: bool
    snapshot: int | None
    is_exact: bool


def build_nodes(
    targets: Sequence[Vertex], runner_of: Callable[[Vertex], OpRunner], emitter: Emitter
) -> dict[str, Node]:
    """The nodes of a graph by their vertices' digests, inputs before their users; those with names are announced."""
    nodes: dict[str, Node] = {}
    for vertex in walk(targets):
        runner = runner_of(vertex)
        inputs = [nodes[source.digest] for source in vertex.inputs]
        event = VertexEvent(
            vertex.digest,
            vertex.meta.name,
            tuple(source.digest for source in vertex.inputs),
            location=vertex.meta.location,
            stage=vertex.meta.stage,
        )
        node = Node(vertex, runner, Reporter(emitter, event), inputs, runner.content_inputs(vertex))
        node.keys_missing = len(inputs)
        for source in inputs:
            source.users.append(node)
        nodes[vertex.digest] = node
        if vertex.meta.name:
            emitter(event)
    return nodes


@contextmanager
def blamed(node: Node, at: float | None = None) -> Iterator[None]:
    """Let a vertex end with what goes wrong within, whether it had started or only its key was being made.

    `at` is when it has ended, if that was before now.
    """
    try:
        yield
    except BaseException as error:
        # For want of privilege a build is broken off, and runs once more where it has some.
        broken_off = isinstance(error, CanceledError | PrivilegeNeededError)
        if broken_off and node.reporter.event.started is None:
            raise
        reason = "canceled" if isinstance(error, PrivilegeNeededError) else str(located(node, error)) or "canceled"
        node.reporter.end(error=reason, at=at)
        raise


def located(node: Node | None, error: BaseException) -> BaseException:
    """What a failure is for the user: where it came from, and in words where the system refused something."""
    if isinstance(error, OSError):
        told = StagewrightError(system_reason(error))
        told.__cause__ = error
        error = told
    if isinstance(error, StagewrightError) and not isinstance(error, CanceledError) and node is not None:
        error.location = error.location or node.vertex.meta.location
    return error
