"""Runs a call here if it can, and else anew behind the door, so that its caller sees one run."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from stagewright import privilege
from stagewright.cancellation import LinkedEvent
from stagewright.door import ids
from stagewright.errors import PrivilegeNeededError, StagewrightError
from stagewright.progress.events import Event, Sink, VertexEvent, WarningEvent

_CANCEL_CHECK_S = 0.1


def call(function: str, arguments: tuple[Any, ...], sink: Sink | None, cancel: threading.Event) -> Any:
    """Call `function` ("module:name") with the arguments, a sink and a cancel event; answers what it returns.

    It is tried in this process. Where it raises PrivilegeNeededError it runs once more, in a child process that is
    root of a user namespace: arguments and results are pickled, events come back as they happen. It must be safe to
    be broken off at the point where it asks for privilege. Raises what the function raises.
    """
    module, _, name = function.partition(":")
    run = getattr(import_module(module), name)
    if privilege.is_privileged():
        return run(*arguments, sink, cancel)
    trial = _Trial(sink)
    try:
        result = run(*arguments, trial, LinkedEvent(cancel))
    except PrivilegeNeededError:
        # The door writes the events of a second run over what came of this one.
        return _Passage(trial.once_more, cancel).run(function, arguments)
    except BaseException:
        trial.release()
        raise
    return result


class _Trial:
    """Passes the events of a first run on, but for failures, which may only mean that there is no privilege."""

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink or (lambda event: None)
        self._held: list[Event] = []
        self._ended: set[str] = set()
        self._warned: list[WarningEvent] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, VertexEvent):
            if event.error:
                self._held.append(event)
                return
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
        elif (event.digest if isinstance(event, VertexEvent) else event.vertex) not in self._ended:
            self._sink(event)


class _Passage:
    """One child process behind the door."""

    def __init__(self, sink: Callable[[Event], None], cancel: threading.Event) -> None:
        self._sink = sink
        self._cancel = cancel
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._pid = _spawn(theirs.fileno())

    def run(self, function: str, arguments: tuple[Any, ...]) -> Any:
        from stagewright.door import wire

        try:
            self._let_in()
            wire.send(self._channel, wire.CALL, (function, arguments))
            kind, value = self._relay()
        except (EOFError, BrokenPipeError):
            kind, value = wire.ERROR, None
        finally:
            self._channel.close()
            status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if kind == wire.RESULT:
            return value
        if value is None:
            value = PrivilegeNeededError(f"the process in the user namespace ended early, with status {status}")
        raise value

    def _let_in(self) -> None:
        """Wait until the child has its namespace, and give it its ids."""
        from stagewright.door import wire

        kind, value = wire.receive(self._channel)
        if kind == wire.ERROR:
            _refuse(value)
        ids.write(self._pid, ids.best_id_map())
        wire.send(self._channel, wire.MAPPED)

    def _relay(self) -> tuple[str, Any]:
        """Pass events on until the call has ended; answers the last message."""
        from stagewright.door import wire

        told = False
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            # An Event has no descriptor to wait for.
            while not poll.poll(None if told else _CANCEL_CHECK_S * 1000):
                if self._cancel.is_set():
                    wire.send(self._channel, wire.CANCEL)
                    told = True
            kind, value = wire.receive(self._channel)
            if kind != wire.EVENT:
                return kind, value
            self._sink(value)


def _refuse(error: StagewrightError) -> NoReturn:
    raise PrivilegeNeededError(error.message, hint="run it as root, or see: stagewright info")


def _spawn(fd: int) -> int:
    """Start the inner side with the socket `fd` as its descriptor 3; answers its PID."""
    packages = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.append({packages!r}); from stagewright.door import inside; inside.main(3)"
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-c", code],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, 3)],
    )
