"""What is done when a build has ended, by processes of their own that nobody waits for: a sync, and garbage collection.

A sync of the disk follows each build that has made something (see `content.unsynced`). Garbage is collected now and
then, and where a build that was killed has left something. Like any collection this one does what is
safe at any time, and the rest only if no build runs; a build that begins meanwhile waits for its end.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from stagewright.cache.leases import collecting
from stagewright.cache.locks import LockFile
from stagewright.content.unsynced import is_asked, is_under_way
from stagewright.errors import StagewrightError
from stagewright.state import COLLECTED

_INTERVAL_S = 600
# The processes that this one has started.
_children: set[int] = set()
_LEFTOVERS = (("snapshots", "drafts"), ("snapshots", "trash"), ("content", "ingest"))


def collect_afterwards(root: str, config: str | None, env: Mapping[str, str]) -> None:
    """Have garbage collected in the state directory `root`, if that is due; `config` is as for `config.load`.

    A build is what it is, whether this works or not.
    """
    _reap()
    with suppress(OSError, StagewrightError):
        if _is_due(root):
            from stagewright.config import load

            if load(config, env).gc is not None:
                _start("afterwards", [root] if config is None else [root, config])


def sync_before(root: str) -> None:
    """Have synced what a build before has left, if its sync was killed with all processes of its container."""
    with suppress(OSError):
        if is_asked(root) and not is_under_way(root):
            _start_sync(root)


def sync_afterwards(root: str) -> None:
    """Have the state directory `root` synced, if there is something to sync."""
    with suppress(OSError):
        if is_asked(root):
            child = _start_sync(root)
            # In a container all processes end with the first one.
            if os.getpid() == 1:
                os.waitpid(child, 0)


def _is_due(root: str) -> bool:
    """Whether there is something to do, and nobody who will do it later."""
    due = any(_has_entries(os.path.join(root, *parts)) for parts in _LEFTOVERS) or _is_long_ago(root)
    if not due:
        return False
    from pathlib import Path

    with collecting(LockFile(Path(root, "locks"))) as alone:
        return alone


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _is_long_ago(root: str) -> bool:
    path = os.path.join(root, COLLECTED)
    try:
        # A time in the future is of a clock that was wrong.
        return not 0 <= time.time() - os.stat(path).st_mtime < _INTERVAL_S
    except FileNotFoundError:
        _touch(path)
        return False


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.utime(path)


def _start_sync(root: str) -> int:
    # It needs nothing that is not Python's or ours, and starts in half the time without looking for that.
    return _start("syncing", [root], "-I", "-S")


def _start(module: str, arguments: Sequence[str], *flags: str) -> int:
    """Start the `main` of a module in a process of its own; its PID."""
    packages = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = f"import sys; sys.path.append({packages!r}); from stagewright import {module}; {module}.main()"
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        # Out of the session, so that a terminal that is closed or Ctrl-C do not end it.
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", *flags, "-c", code, *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, nowhere, number) for number in (0, 1, 2)],
            setsid=True,
        )
    finally:
        os.close(nowhere)
    _children.add(child)
    return child


def _reap() -> None:
    """Take leave of collections that have ended: a program that calls the library may live long."""
    for child in tuple(_children):
        with suppress(ChildProcessError):
            if not os.waitpid(child, os.WNOHANG)[0]:
                continue
        _children.discard(child)


def main() -> None:
    """Collect garbage: the process's arguments are the state directory and, perhaps, the configuration file."""
    from stagewright.config import load
    from stagewright.door import passage

    root, *config = sys.argv[1:]
    os.nice(19)
    with suppress(OSError, StagewrightError):
        policies = load(config[0] if config else None, os.environ).gc
        if policies is not None:
            _touch(os.path.join(root, COLLECTED))
            passage.call("stagewright.upkeep:reclaim", (root, policies), None, threading.Event())
