"""Ctrl-C and SIGTERM while a build runs: the first asks it to stop, the second ends the process."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def cancel_on_signals(abandon: Callable[[], None]) -> Iterator[threading.Event]:
    """Gives an event that is set by the first SIGINT or SIGTERM; the handlers of before come back at the end.

    A second signal calls `abandon`, which must neither block nor take locks, and ends the process as the signal would.
    """
    cancel = threading.Event()
    received = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            abandon()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received = True
        # Set right here, the event could meet its lock held by the interrupted code, which another thread waits for.
        _thread.start_new_thread(cancel.set, ())

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
