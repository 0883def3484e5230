"""The outer side of the door: starts the inner one, gives its user namespace the ids, and relays to and fro."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from stagewright.door import ids, wire
from stagewright.errors import PrivilegeNeededError
from stagewright.progress.events import Event

_CANCEL_CHECK_S = 0.1


class Passage:
    """One child process behind the door, for one call; `sink` gets its events, `cancel` stops it when set."""

    def __init__(self, sink: Callable[[Event], None], cancel: threading.Event) -> None:
        self._sink = sink
        self._cancel = cancel
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._pid = _spawn(theirs.fileno())

    def run(self, function: str, arguments: tuple[Any, ...]) -> Any:
        """Run the function ("module:name") there; answers what it returns, raises what it raises."""
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
        kind, value = wire.receive(self._channel)
        if kind == wire.ERROR:
            raise value
        ids.write(self._pid, ids.best_id_map())
        wire.send(self._channel, wire.MAPPED)

    def _relay(self) -> tuple[str, Any]:
        """Pass events on until the call has ended; answers the last message."""
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
