"""How a running vertex tells what it does: a sink behind a lock, and a handle on it for one vertex."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stagewright.errors import SourceRange
from stagewright.progress.events import Event, LogEvent, Sink, StatusEvent, VertexEvent, WarningEvent
from stagewright.records import dataclass, field, replace

if TYPE_CHECKING:
    from stagewright.secrecy.masks import MaskedStream, Masks

_UPDATE_INTERVAL_S = 0.05


class Emitter:
    """Passes events on to a sink, one at a time, from any thread. Keeps the warnings for the result.

    With `masks`, no value of a secret is in what is passed on.
    """

    def __init__(self, sink: Sink | None, masks: Masks | None = None) -> None:
        self._sink = sink
        self.masks = masks
        self._lock = threading.Lock()
        self.warnings: list[WarningEvent] = []

    def __call__(self, event: Event) -> None:
        if self.masks is not None:
            from stagewright.progress.masking import masked_event

            event = masked_event(event, self.masks)
        with self._lock:
            if isinstance(event, WarningEvent):
                self.warnings.append(event)
            if self._sink is not None:
                self._sink(event)

    def masked(self, text: str) -> str:
        """A text without secrets, for what is kept of a build."""
        return text if self.masks is None else self.masks.text(text)

    @contextmanager
    def vertex(self, digest: str, name: str) -> Iterator[Reporter]:
        """A vertex that is no part of the graph (`[internal] ...`, `exporting to image`): starts, and ends with it."""
        reporter = Reporter(self, VertexEvent(digest, name))
        reporter.start()
        try:
            yield reporter
        except BaseException as error:
            reporter.end(error=str(error) or "canceled")
            raise
        reporter.end()


@dataclass(slots=True)
class Reporter:
    """What one vertex reports: from one thread at a time, but for why its work has to be done."""

    emit: Emitter
    event: VertexEvent
    rows: list[Status] = field(default_factory=list)
    streams: dict[int, MaskedStream] = field(default_factory=dict)
    changing: threading.Lock = field(default_factory=threading.Lock)

    def missed(self, why: str) -> None:
        """Tell why its result did not come from the cache, from any thread; before it has started, with that.

        "" says nothing.
        """
        if not why:
            return
        with self.changing:
            self.event = replace(self.event, missed=why)
            if self.event.started is not None:
                self.emit(self.event)

    def start(self) -> None:
        self._send(started=time.time())

    def end(self, *, cached: bool = False, error: str = "", at: float | None = None) -> None:
        """Tell that the vertex has ended, now or at a time that has passed."""
        self.end_log()
        now = time.time() if at is None else at
        for row in self.rows:
            row.done()
        self.rows.clear()
        started = self.event.started if self.event.started is not None else now
        self._send(started=started, completed=now, cached=cached, error=error)

    def _send(self, **changes: Any) -> None:
        with self.changing:
            self.event = replace(self.event, **changes)
            self.emit(self.event)

    def log(self, stream: int, data: bytes) -> bytes:
        """Pass on what a step wrote; answers what is shown of it by now, without secrets."""
        if self.emit.masks is not None:
            if stream not in self.streams:
                from stagewright.secrecy.masks import MaskedStream

                self.streams[stream] = MaskedStream(self.emit.masks)
            data = self.streams[stream].feed(data)
        if data:
            self.emit(LogEvent(self.event.digest, stream, data, time.time()))
        return data

    def end_log(self) -> bytes:
        """Pass on what was held back of the log, since it might have become a secret; answers it, too."""
        rests = {stream: masked.flush() for stream, masked in self.streams.items()}
        for stream, rest in rests.items():
            if rest:
                self.emit(LogEvent(self.event.digest, stream, rest, time.time()))
        return b"".join(rests.values())

    def warn(self, short: str, *, detail: tuple[str, ...] = (), location: SourceRange | None = None) -> None:
        self.emit(WarningEvent(self.event.digest, short, detail=detail, location=location))

    def row(self, id: str) -> Status:
        """A row below the vertex that starts now and ends with the vertex."""
        row = Status(self, id, 0, time.time())
        self.rows.append(row)
        return row

    @contextmanager
    def status(self, id: str, total: int = 0) -> Iterator[Status]:
        """A row below the vertex that starts now and ends with the block."""
        row = Status(self, id, total, time.time())
        row.update(0)
        yield row
        row.done()


@dataclass(slots=True)
class Status:
    """A row of progress inside a vertex; `update` takes the bytes done so far."""

    reporter: Reporter
    id: str
    total: int
    started: float
    current: int = 0
    sent: float = 0.0

    def update(self, current: int, total: int | None = None) -> None:
        self.current = current
        if total is not None:
            self.total = total
        # Every block of a fast transfer and every small file is more than anyone can see.
        if not 0 <= time.time() - self.sent < _UPDATE_INTERVAL_S:
            self._send(None)

    def done(self) -> None:
        self._send(time.time())

    def _send(self, completed: float | None) -> None:
        self.sent = time.time()
        self.reporter.emit(
            StatusEvent(
                self.reporter.event.digest,
                self.id,
                current=self.current,
                total=self.total,
                timestamp=self.sent,
                started=self.started,
                completed=completed,
            )
        )
