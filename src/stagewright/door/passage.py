"""Runs a call here if it can, and else anew behind the door, so that its caller sees one run."""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

from stagewright import privilege
from stagewright.cancellation import LinkedEvent
from stagewright.errors import PrivilegeNeededError
from stagewright.progress.events import Event, Sink, VertexEvent, WarningEvent
from stagewright.records import replace


def call(function: str, arguments: tuple[Any, ...], sink: Sink | None, cancel: threading.Event) -> Any:
    """Call `function` ("module:name") with the arguments, a sink and a cancel event; answers what it returns.

    It is tried in this process. Where it raises PrivilegeNeededError it runs once more, in a child process that is
    root of a user namespace: arguments and results are pickled, events come back as they happen. It must be safe to
    be broken off at the point where it asks for privilege. Where that is refused, it runs here without any, if this
    process has what a chroot takes. Raises what the function raises.
    """
    module, _, name = function.partition(":")
    run = getattr(import_module(module), name)
    if privilege.is_privileged():
        return run(*arguments, sink, cancel)
    trial = _Trial(sink)
    try:
        return run(*arguments, trial, LinkedEvent(cancel))
    except PrivilegeNeededError:
        pass
    except BaseException:
        trial.release()
        raise
    from stagewright.door.outer import Passage

    try:
        return Passage(trial.once_more, cancel).run(function, arguments)
    except PrivilegeNeededError as refused:
        privilege.forgo(refused)
    return run(*arguments, trial.once_more, cancel)


class _Trial:
    """Passes the events of a first run on, but for failures, which may only mean that there is no privilege."""

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink or (lambda event: None)
        self._held: list[Event] = []
        self._started: dict[str, float] = {}
        self._ended: set[str] = set()
        self._warned: list[WarningEvent] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, VertexEvent):
            if event.error:
                self._held.append(event)
                return
            if event.started is not None:
                self._started[event.digest] = event.started
            if event.completed is not None:
                self._ended.add(event.digest)
        elif isinstance(event, WarningEvent):
            self._warned.append(event)
        self._sink(event)

    def release(self) -> None:
        """The run was the only one: pass on what was held back."""
        for event in self._held:
            self._sink(event)

    def once_more(self, event: Event) -> None:
        """An event of the second run: passed on unless the first one has told as much."""
        if isinstance(event, WarningEvent):
            if event not in self._warned:
                self._sink(event)
        elif isinstance(event, VertexEvent):
            self._vertex_once_more(event)
        elif event.vertex not in self._ended:
            self._sink(event)

    def _vertex_once_more(self, event: VertexEvent) -> None:
        started = self._started.get(event.digest)
        if started is None:
            self._sink(event)
        elif event.digest not in self._ended and event.completed is not None:
            self._sink(replace(event, started=started))
