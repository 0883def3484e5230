"""Who uses the store now: builds hold a lease while they run, and what collects garbage waits for none of them.

Collections wait for each other: one that a build's end has started would else keep a prune from removing anything.

A lease is one lock of the lock file, held shared; a collector needs it alone. The kernel gives a lock back with its
holder's last breath, so that a killed build leaves nothing to be found dead. There is no list of what a build uses,
on purpose: a result that was found but not yet marked as used, a blob whose image has no name yet, a layer that is
about to get a child are all in use, and a list would have to be written before each of them is touched.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from stagewright.cache.locks import LockFile

_NAME = "builds"
_COLLECTION = "collection"


class BuildLease:
    """Keeps all that the store has from being collected, within a `with` block.

    For builds, and for whatever else adds content before it has a name (pull, load). Entering waits for a collection
    that runs, and raises CanceledError where `cancel` is set meanwhile.
    """

    def __init__(self, locks: LockFile, cancel: threading.Event | None = None) -> None:
        self._lock: AbstractContextManager[None] = locks.hold(_NAME, shared=True, cancel=cancel)

    def __enter__(self) -> BuildLease:
        self._lock.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.__exit__(kind, error, tb)


@contextmanager
def collecting(locks: LockFile) -> Iterator[bool]:
    """Whether the store is free of leases; if it is, none is given until the block ends. Waits for no build."""
    with locks.hold(_COLLECTION):
        handle = locks.try_hold(_NAME)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                os.close(handle)
