import os

import pytest
from fake_terminal import FakeTerminal
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import CanceledError, StagewrightError
from stagewright.progress.events import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from stagewright.progress.tty import TtyDisplay
from stagewright.records import replace


class Screen:
    """A display on a fake terminal, whose time and frames the test drives."""

    def __init__(self, columns: int = 80, lines: int = 24, colours: bool = True) -> None:
        self.terminal = FakeTerminal(columns, lines)
        self.now = 1000.0
        self.display = TtyDisplay(self.terminal, colours=colours, size=self.terminal.size, clock=lambda: self.now)
        # Frames come when the test asks for them.
        self.display._ticker.start = lambda: None  # type: ignore[method-assign]

    def play(self, *events: Event) -> None:
        for event in events:
            self.display(event)

    def frame(self, seconds: float = 0.0) -> list[str]:
        self.now += seconds
        self.display.paint()
        return self.terminal.shown()


def vertex(letter: str, name: str = "", **fields: object) -> VertexEvent:
    event = VertexEvent(f"sha256:{letter}", name or f"[{letter} 1/1] RUN {letter}", started=1000.0)
    return replace(event, **fields)  # type: ignore[arg-type]


def test_running_step_with_its_log() -> None:
    screen = Screen()
    screen.play(vertex("a"), LogEvent("sha256:a", 1, b"".join(b"line %d\n" % n for n in range(9)) + b"part", 1001.0))
    assert screen.frame(1.25) == [
        " => [a 1/1] RUN a                                                          1.2s",
        " => => # line 4",
        " => => # line 5",
        " => => # line 6",
        " => => # line 7",
        " => => # line 8",
        " => => # part",
        "[+] Building 1.2s (0/1)",
    ]


def test_a_short_step_never_shows_its_log() -> None:
    screen = Screen()
    screen.play(vertex("a"), LogEvent("sha256:a", 1, b"x\n", 1000.0))
    assert len(screen.frame(0.2)) == 2


def test_ended_steps_stay_where_they_are() -> None:
    screen = Screen()
    screen.play(vertex("a"), vertex("b"), LogEvent("sha256:b", 1, b"log\n", 1000.0))
    screen.frame(1)
    screen.play(vertex("b", completed=1001.5), vertex("c", started=1001.5))
    rows = screen.frame(1)
    assert [row.split("]")[0] for row in rows] == [" => [a 1/1", " => [b 1/1", " => [c 1/1", "[+"]
    screen.play(vertex("a", completed=1002.0))
    screen.frame(1)
    assert [row.split("]")[0] for row in screen.terminal.shown()] == [" => [a 1/1", " => [b 1/1", " => [c 1/1", "[+"]


def test_states_of_ended_steps() -> None:
    screen = Screen(colours=False)
    screen.play(
        vertex("a", completed=1000.4),
        vertex("b", completed=1000.0, cached=True),
        vertex("c", completed=1002.0, error="exit code: 1"),
        vertex("d", completed=1002.0, error="build canceled"),
        VertexEvent("sha256:e", "never started"),
    )
    screen.now += 2
    screen.display.close(StagewrightError("x"))
    assert screen.terminal.shown() == [
        " => [a 1/1] RUN a                                                          0.4s",
        " => CACHED [b 1/1] RUN b",
        " => ERROR [c 1/1] RUN c                                                    2.0s",
        " => CANCELED [d 1/1] RUN d                                                 2.0s",
        "[+] Building 2.0s (4/5) FAILED",
    ]
    assert screen.terminal.cursor_visible


def test_transfers_have_bars_where_the_total_is_known() -> None:
    screen = Screen()
    screen.play(
        vertex("a"),
        StatusEvent("sha256:a", "sha256:" + "0123456789abcdef" * 4, 5_000_000, 10_000_000, 1000.5, 1000.0),
        StatusEvent("sha256:a", "transferring context", 2_500_000, 0, 1000.5, 1000.0),
    )
    rows = screen.frame(1)
    assert rows[1] == " => => sha256:0123456789ab " + "━" * 10 + "─" * 10 + "    5.00MB / 10.00MB" + " " * 8 + "1.0s"
    assert rows[2] == " => => transferring context 2.50MB                                         1.0s"


def test_transfers_that_find_no_room_are_counted() -> None:
    screen = Screen()
    screen.play(vertex("a"), *(StatusEvent("sha256:a", f"layer {n}", 1, 9, 0, 1000.0) for n in range(20)))
    rows = screen.frame(1)
    assert rows[6] == " => => and 15 more"
    assert len(rows) == 8


def test_the_region_fits_the_terminal_and_nothing_ended_is_lost() -> None:
    screen = Screen(lines=10)
    letters = [chr(ord("a") + n) for n in range(26)]
    screen.play(vertex("a"))
    for letter in letters[1:]:
        screen.play(vertex(letter), LogEvent(f"sha256:{letter}", 1, b"log\n", 1000.0))
        screen.frame(1)
        screen.play(vertex(letter, completed=screen.now))
        screen.frame(0.1)
    screen.play(vertex("a", completed=screen.now))
    screen.display.close(None)
    rows = screen.terminal.shown()
    assert sorted(row[4:5] + row[5:6] for row in rows[:-1]) == sorted("[" + letter for letter in letters)
    assert rows[-1].endswith("(26/26) FINISHED")


def test_more_running_steps_than_lines() -> None:
    screen = Screen(lines=8)
    screen.play(*(vertex(chr(ord("a") + n)) for n in range(20)))
    rows = screen.frame(1)
    assert rows[-2:] == [" => and 15 more running", "[+] Building 1.0s (0/20)"]
    assert len(rows) == 7


def test_room_for_logs_is_shared() -> None:
    screen = Screen(lines=12)
    log = b"".join(b"line %d\n" % n for n in range(9))
    screen.play(*(event for v in "abc" for event in (vertex(v), LogEvent(f"sha256:{v}", 1, log, 0))))
    rows = screen.frame(1)
    assert sum("#" in row for row in rows) == 7
    assert len(rows) == 11


def test_only_changed_lines_are_painted() -> None:
    screen = Screen()
    screen.play(vertex("a", started=None, completed=1000.0, cached=True), vertex("b"))
    screen.frame(0.01)
    frames = screen.terminal.frames
    screen.frame(0.001)
    assert screen.terminal.frames == frames


@pytest.mark.parametrize("columns", [80, 200, 40, 12, 3])
def test_long_and_wide_names_never_wrap(columns: int) -> None:
    screen = Screen(columns=columns)
    screen.play(
        vertex("a", "[a 1/1] RUN " + "日本語ｗｉｄｅ e\u0301 " * 40),
        vertex("b", "[b 1/1] RUN " + "x" * 500),
        LogEvent("sha256:b", 1, "語\t🚀👨‍👩‍👧".encode() * 100, 1000.0),
        StatusEvent("sha256:b", "y" * 300, 1, 2, 1000.0, 1000.0),
    )
    screen.frame(1)
    screen.display.close(None)


def test_a_narrower_terminal_is_painted_anew() -> None:
    screen = Screen(columns=120)
    screen.play(vertex("a"), vertex("b"))
    screen.frame(1)
    # As a terminal does, rows that became too long are broken in two.
    rows = screen.terminal.rows
    rows[:] = [part for row in rows for part in ([row[:60], row[60:]] if len(row) > 60 else [row])]
    screen.terminal.row = len(rows) - 1
    screen.terminal.columns = 60
    assert [row[:16] for row in screen.frame(1)] == [" => [a 1/1] RUN ", " => [b 1/1] RUN ", "[+] Building 2.0"]


def test_cursor_is_hidden_while_live_and_given_back() -> None:
    screen = Screen()
    screen.play(vertex("a"))
    screen.frame()
    assert not screen.terminal.cursor_visible
    screen.display.close(CanceledError())
    assert screen.terminal.cursor_visible
    assert screen.terminal.shown()[-1].endswith("CANCELED")


def test_cursor_is_given_back_when_the_last_frame_cannot_be_drawn() -> None:
    screen = Screen()
    screen.play(vertex("a"))
    screen.frame()
    write, calls = screen.terminal.write, []

    def fail_once(text: str) -> int:
        calls.append(text)
        if len(calls) == 1:
            raise OSError("gone")
        return write(text)

    screen.terminal.write = fail_once  # type: ignore[method-assign]
    with pytest.raises(OSError):
        screen.display.close(None)
    assert screen.terminal.cursor_visible


def test_cursor_is_given_back_at_once_when_the_process_is_about_to_end() -> None:
    screen = Screen()
    reader, writer = os.pipe()
    screen.terminal.fileno = lambda: writer  # type: ignore[method-assign]
    try:
        screen.display.abandon()
        screen.play(vertex("a"))
        screen.frame()
        screen.display.abandon()
        assert os.read(reader, 100) == b"\x1b[?25h"
    finally:
        os.close(reader)
        os.close(writer)


def test_warnings_follow_the_last_frame() -> None:
    screen = Screen()
    screen.play(vertex("a", completed=1001.0), WarningEvent("sha256:a", "Careful: \x1b[2Jx"))
    screen.display.close(None)
    assert screen.terminal.shown()[-2:] == [" 1 warning found (use --debug to expand):", " - Careful: x"]


def test_no_colours_when_refused() -> None:
    screen = Screen(colours=False)
    written: list[str] = []
    write = screen.terminal.write
    screen.terminal.write = lambda text: written.append(text) or write(text)  # type: ignore[method-assign,func-returns-value]
    screen.play(vertex("a", completed=1001.0, error="no"))
    screen.display.close(None)
    assert "m" not in "".join(written).replace("[a 1/1] RUN a", "")


def test_an_ascii_terminal_gets_ascii() -> None:
    screen = Screen()
    screen.terminal.encoding = "ascii"
    screen.display = TtyDisplay(screen.terminal, size=screen.terminal.size, clock=lambda: screen.now)
    screen.display._ticker.start = lambda: None  # type: ignore[method-assign]
    screen.play(vertex("a", "語" * 200), StatusEvent("sha256:a", "id", 1, 2, 0, 1000.0))
    assert "".join(screen.frame(1)).isascii()


NAMES = st.text(st.one_of(st.characters(), st.sampled_from("\x1b[]0;m\x07\r\n\t日\u0301")), max_size=120)
DIGESTS = st.sampled_from(["sha256:1", "sha256:2", "sha256:3", "sha256:4"])
TIMES = st.one_of(st.none(), st.floats(990, 1010))
EVENTS = st.one_of(
    st.builds(VertexEvent, DIGESTS, NAMES, started=TIMES, completed=TIMES, cached=st.booleans(), error=NAMES),
    st.builds(LogEvent, DIGESTS, st.sampled_from([1, 2]), st.binary(max_size=200), st.floats(990, 1010)),
    st.builds(
        StatusEvent, DIGESTS, NAMES, st.integers(0, 10**13), st.integers(0, 10**13), started=TIMES, completed=TIMES
    ),
    st.builds(WarningEvent, DIGESTS, NAMES),
)


@given(st.lists(EVENTS, max_size=30), st.integers(1, 200), st.integers(1, 30))
def test_any_events_on_any_terminal(events: list[Event], columns: int, lines: int) -> None:
    screen = Screen(columns=max(4, columns), lines=max(4, lines))
    # Warnings are plain text that may wrap.
    for event in events:
        if not isinstance(event, WarningEvent):
            screen.play(event)
            screen.frame(0.3)
    screen.display.close(None)
    assert screen.terminal.cursor_visible or not screen.terminal.frames


def test_why_a_step_missed_the_cache_follows_its_name() -> None:
    screen = Screen()
    screen.play(vertex("a", "[1/2] COPY . .", missed="src/app.py\tchanged"))
    assert screen.frame(1.0)[0].split("  ")[:2] == [" => [1/2] COPY . .", "missed: src/app.py changed"]
