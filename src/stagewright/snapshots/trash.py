"""Folders on their way out: renamed at once, so that nobody takes them for what they were, and removed afterwards."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from stagewright.snapshots import volatile
from stagewright.snapshots.tree import remove_tree


class Trash:
    """The folder `path`, and a thread that removes what was put there. Methods raise OSError.

    `on_freed` is called with the inode number of each folder that was removed, and how many files and folders it was.
    """

    def __init__(self, path: str, on_freed: Callable[[int, int], None] = lambda inode, count: None) -> None:
        self.path = path
        self._on_freed = on_freed
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        self._removing = 0
        self._thread: threading.Thread | None = None
        self._failure: OSError | None = None

    def add(self, path: str) -> str | None:
        """Only move a folder to the trash, and answer where it is now: None if it was gone."""
        target = os.path.join(self.path, os.urandom(8).hex())
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return None  # Another process cleans, too.
        return target

    def remove(self, path: str) -> None:
        """Remove a folder by way of the trash."""
        moved = self.add(path)
        if moved is not None:
            self._remove(moved)

    def remove_soon(self, path: str) -> None:
        """As `remove`, of a draft, but for the removal itself, for which `close` waits."""
        moved = self.add(path)
        if moved is None:
            return
        with self._changed:
            self._waiting.append(moved)
            self._removing += 1
            if self._thread is None:
                # What it leaves when the process ends, the next one removes.
                self._thread = threading.Thread(target=self._work, name="remove-trash", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Come back when all that `remove_soon` got is gone; raises what went wrong with any of it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._removing)
            failure, self._failure = self._failure, None
            self._thread = None
            self._changed.notify_all()
        if failure is not None:
            raise failure

    def empty(self) -> None:
        """Remove all that is in the trash, whoever put it there."""
        for name in os.listdir(self.path):
            self._remove(os.path.join(self.path, name))

    def _remove(self, path: str) -> None:
        try:
            inode = os.lstat(path).st_ino
        except FileNotFoundError:
            return  # Another process empties the trash, too.
        self._on_freed(inode, remove_tree(path))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._thread is not threading.current_thread())
                if not self._waiting:
                    return
                path = self._waiting.pop()
            failure = None
            # Of a draft that became a snapshot there is no more, and to look for more takes most of the time.
            volatile.clear(os.path.join(path, "work"))
            try:
                self._remove(path)
            except OSError as error:
                failure = error
            with self._changed:
                self._removing -= 1
                self._failure = failure or self._failure
                self._changed.notify_all()
