"""Ctrl-C and SIGTERM while a build runs: the first asks it to stop, the second ends the process."""

from __future__ import annotations

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
    from queue import SimpleQueue

    cancel = threading.Event()
    wishes: SimpleQueue[bool] = SimpleQueue()
    received = False

    def relay() -> None:
        if wishes.get():
            cancel.set()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            abandon()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received = True
        # Setting the event right here could meet its lock held by the interrupted code; the queue's put cannot.
        wishes.put(True)

    relayer = threading.Thread(target=relay, name="cancel", daemon=True)
    relayer.start()
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        wishes.put(False)
        relayer.join()
