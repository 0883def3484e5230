"""The rows of the live display: vertices, transfers and log tails laid out for a given number of columns."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from stagewright.harmless import clean_line, clean_name
from stagewright.progress.events import LogEvent, StatusEvent, VertexEvent
from stagewright.progress.loglines import LineAssembler
from stagewright.progress.text import cell_width, cut_cells, fit_cells, format_transfer, is_canceled
from stagewright.records import dataclass

MAX_TAIL = 6
# A step that is over sooner than this never shows its log, so that a run of short steps does not flicker.
TAIL_DELAY_S = 0.5

_BAR_MIN_COLUMNS = 72
_ID_CELLS = len("sha256:0123456789ab")
_TRANSFER_CELLS = len("999.99MB / 999.99MB")


@dataclass(frozen=True, slots=True)
class Style:
    """The SGR parameters of each part of a row; all empty where there are no colours."""

    arrow: str = ""
    done: str = ""
    cached: str = ""
    error: str = ""
    canceled: str = ""
    faint: str = ""
    bar: str = ""
    title: str = ""


COLOURED = Style(arrow="36", done="32", cached="34", error="1;31", canceled="33", faint="2", bar="36", title="1")


@dataclass(frozen=True, slots=True)
class Row:
    """A painted row: its text with colours, and how many cells it takes."""

    text: str
    cells: int


class VertexRow:
    """What the live display knows of one vertex."""

    __slots__ = ("_lines", "_tail", "event", "missed", "name", "statuses")

    def __init__(self, event: VertexEvent) -> None:
        self.update(event)
        self.statuses: dict[str, StatusEvent] = {}
        self._lines: dict[int, LineAssembler] = {}
        self._tail: deque[str] = deque(maxlen=MAX_TAIL)

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come from the vertex."""
        return self.event.completed is not None

    def update(self, event: VertexEvent) -> None:
        """Takes a newer event of the vertex."""
        self.event = event
        self.name = fit_cells(clean_name(event.name))
        self.missed = fit_cells(clean_name(event.missed))

    def add_log(self, event: LogEvent) -> None:
        """Takes a piece of the step's output."""
        assembler = self._lines.setdefault(event.stream, LineAssembler())
        for _, text in assembler.feed(event.data, event.timestamp):
            self._keep(text)

    def tail(self) -> list[str]:
        """The last lines of output, at most `MAX_TAIL`, lines that are not ended included."""
        partials = [fit_cells(clean_line(assembler.partial)) for assembler in self._lines.values()]
        return [*self._tail, *(text for text in partials if text.strip())][-MAX_TAIL:]

    def elapsed(self, now: float) -> float | None:
        """Seconds that the vertex has run or did run; None if it never started."""
        if self.event.started is None:
            return None
        end = now if self.event.completed is None else self.event.completed
        return max(0.0, end - self.event.started)

    def _keep(self, text: str) -> None:
        text = fit_cells(clean_line(text)).rstrip()
        if text:
            self._tail.append(text)


class Layout:
    """Turns vertices into rows for a terminal of `columns` cells; the last column stays free.

    `unicode` says whether the terminal takes more than ASCII.
    """

    def __init__(self, columns: int, style: Style, *, unicode: bool) -> None:
        # Text in the last column leaves some terminals in a state where the next character wraps.
        self._columns = max(1, columns - 1)
        self._style = style
        self._ellipsis = "…" if unicode else "..."
        self._full, self._rest = ("━", "─") if unicode else ("#", "-")

    def vertex(self, row: VertexRow, now: float) -> Row:
        """The one line of a vertex: arrow, state, name, and its time at the right."""
        style, event = self._style, row.event
        word, look = "", style.arrow
        if event.error:
            word, look = ("CANCELED ", style.canceled) if is_canceled(event.error) else ("ERROR ", style.error)
        elif event.cached:
            word, look = "CACHED ", style.cached
        elif row.ended:
            look = style.done
        elapsed = None if event.cached else row.elapsed(now)
        time_text = "" if elapsed is None else f"{elapsed:.1f}s"
        left = [(" => ", look), (word, look), (row.name, style.error if word == "ERROR " else "")]
        if row.missed:
            left.append((f"  missed: {row.missed}", style.faint))
        return self._line(left, [(time_text, style.faint if row.ended else "")])

    def details(self, row: VertexRow, now: float, limit: int) -> list[Row]:
        """At most `limit` rows below a running vertex: its transfers, then the tail of its log."""
        if limit <= 0 or row.ended:
            return []
        open_statuses = [status for status in row.statuses.values() if status.completed is None]
        statuses = list(row.statuses.values())
        if len(statuses) > limit:
            statuses = open_statuses
        rows = [self._status(status, now) for status in statuses[:limit]]
        if len(statuses) > limit:
            rows[-1] = self._line([(f" => => and {len(statuses) - limit + 1} more", self._style.faint)], [])
        room = limit - len(rows)
        elapsed = row.elapsed(now)
        if room > 0 and elapsed is not None and elapsed >= TAIL_DELAY_S:
            rows += [self._line([(f" => => # {text}", self._style.faint)], []) for text in row.tail()[-room:]]
        return rows

    def wanted(self, row: VertexRow, now: float) -> int:
        """How many detail rows a vertex would like."""
        return len(self.details(row, now, MAX_TAIL))

    def more(self, count: int) -> Row:
        """The row that stands for `count` running vertices that found no room."""
        return self._line([(f" => and {count} more running", self._style.faint)], [])

    def summary(self, seconds: float, done: int, total: int, state: str) -> Row:
        """The line of the whole build."""
        look = self._style.title if state in ("", "FINISHED") else self._style.error
        text = f"[+] Building {seconds:.1f}s ({done}/{total})"
        return self._line([(f"{text} {state}".rstrip(), look)], [])

    def _status(self, status: StatusEvent, now: float) -> Row:
        time_text = ""
        if status.started is not None:
            end = now if status.completed is None else status.completed
            time_text = f"{max(0.0, end - status.started):.1f}s"
        name = cut_cells(_short_id(status.id), _ID_CELLS if status.total else self._columns, self._ellipsis)
        left = [(f" => => {name}", "")]
        transfer = format_transfer(status.current, status.total)
        if status.total > 0 and self._columns >= _BAR_MIN_COLUMNS:
            left += [(" " * (_ID_CELLS - cell_width(name) + 1), ""), *self._bar(status.current / status.total)]
            transfer = f"{transfer:>{_TRANSFER_CELLS}}"
        left.append((f" {transfer}", ""))
        return self._line(left, [(time_text, self._style.faint)])

    def _bar(self, share: float) -> list[tuple[str, str]]:
        width = 20 if self._columns < 120 else 40
        filled = round(min(1.0, max(0.0, share)) * width)
        return [(self._full * filled, self._style.bar), (self._rest * (width - filled), self._style.faint)]

    def _line(self, left: Sequence[tuple[str, str]], right: Sequence[tuple[str, str]]) -> Row:
        right_cells = sum(cell_width(text) for text, _ in right)
        gap = 1 if right_cells else 0
        if right_cells + gap >= self._columns:
            right, right_cells, gap = [], 0, 0
        room = self._columns - right_cells - gap
        out: list[str] = []
        for text, look in left:
            text = cut_cells(text, room, self._ellipsis)
            room -= cell_width(text)
            out.append(_paint(text, look))
        if right_cells:
            out.append(" " * (room + gap))
            out.extend(_paint(text, look) for text, look in right)
        return Row("".join(out), self._columns - (0 if right_cells else room))


def _paint(text: str, look: str) -> str:
    return f"\x1b[{look}m{text}\x1b[0m" if look and text else text


def _short_id(text: str) -> str:
    text = fit_cells(clean_name(text))
    algorithm, colon, encoded = text.partition(":")
    if colon and len(encoded) == 64 and algorithm.startswith("sha"):
        return f"{algorithm}:{encoded[:12]}"
    return text
