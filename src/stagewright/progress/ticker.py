"""A thread that calls a display back at an interval, for what must be shown while no event comes."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker:
    """Calls `tick()` every `interval_s` seconds from `start()` until `stop()`.

    A failure of `tick` to write ends the thread; it is kept, and raised by the next `check()`.
    """

    def __init__(self, tick: Callable[[], None], interval_s: float) -> None:
        self._tick = tick
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: OSError | None = None

    def start(self) -> None:
        """Starts the thread; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread and waits for it; a display must not hold its lock here."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Raises the OSError that a tick met, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._tick()
            except OSError as failure:
                self._failure = failure
                return
