"""An event that follows another one, for work that can be stopped by itself and with all else."""

from __future__ import annotations

import threading
import time

_LOOK_INTERVAL_S = 0.1


class LinkedEvent(threading.Event):
    """An event that is also set when `outer` is; setting it leaves `outer` as it is."""

    def __init__(self, outer: threading.Event) -> None:
        super().__init__()
        self._outer = outer

    def is_set(self) -> bool:
        """Whether one of the two is set."""
        return super().is_set() or self._outer.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for one of the two, at most `timeout` seconds; answers whether one is set."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = _LOOK_INTERVAL_S if end is None else min(_LOOK_INTERVAL_S, end - time.monotonic())
            if left <= 0:
                break
            # Nothing can wait for two events.
            super().wait(left)
        return self.is_set()


class Deadline(LinkedEvent):
    """An event that is also set when `outer` is, and `seconds` after it was made."""

    def __init__(self, outer: threading.Event, seconds: float) -> None:
        super().__init__(outer)
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether it is set because the time is over, and for nothing else."""
        return time.monotonic() >= self._end and not super().is_set()

    def is_set(self) -> bool:
        """Whether one of the two is set, or the time is over."""
        return super().is_set() or time.monotonic() >= self._end
