"""The folders in which a process fills drafts of snapshots, and who tells those of dead processes from others.

`<root>/drafts/<folder>` belongs to one process, as the lock on it tells, and all of that one's drafts are in it: a file
system puts what lies in one folder close together, and does not go to a place of the disk that it has not read yet for
each small draft. What is no longer needed leaves by way of the trash. Methods raise OSError.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress

from stagewright.snapshots.trash import Trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stagewright.snapshots.placement import Placement


class Drafts:
    """The drafts below `root`. Safe for use by several threads and several processes at once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.path = os.path.join(root, "drafts")
        self.trash = Trash(os.path.join(root, "trash"), lambda *folder: self._placement().freed(*folder))
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._home: str | None = None
        self._names = 0
        self._placing: Placement | None = None

    def create(self) -> None:
        """Make the folders of a new store. Does nothing where they are there."""
        os.makedirs(self.trash.path, mode=0o755, exist_ok=True)
        try:
            os.mkdir(self.path, 0o755)
        except FileExistsError:
            return
        self._placement().spread()

    def new(self) -> str:
        """A new folder for a draft, where many files may be made quickly; for `trash.remove_soon` in the end."""
        with self._lock:
            if self._home is None or self._placement().is_bad(self._home):
                self._home = self._placed_folder()
            self._names += 1
            path = os.path.join(self._home, str(self._names))
        os.mkdir(path, 0o700)
        return path

    def close(self) -> None:
        """Let go of what is empty, and come back when all that was thrown away is gone."""
        self.trash.close()
        with self._lock:
            self._home = None
            for path in list(self._held):
                # In one that is not empty somebody still writes a draft.
                with suppress(OSError):
                    os.rmdir(path)
                    os.close(self._held.pop(path))

    def clean(self) -> None:
        """Remove the drafts of dead processes."""
        for name in os.listdir(self.path):
            self._clean_folder(os.path.join(self.path, name))

    def new_folder(self) -> str:
        """A folder of this process's own, which goes when it dies, if not before by `remove_folder`."""
        path, lock = self._locked_folder()
        self._held[path] = lock
        return path

    def remove_folder(self, path: str) -> None:
        """Remove a folder that `new_folder` made."""
        self.trash.remove(path)
        os.close(self._held.pop(path))

    def _placed_folder(self) -> str:
        """A new folder, as `new_folder`, in a good place for many files."""
        folders = [self.new_folder()]
        # While those in bad places are there, the file system puts the next one elsewhere.
        while self._placement().is_to_be_left(folders[-1]):
            folders.append(self.new_folder())
        for path in folders[:-1]:
            self.remove_folder(path)
        return folders[-1]

    def _locked_folder(self) -> tuple[str, int]:
        """A new folder, and the descriptor that holds its lock."""
        while True:
            path = os.path.join(self.path, os.urandom(6).hex())
            os.mkdir(path, 0o700)
            try:
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # Until it is locked, a process that cleans may take it for a dead one's.
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    return path, lock
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(lock)

    def _clean_folder(self, path: str) -> None:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.trash.remove(path)
        except BlockingIOError:
            return
        finally:
            os.close(lock)

    def _placement(self) -> Placement:
        if self._placing is None:
            from stagewright.snapshots.placement import Placement

            self._placing = Placement(self.path, os.path.join(self._root, "freed"))
        return self._placing
