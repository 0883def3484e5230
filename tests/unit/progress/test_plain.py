import io

from stagewright.errors import SourceRange, SourceText
from stagewright.progress.events import LogEvent, StatusEvent, VertexEvent, WarningEvent
from stagewright.progress.plain import MAX_PENDING_LINES, PlainDisplay
from stagewright.records import replace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(**options: bool) -> tuple[PlainDisplay, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return PlainDisplay(stream, clock=clock, **options), stream, clock


RUN = VertexEvent("sha256:a", "[build 2/4] RUN make", started=10.0)
PIP = VertexEvent("sha256:b", "[deps 2/2] RUN pip install", started=10.0)


def test_a_step_from_start_to_end() -> None:
    display, stream, _ = make()
    display(replace(RUN, started=None))
    assert stream.getvalue() == ""
    display(RUN)
    display(LogEvent("sha256:a", 1, b"hello\nwor", 10.1234))
    display(LogEvent("sha256:a", 1, b"ld\n", 11))
    display(replace(RUN, completed=12.44))
    display.close(None)
    assert stream.getvalue() == ("#1 [build 2/4] RUN make\n#1 0.123 hello\n#1 0.123 world\n#1 DONE 2.4s\n")


def test_ends() -> None:
    display, stream, _ = make()
    display(replace(RUN, completed=10.0, cached=True))
    display(replace(PIP, completed=11.0, error="process failed:\nexit code: 1"))
    display(VertexEvent("sha256:c", "[c] RUN", started=1.0, completed=2.0, error="build canceled"))
    display(VertexEvent("sha256:d", "[d] RUN", completed=2.0))
    assert stream.getvalue() == (
        "#1 [build 2/4] RUN make\n#1 CACHED\n\n"
        "#2 [deps 2/2] RUN pip install\n#2 ERROR: process failed: exit code: 1\n\n"
        "#3 [c] RUN\n#3 CANCELED\n\n"
        "#4 [d] RUN\n#4 DONE\n"
    )


def test_streams_of_a_step_are_buffered_apart() -> None:
    display, stream, _ = make()
    display(RUN)
    display(LogEvent("sha256:a", 1, b"out", 10))
    display(LogEvent("sha256:a", 2, b"err\n", 11))
    display(LogEvent("sha256:a", 1, b"put\n", 12))
    assert stream.getvalue().splitlines()[1:] == ["#1 1.000 err", "#1 0.000 output"]


def test_another_step_waits_until_the_current_one_is_silent() -> None:
    display, stream, clock = make()
    display(RUN)
    display(PIP)
    display(LogEvent("sha256:b", 1, b"b\n", 10))
    assert "#2" not in stream.getvalue()
    clock.now += 2
    display.tick()
    display.close(None)
    assert stream.getvalue() == ("#1 [build 2/4] RUN make\n#1 ...\n\n#2 [deps 2/2] RUN pip install\n#2 0.000 b\n")


def test_another_step_does_not_wait_for_ever() -> None:
    display, stream, clock = make()
    display(RUN)
    display(PIP)
    for _ in range(12):
        clock.now += 0.5
        display(LogEvent("sha256:a", 1, b"a\n", 10))
    display.close(None)
    assert (
        "#1 ...\n\n#2 [deps 2/2] RUN pip install\n#2 ...\n\n#1 [build 2/4] RUN make\n#1 0.000 a\n" in stream.getvalue()
    )


def test_a_step_that_ended_is_written_at_once_and_the_other_resumes() -> None:
    display, stream, _ = make()
    display(RUN)
    display(PIP)
    display(replace(PIP, completed=11.0))
    display(LogEvent("sha256:a", 1, b"more\n", 12))
    display.close(None)
    assert stream.getvalue() == (
        "#1 [build 2/4] RUN make\n#1 ...\n\n"
        "#2 [deps 2/2] RUN pip install\n#2 DONE 1.0s\n\n"
        "#1 [build 2/4] RUN make\n#1 2.000 more\n"
    )


def test_statuses() -> None:
    display, stream, _ = make()
    display(RUN)
    layer = StatusEvent("sha256:a", "sha256:aaa", 0, 3_370_000, 10.0, 10.0)
    display(layer)
    display(replace(layer, current=1_050_000, timestamp=10.2))
    display(replace(layer, current=1_050_000, timestamp=10.6))
    display(replace(layer, current=1_060_000, timestamp=11.2))
    done = replace(layer, current=3_370_000, timestamp=11.5, completed=11.5)
    display(done)
    display(done)
    display(StatusEvent("sha256:a", "transferring context", 32, 0, 10.0, 10.0))
    assert stream.getvalue().splitlines()[1:] == [
        "#1 sha256:aaa 0B / 3.37MB",
        "#1 sha256:aaa 1.05MB / 3.37MB 0.6s",
        "#1 sha256:aaa 3.37MB / 3.37MB 1.5s done",
        "#1 transferring context 32B",
    ]


def test_an_unended_line_is_written_when_the_step_ends() -> None:
    display, stream, _ = make()
    display(RUN)
    display(LogEvent("sha256:a", 1, b"no newline", 10))
    display(replace(RUN, completed=11.0))
    assert stream.getvalue().splitlines()[1:] == ["#1 0.000 no newline", "#1 DONE 1.0s"]


def test_what_waits_does_not_fill_the_memory() -> None:
    display, stream, _ = make()
    display(RUN)
    display(LogEvent("sha256:a", 1, b"a\n", 10))
    display(PIP)
    display(LogEvent("sha256:b", 1, b"b\n" * (MAX_PENDING_LINES - 1), 10))
    assert "b\n" not in stream.getvalue()
    display(LogEvent("sha256:b", 1, b"b\n", 10))
    assert stream.getvalue().count(" b\n") == MAX_PENDING_LINES


def test_close_writes_what_waits() -> None:
    display, stream, _ = make()
    display(RUN)
    display(PIP)
    display(LogEvent("sha256:b", 1, b"last words", 10))
    display.close(KeyboardInterrupt())
    assert stream.getvalue().endswith("#2 [deps 2/2] RUN pip install\n#2 0.000 last words\n")


def test_hostile_names_and_logs_are_neutralised() -> None:
    display, stream, _ = make()
    display(VertexEvent("sha256:x", "[x] RUN a\n#9 DONE\x1b]0;owned\x07", started=0.0))
    display(LogEvent("sha256:x", 1, b"\x1b[2J\x1b[31mred\x1b]0;t\x07 \xff\x00\x07\n", 0.0))
    assert stream.getvalue() == "#1 [x] RUN a #9 DONE\n#1 0.000 \x1b[31mred \ufffd\x1b[0m\n"


def test_colours_of_logs_can_be_refused() -> None:
    display, stream, _ = make(colours=False)
    display(RUN)
    display(LogEvent("sha256:a", 1, b"\x1b[31mred\x1b[0m\n", 10.0))
    assert stream.getvalue().endswith("#1 0.000 red\n")


SOURCE = SourceText("Dockerfile", "FROM scratch\nENV A=$B\n")
WARNING = WarningEvent(
    "sha256:a",
    "UndefinedVar: Usage of undefined variable '$B'",
    detail=("Variables should be defined",),
    url="https://example.com/x",
    location=SourceRange(SOURCE, 2, 2),
)


def test_warnings_come_at_the_end() -> None:
    display, stream, _ = make()
    display(replace(RUN, completed=11.0))
    display(replace(WARNING, vertex=""))
    display.close(None)
    assert stream.getvalue().endswith(
        "#1 DONE 1.0s\n\n 1 warning found (use --debug to expand):\n"
        " - UndefinedVar: Usage of undefined variable '$B' (line 2)\n"
    )


def test_warnings_in_full() -> None:
    display, stream, _ = make(expand_warnings=True)
    display(WARNING)
    display.close(None)
    text = stream.getvalue()
    assert "#1 WARN: UndefinedVar: Usage of undefined variable '$B'\n" in text
    for part in ("Variables should be defined", "More info: https://example.com/x", "Dockerfile:2", ">>> ENV A=$B"):
        assert part in text


def test_a_warning_about_an_ended_vertex_stands_alone() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display(VertexEvent("a", "first", started=1.0, completed=2.0))
    display(WarningEvent("a", "Rule: late (line 3)"))
    display(WarningEvent("a", "Other: late (line 4)"))
    lines = stream.getvalue().splitlines()
    assert lines == ["#1 first", "#1 DONE 1.0s", "#1 WARN: Rule: late (line 3)", "#1 WARN: Other: late (line 4)"]


def test_why_a_step_missed_the_cache_is_its_first_line() -> None:
    out = io.StringIO()
    display = PlainDisplay(out)
    display(VertexEvent("sha256:1", "RUN a", started=1.0, missed="src/app.py changed"))
    display(LogEvent("sha256:1", 1, b"hello\n", 1.5))
    display(VertexEvent("sha256:1", "RUN a", started=1.0, completed=2.0, missed="src/app.py changed"))
    display.close(None)
    assert out.getvalue() == "#1 RUN a\n#1 missed: src/app.py changed\n#1 0.500 hello\n#1 DONE 1.0s\n"
