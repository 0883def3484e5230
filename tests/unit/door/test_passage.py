"""What a caller sees of a call that is broken off for want of privilege and runs once more behind the door."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from stagewright import privilege
from stagewright.door import outer, passage
from stagewright.errors import DockerfileError, PrivilegeNeededError
from stagewright.progress.events import Event, LogEvent, Sink, VertexEvent, WarningEvent

WARNING = WarningEvent("sha256:a", "careful")
Run = Callable[[Sink, threading.Event], Any]
HERE: list[Run] = []
BEHIND: list[Run] = []


def build(sink: Sink, cancel: threading.Event) -> Any:
    """What is called; behind the door it is another process's."""
    return HERE[0](sink, cancel)


class Passage:
    """Behind the door, without one."""

    def __init__(self, sink: Sink, cancel: threading.Event) -> None:
        self._sink, self._cancel = sink, cancel

    def run(self, function: str, arguments: tuple[object, ...]) -> object:
        assert (function, arguments) == (f"{__name__}:build", ())
        return BEHIND[0](self._sink, self._cancel)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run, Run], list[Event]]:
    """Calls with what happens here and what behind the door; gives the events that the caller gets."""
    monkeypatch.setattr(privilege, "is_privileged", lambda: False)
    monkeypatch.setattr(outer, "Passage", Passage)

    def run(here: Run, behind: Run) -> list[Event]:
        HERE[:], BEHIND[:] = [here], [behind]
        events: list[Event] = []
        assert passage.call(f"{__name__}:build", (), events.append, threading.Event()) == "result"
        return events

    return run


def never(sink: Sink, cancel: threading.Event) -> Any:
    raise AssertionError("the door is opened")


def test_events_are_told_once(call: Callable[[Run, Run], list[Event]]) -> None:
    def here(sink: Sink, cancel: threading.Event) -> Any:
        sink(VertexEvent("sha256:a", "a", started=1.0))
        sink(WARNING)
        sink(VertexEvent("sha256:a", "a", started=1.0, completed=2.0))
        sink(VertexEvent("sha256:b", "b", started=2.0))
        sink(VertexEvent("sha256:b", "b", started=2.0, completed=3.0, error="context canceled"))
        raise PrivilegeNeededError

    def behind(sink: Sink, cancel: threading.Event) -> Any:
        for digest in "ab":
            sink(VertexEvent(f"sha256:{digest}", digest))
            sink(VertexEvent(f"sha256:{digest}", digest, started=5.0))
            sink(LogEvent(f"sha256:{digest}", 1, b"x", 5.5))
            sink(VertexEvent(f"sha256:{digest}", digest, started=5.0, completed=6.0))
        sink(WARNING)
        return "result"

    assert call(here, behind) == [
        VertexEvent("sha256:a", "a", started=1.0),
        WARNING,
        VertexEvent("sha256:a", "a", started=1.0, completed=2.0),
        VertexEvent("sha256:b", "b", started=2.0),
        LogEvent("sha256:b", 1, b"x", 5.5),
        VertexEvent("sha256:b", "b", started=2.0, completed=6.0),
    ]


def test_failures_are_told_where_the_call_ends_here(call: Callable[[Run, Run], list[Event]]) -> None:
    failed = VertexEvent("sha256:a", "a", started=1.0, completed=2.0, error="no")
    events: list[Event] = []

    def here(sink: Sink, cancel: threading.Event) -> Any:
        sink(failed)
        raise DockerfileError("no")

    HERE[:] = [here]
    with pytest.raises(DockerfileError):
        passage.call(f"{__name__}:build", (), events.append, threading.Event())
    assert events == [failed]


def test_the_door_stays_shut_where_nothing_takes_privilege(call: Callable[[Run, Run], list[Event]]) -> None:
    assert call(lambda sink, cancel: "result", never) == []
