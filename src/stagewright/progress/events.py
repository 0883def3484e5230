"""The event model of a build: the shape of BuildKit's SolveStatus, so that its readers can read ours.

Times are seconds since the epoch as floats. A sink is any callable that takes an Event; it is called from several
threads, one at a time (the emitter holds a lock), and must not block for long.
"""

from __future__ import annotations

from collections.abc import Callable

from stagewright.errors import SourceRange
from stagewright.records import dataclass


@dataclass(frozen=True, slots=True)
class VertexEvent:
    """A vertex (one `#N` in the plain display) was announced, has started, or has ended.

    The same digest is sent again whenever a field changes; the newest event is the whole truth about the vertex.
    `started` and `completed` are None until then. `cached` means that its result came from the cache.
    `stage` is the stage's name in the `[build 2/4]` prefix that `name` begins with. `missed` says in a few words why
    the result did not come from the cache.
    """

    digest: str
    name: str
    inputs: tuple[str, ...] = ()
    started: float | None = None
    completed: float | None = None
    cached: bool = False
    error: str = ""
    location: SourceRange | None = None
    stage: str | None = None
    missed: str = ""


@dataclass(frozen=True, slots=True)
class StatusEvent:
    """Progress of something inside a vertex: a layer that is pulled, a context that is read.

    `id` names the row (e.g. a layer digest, "exporting layers"); `current` and `total` are bytes (total 0: unknown).
    """

    vertex: str
    id: str
    current: int = 0
    total: int = 0
    timestamp: float = 0.0
    started: float | None = None
    completed: float | None = None


@dataclass(frozen=True, slots=True)
class LogEvent:
    """Bytes that a step wrote; `stream` is 1 for standard output, 2 for standard error."""

    vertex: str
    stream: int
    data: bytes
    timestamp: float = 0.0


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """A warning about the build: a build check's finding, a registry that could not be reached."""

    vertex: str
    short: str
    level: int = 1
    detail: tuple[str, ...] = ()
    url: str = ""
    location: SourceRange | None = None


Event = VertexEvent | StatusEvent | LogEvent | WarningEvent
Sink = Callable[[Event], None]
