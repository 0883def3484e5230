"""Threads for work that is mostly the kernel's, such as making files: several may be made at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# So many files are made before threads are started that make them.
_FEW = 200
_MAX_THREADS = 4
_MAX_WAITING = 16


class Crew:
    """Does what it is given in the order of the calls, one after the other at first and then several at once.

    A context manager; leaving the block ends what runs and forgets what waits.
    """

    def __init__(self) -> None:
        self._threads = min(os.cpu_count() or 1, _MAX_THREADS)
        self._done = 0
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def do(self, work: Callable[[], None], files: int) -> Future[None] | None:
        """Have `work`, which makes so many files, done now (None) or later. Raises what earlier work has raised."""
        if self._pool is None:
            if self._threads == 1 or self._done + files < _FEW:
                self._done += files
                work()
                return None
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._threads, "copy")
        while len(self._waiting) >= _MAX_WAITING:
            self._waiting.popleft().result()
        future = self._pool.submit(work)
        self._waiting.append(future)
        return future

    def finish(self) -> None:
        """Wait until all is done. Raises what it has raised."""
        while self._waiting:
            self._waiting.popleft().result()
