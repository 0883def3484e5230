"""`--progress=tty`: the live display of a terminal.

Vertices stand in the order in which they started, one line each; below a running one, its transfers and the tail of
its log; the line of the whole build is the last. Lines of ended vertices leave the live region at its top and stay in
the scrollback as they are, so the region holds what can still change and nothing above it ever moves.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from typing import TextIO

from stagewright.errors import CanceledError
from stagewright.progress.events import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from stagewright.progress.rows import COLOURED, MAX_TAIL, Layout, Row, Style, VertexRow
from stagewright.progress.ticker import Ticker
from stagewright.progress.warnings import render_warnings

REPAINT_INTERVAL_S = 0.1

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_CLEAR_BELOW, _CLEAR_LINE = "\x1b[J", "\x1b[K"


class TtyDisplay:
    """Draws events on the terminal behind `stream`, at most once in `REPAINT_INTERVAL_S`.

    `size` gives the terminal's columns and lines, asked anew for each frame; `clock` the seconds since the epoch.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        colours: bool = True,
        expand_warnings: bool = False,
        size: Callable[[], tuple[int, int]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream
        self._style = COLOURED if colours else Style()
        self._unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
        self._expand_warnings = expand_warnings
        self._size = size or (lambda: _terminal_size(stream))
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        self._ticker = Ticker(self.paint, REPAINT_INTERVAL_S)
        self._known: dict[str, VertexRow] = {}
        self._live: list[VertexRow] = []
        self._done = 0
        self._warnings: list[WarningEvent] = []
        self._screen = _Screen(stream)

    def __call__(self, event: Event) -> None:
        self._ticker.check()
        with self._lock:
            self._take(event)
        self._ticker.start()

    def paint(self) -> None:
        """Draws a frame."""
        with self._lock:
            columns, lines = self._size()
            layout = Layout(columns, self._style, unicode=self._unicode)
            settled, live = self._compose(layout, max(2, lines - 1))
            self._screen.paint(settled, live, columns, lines)

    def close(self, error: BaseException | None) -> None:
        """Draws the last frame, without transfers and logs, gives the cursor back and writes the warnings."""
        self._ticker.stop()
        with self._lock:
            columns, lines = self._size()
            layout = Layout(columns, self._style, unicode=self._unicode)
            now = self._clock()
            rows = [layout.vertex(row, now) for row in self._live]
            if self._known:
                state = "FINISHED" if error is None else "CANCELED" if _is_cancel(error) else "FAILED"
                rows.append(self._summary(layout, now, state))
            try:
                self._screen.paint(rows, [], columns, lines)
            finally:
                self._screen.restore()
            self._stream.write(render_warnings(self._warnings, expand=self._expand_warnings))
            self._stream.flush()

    def abandon(self) -> None:
        """Makes the cursor visible at once; takes no locks."""
        self._screen.restore_now()

    def _take(self, event: Event) -> None:
        if isinstance(event, WarningEvent):
            self._warnings.append(event)
            return
        if isinstance(event, VertexEvent):
            self._take_vertex(event)
            return
        row = self._known.get(event.vertex)
        if row is None or row.ended:
            return
        if isinstance(event, StatusEvent):
            row.statuses[event.id] = event
        elif isinstance(event, LogEvent):
            row.add_log(event)

    def _take_vertex(self, event: VertexEvent) -> None:
        row = self._known.get(event.digest)
        if row is None:
            row = self._known[event.digest] = VertexRow(event)
            seen, ended = False, False
        else:
            seen, ended = _is_shown(row.event), row.ended
            row.update(event)
        if not seen and _is_shown(event):
            self._live.append(row)
        self._done += row.ended - ended

    def _compose(self, layout: Layout, height: int) -> tuple[list[Row], list[Row]]:
        now = self._clock()
        leaving = self._settle(layout, now, height)
        settled = [layout.vertex(row, now) for row in leaving]
        if not self._known:
            return settled, []
        room = height - 1
        shown = self._live
        if len(shown) > room:
            shown = shown[: room - 1]
        spare = room - len(shown) - (len(shown) < len(self._live))
        live: list[Row] = []
        limits = _share(spare, [layout.wanted(row, now) for row in shown])
        for row, limit in zip(shown, limits, strict=True):
            live.append(layout.vertex(row, now))
            live += layout.details(row, now, limit)
        if len(shown) < len(self._live):
            live.append(layout.more(len(self._live) - len(shown)))
        live.append(self._summary(layout, now, ""))
        return settled, live

    def _settle(self, layout: Layout, now: float, height: int) -> list[VertexRow]:
        leaving: list[VertexRow] = []
        first_open = next((index for index, row in enumerate(self._live) if not row.ended), len(self._live))
        leaving += self._live[:first_open]
        rest = self._live[first_open:]
        # Where the region outgrows the terminal, ended vertices go before older ones that still run.
        excess = 1 + len(rest) + sum(layout.wanted(row, now) for row in rest) - height
        if excess > 0:
            ended = [row for row in rest if row.ended][:excess]
            leaving += ended
            gone = {row.event.digest for row in ended}
            rest = [row for row in rest if row.event.digest not in gone]
        self._live = rest
        return leaving

    def _summary(self, layout: Layout, now: float, state: str) -> Row:
        return layout.summary(max(0.0, now - self._began), self._done, len(self._known), state)


class _Screen:
    """The rows that are on the terminal and may be drawn over; the cursor rests on the line below them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rows: list[Row] = []
        self._columns = 0
        self._hidden = False

    def paint(self, settled: list[Row], live: list[Row], columns: int, lines: int) -> None:
        """Puts `settled` and `live` in the place of the rows that are there; only `live` may be drawn over again."""
        out: list[str] = []
        if not self._hidden:
            atexit.register(self.restore)
            self._hidden = True
            out.append(_HIDE_CURSOR)
        if columns != self._columns and self._rows:
            out.append(self._erase(columns, lines))
            self._rows = []
        new = settled + live
        same = 0
        while same < min(len(new), len(self._rows)) and new[same] == self._rows[same]:
            same += 1
        if up := len(self._rows) - same:
            out.append(f"\x1b[{up}A\r")
        for index in range(same, len(new)):
            if index < len(self._rows) and new[index] == self._rows[index]:
                out.append("\n")
            else:
                out.append(f"\r{self._encodable(new[index].text)}{_CLEAR_LINE}\n")
        if up or len(new) > same:
            out.append(_CLEAR_BELOW)
        self._rows = live
        self._columns = columns
        if out:
            self._stream.write("".join(out))
            self._stream.flush()

    def restore(self) -> None:
        """Makes the cursor visible again."""
        if self._hidden:
            self._hidden = False
            atexit.unregister(self.restore)
            self._stream.write(_SHOW_CURSOR)
            self._stream.flush()

    def restore_now(self) -> None:
        """Makes the cursor visible, past the stream's buffer and locks."""
        if self._hidden:
            os.write(self._stream.fileno(), _SHOW_CURSOR.encode())

    def _erase(self, columns: int, lines: int) -> str:
        # A terminal that became narrower has wrapped the rows that are on it.
        height = sum(max(1, -(-row.cells // max(1, columns))) for row in self._rows)
        return f"\x1b[{min(height, lines - 1)}A\r{_CLEAR_BELOW}"

    def _encodable(self, text: str) -> str:
        encoding = self._stream.encoding or "utf-8"
        return text.encode(encoding, "replace").decode(encoding)


def _share(spare: int, wanted: list[int]) -> list[int]:
    """Divides `spare` rows fairly among vertices that want some; what one does not need goes to the others."""
    given = [0] * len(wanted)
    for _ in range(MAX_TAIL):
        for index, want in enumerate(wanted):
            if spare > 0 and given[index] < want:
                given[index] += 1
                spare -= 1
    return given


def _is_shown(event: VertexEvent) -> bool:
    return event.started is not None or event.completed is not None


def _is_cancel(error: BaseException) -> bool:
    return isinstance(error, CanceledError | KeyboardInterrupt)


def _terminal_size(stream: TextIO) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return 80, 24
    return (size.columns or 80), (size.lines or 24)
