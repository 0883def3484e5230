"""What a running vertex tells, and what of it reaches the sink."""

from __future__ import annotations

import threading

import pytest

from stagewright.errors import CanceledError
from stagewright.progress import reporter as reporter_module
from stagewright.progress.events import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from stagewright.progress.reporter import Emitter, Reporter


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def reporter(events: list[Event]) -> Reporter:
    return Reporter(Emitter(events.append), VertexEvent("sha256:1", "name"))


def test_a_vertex_starts_and_ends(reporter: Reporter, events: list[Event]) -> None:
    reporter.start()
    reporter.log(2, b"text")
    reporter.end(error="it broke")
    started, log, ended = events
    assert isinstance(started, VertexEvent) and started.started is not None and started.completed is None
    assert isinstance(log, LogEvent) and (log.vertex, log.stream, log.data) == ("sha256:1", 2, b"text")
    assert isinstance(ended, VertexEvent) and ended.error == "it broke"
    assert ended.started == started.started and ended.completed is not None


def test_one_that_never_started_ends_when_it_began(reporter: Reporter, events: list[Event]) -> None:
    reporter.end(cached=True)
    (ended,) = events
    assert isinstance(ended, VertexEvent) and ended.cached and ended.started == ended.completed


@pytest.mark.parametrize(
    ("error", "text"),
    [(CanceledError(), "build canceled"), (KeyboardInterrupt(), "canceled"), (OSError("full"), "full")],
)
def test_a_vertex_beside_the_graph_ends_with_its_block(events: list[Event], error: BaseException, text: str) -> None:
    emitter = Emitter(events.append)
    with emitter.vertex("sha256:2", "[internal]"):
        pass
    with pytest.raises(type(error)), emitter.vertex("sha256:3", "[internal]"):
        raise error
    last = {event.digest: event for event in events if isinstance(event, VertexEvent)}
    assert (last["sha256:2"].error, last["sha256:3"].error) == ("", text)
    assert all(event.completed is not None for event in last.values())


def test_rows_end_with_what_they_had(reporter: Reporter, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    with reporter.status("blob", 100) as row:
        for count in range(1, 101):
            row.update(count)
    first, *_, last = events
    assert isinstance(first, StatusEvent) and (first.current, first.total, first.completed) == (0, 100, None)
    assert isinstance(last, StatusEvent) and last.current == 100 and last.completed is not None
    # A person cannot see a hundred updates in no time.
    assert len(events) < 50
    events.clear()
    monkeypatch.setattr(reporter_module, "_UPDATE_INTERVAL_S", 0)
    with reporter.status("blob") as row:
        for count in range(1, 101):
            row.update(count, 100)
    assert len(events) == 102


def test_a_row_of_the_vertex_ends_with_it(reporter: Reporter, events: list[Event]) -> None:
    reporter.row("context").update(5)
    reporter.end()
    row, ended = events[-2:]
    assert isinstance(row, StatusEvent) and (row.id, row.current) == ("context", 5) and row.completed is not None
    assert isinstance(ended, VertexEvent)


def test_warnings_are_kept_without_a_sink() -> None:
    emitter = Emitter(None)
    Reporter(emitter, VertexEvent("sha256:1", "name")).warn("old", detail=("more",))
    assert emitter.warnings == [WarningEvent("sha256:1", "old", detail=("more",))]


def test_a_sink_is_called_by_one_thread_at_a_time() -> None:
    inside = threading.Lock()

    def sink(event: Event) -> None:
        assert inside.acquire(blocking=False)
        inside.release()

    reporter = Reporter(Emitter(sink), VertexEvent("sha256:1", "name"))
    failures: list[BaseException] = []

    def send() -> None:
        try:
            for _ in range(300):
                reporter.log(1, b"x")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
