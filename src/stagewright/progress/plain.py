"""`--progress=plain`: BuildKit's text form, made for logs and for the tools that read them.

Each vertex has a number, given when it is first written, and every line begins with it. One vertex is written at a
time; another one's lines wait until the current one ends or is silent, but not for long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

from stagewright.harmless import clean_line, clean_name
from stagewright.progress.events import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from stagewright.progress.loglines import LineAssembler
from stagewright.progress.text import format_offset, format_transfer, is_canceled
from stagewright.progress.ticker import Ticker
from stagewright.progress.warnings import render_warnings

SILENCE_S = 1.0
MAX_WAIT_S = 5.0
# A step that writes without end would fill the memory while it waits for its turn.
MAX_PENDING_LINES = 10_000
# A transfer is written again when it has come on by this share of its total, or after the longer interval.
STATUS_SHARE = 0.05
STATUS_MIN_INTERVAL_S = 0.5
STATUS_INTERVAL_S = 5.0


class _Vertex:
    __slots__ = ("closed", "event", "index", "lines", "pending", "statuses", "waiting_since")

    def __init__(self, digest: str) -> None:
        self.event = VertexEvent(digest, digest)
        self.index = 0
        self.lines: dict[int, LineAssembler] = {}
        self.pending: list[str] = []
        self.statuses: dict[str, StatusEvent] = {}
        self.waiting_since: float | None = None
        self.closed = False

    @property
    def ended(self) -> bool:
        return self.event.completed is not None


class PlainDisplay:
    """Writes events as numbered lines; `clock` gives the seconds by which waiting is measured.

    `colours` keeps the colours of steps' logs; `expand_warnings` shows warnings with their explanations.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        colours: bool = True,
        expand_warnings: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._colours = colours
        self._expand_warnings = expand_warnings
        self._clock = clock
        self._lock = threading.Lock()
        self._ticker = Ticker(self.tick, SILENCE_S / 2)
        self._vertices: dict[str, _Vertex] = {}
        self._waiting: dict[str, _Vertex] = {}
        self._current: _Vertex | None = None
        self._written_at: float | None = None
        self._count = 0
        self._warnings: list[WarningEvent] = []

    def __call__(self, event: Event) -> None:
        self._ticker.check()
        with self._lock:
            self._take(event)
            self._write_out()
            if self._waiting:
                self._ticker.start()

    def tick(self) -> None:
        """Writes what has waited long enough."""
        with self._lock:
            self._write_out()

    def close(self, error: BaseException | None) -> None:
        """Writes all that waits, unended lines too, then the warnings."""
        self._ticker.stop()
        self._ticker.check()
        with self._lock:
            for vertex in self._vertices.values():
                self._flush_lines(vertex)
            while self._waiting:
                self._show(next(iter(self._waiting.values())))
            self._stream.write(render_warnings(self._warnings, expand=self._expand_warnings))
            self._stream.flush()

    def abandon(self) -> None:
        """Does nothing: the terminal was never changed."""

    def _take(self, event: Event) -> None:
        if isinstance(event, VertexEvent):
            self._take_vertex(event)
            return
        if isinstance(event, WarningEvent):
            self._warnings.append(event)
            if not event.vertex:
                return
        vertex = self._vertex(event.vertex)
        match event:
            case StatusEvent():
                if _worth_showing(event, vertex.statuses.get(event.id)):
                    vertex.statuses[event.id] = event
                    self._put(vertex, _status_line(event))
            case LogEvent():
                assembler = vertex.lines.setdefault(event.stream, LineAssembler())
                self._put_lines(vertex, assembler.feed(event.data, event.timestamp))
            case WarningEvent():
                self._put(vertex, f"WARN: {clean_name(event.short)}")

    def _take_vertex(self, event: VertexEvent) -> None:
        vertex = self._vertex(event.digest)
        ended_before = vertex.ended
        if event.missed and not vertex.event.missed:
            self._put(vertex, f"missed: {clean_name(event.missed)}")
        vertex.event = event
        if vertex.ended and not ended_before:
            self._flush_lines(vertex)
            self._wait(vertex)
        elif event.started is not None and not vertex.index:
            self._wait(vertex)

    def _vertex(self, digest: str) -> _Vertex:
        if digest not in self._vertices:
            self._vertices[digest] = _Vertex(digest)
        return self._vertices[digest]

    def _put(self, vertex: _Vertex, line: str) -> None:
        vertex.pending.append(line)
        self._wait(vertex)
        if len(vertex.pending) >= MAX_PENDING_LINES:
            self._show(vertex)

    def _put_lines(self, vertex: _Vertex, lines: list[tuple[float, str]]) -> None:
        for timestamp, text in lines:
            started = timestamp if vertex.event.started is None else vertex.event.started
            text = clean_line(text, keep_colours=self._colours)
            self._put(vertex, f"{format_offset(timestamp - started)} {text}")

    def _flush_lines(self, vertex: _Vertex) -> None:
        for assembler in vertex.lines.values():
            self._put_lines(vertex, assembler.flush())

    def _wait(self, vertex: _Vertex) -> None:
        if vertex.waiting_since is None:
            vertex.waiting_since = self._clock()
            self._waiting[vertex.event.digest] = vertex

    def _write_out(self) -> None:
        if not self._waiting:
            return
        current = self._current
        if current is not None and current.waiting_since is not None:
            self._show(current)
        for vertex in [vertex for vertex in self._waiting.values() if vertex.ended]:
            self._show(vertex)
        if self._waiting:
            # Those that have waited longest come first, for a dictionary keeps its order.
            vertex = next(iter(self._waiting.values()))
            if self._current is None or self._is_due(vertex):
                self._show(vertex)
        self._stream.flush()

    def _is_due(self, vertex: _Vertex) -> bool:
        now = self._clock()
        silent_for = 0.0 if self._written_at is None else now - self._written_at
        waited = 0.0 if vertex.waiting_since is None else now - vertex.waiting_since
        return silent_for >= SILENCE_S or waited >= MAX_WAIT_S

    def _show(self, vertex: _Vertex) -> None:
        if vertex.closed:
            self._add_late_lines(vertex)
            return
        out: list[str] = []
        if not vertex.index:
            self._count += 1
            vertex.index = self._count
        if vertex is not self._current:
            if self._current is not None:
                out.append(f"#{self._current.index} ...\n")
            if self._written_at is not None:
                out.append("\n")
            out.append(f"#{vertex.index} {clean_name(vertex.event.name)}\n")
        out += [f"#{vertex.index} {line}\n" for line in vertex.pending]
        vertex.pending.clear()
        if vertex.ended:
            out.append(f"#{vertex.index} {_end_line(vertex.event)}\n")
            vertex.closed = True
        self._current = None if vertex.ended else vertex
        vertex.waiting_since = None
        self._waiting.pop(vertex.event.digest, None)
        self._written_at = self._clock()
        self._stream.write("".join(out))

    def _add_late_lines(self, vertex: _Vertex) -> None:
        """Lines of a vertex whose end has been shown (a build check's finding): they stand alone."""
        self._stream.write("".join(f"#{vertex.index} {line}\n" for line in vertex.pending))
        vertex.pending.clear()
        vertex.waiting_since = None
        self._waiting.pop(vertex.event.digest, None)
        self._written_at = self._clock()


def _worth_showing(event: StatusEvent, last: StatusEvent | None) -> bool:
    if last is None:
        return True
    if last.completed is not None or event.completed is not None:
        return last.completed is None
    waited = event.timestamp - last.timestamp
    if event.total > 0 and (event.current - last.current) / event.total >= STATUS_SHARE:
        return waited >= STATUS_MIN_INTERVAL_S
    return waited >= STATUS_INTERVAL_S


def _status_line(event: StatusEvent) -> str:
    parts = [clean_name(event.id), format_transfer(event.current, event.total)]
    if event.started is not None:
        elapsed = (event.timestamp if event.completed is None else event.completed) - event.started
        parts.append(f"{elapsed:.1f}s" if elapsed > 0.01 else "")
    if event.completed is not None:
        parts.append("done")
    return " ".join(part for part in parts if part)


def _end_line(event: VertexEvent) -> str:
    if event.error:
        return "CANCELED" if is_canceled(event.error) else f"ERROR: {clean_name(event.error)}"
    if event.cached:
        return "CACHED"
    if event.started is None or event.completed is None:
        return "DONE"
    return f"DONE {max(0.0, event.completed - event.started):.1f}s"
