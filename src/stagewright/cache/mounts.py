"""The folders behind `RUN --mount=type=cache`, and who may use one when.

A cache mount's identity (`id`, its base and whether the base is shared) leads to one folder or, with
`sharing=private`, to as many as were ever used at once. Folders persist whether a step fails or not.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stagewright.cache.locks import LockFile
from stagewright.content.db import Database
from stagewright.content.folders import make_private
from stagewright.graph.ops import Sharing

# What a folder's name and this make is the name of a note of where it has been moved to.
_LENT = ".lent"


class CacheMounts:
    """Folders below `root`, one or more an identity. Safe between threads and processes."""

    def __init__(self, root: Path, db: Database, locks: LockFile) -> None:
        self._root = root
        self._db = db
        self._locks = locks
        # Is given each new folder, by its identity and its path, to bring back what a cache from elsewhere has for it.
        self.seed: Callable[[str, str], None] = lambda identity, folder: None

    @contextmanager
    def use(
        self, identity: str, sharing: Sharing, create: Callable[[str], None], cancel: threading.Event | None
    ) -> Iterator[str]:
        """The absolute folder of a cache mount, held as `sharing` asks.

        `create` is called with the path of a new, empty folder that it may fill and chown. `locked` waits for other
        holders, `shared` waits for `locked` ones only, `private` never waits but takes another folder.
        """
        # A Dockerfile may hold any bytes, the database only characters.
        identity = identity.encode(errors="backslashreplace").decode()
        if sharing == "private":
            handle, folder = self._free_folder(identity, create, cancel)
            try:
                self._bring_back(folder)
                self._note_change(folder)
                yield folder
            finally:
                os.close(handle)
            return
        folder = self._first_folder(identity, create, cancel)
        with self._locks.hold(f"mount/{folder}", shared=sharing == "shared", cancel=cancel):
            self._bring_back(folder)
            self._note_change(folder)
            yield folder

    def _note_change(self, folder: str) -> None:
        """Note that a folder, which the caller holds, is about to be changed."""
        self._db.unsynced.note_change("cache mount", os.path.basename(folder))

    def forget_lost(self) -> int:
        """Forget folders that were changed shortly before the machine stopped; `unnamed` has them then. How many."""
        lost = self._db.unsynced.lost("cache mount")
        with self._db.transaction():
            for name in lost:
                self._db.execute("DELETE FROM cache_mounts WHERE dir = ?", (name,))
        return len(lost)

    def is_used(self, name: str) -> bool:
        """Whether somebody holds the folder of this name."""
        return self._locks.is_held(f"mount/{self._root / name}")

    def rows(self) -> list[tuple[str, str, float]]:
        """All cache mounts, the oldest first: identity, absolute folder, and when it was last used (Unix seconds)."""
        rows = self._db.query("SELECT id, dir, last_used FROM cache_mounts ORDER BY created, dir")
        return [(identity, str(self._root / name), float(last_used)) for identity, name, last_used in rows]

    @contextmanager
    def alone(self, identity: str, cancel: threading.Event | None) -> Iterator[str | None]:
        """The first folder of an identity, which nobody else uses within the block; None where there is none."""
        folders = self._folders(identity)
        if not folders:
            yield None
            return
        with self._locks.hold(f"mount/{folders[0]}", cancel=cancel):
            self._bring_back(folders[0])
            yield folders[0] if os.path.isdir(folders[0]) else None

    def ensure(self, identity: str, create: Callable[[str], None], cancel: threading.Event | None) -> bool:
        """Have a folder for an identity, made by `create` as for `use`; whether it had to be made."""
        with self._locks.hold(f"mount-create/{identity}", cancel=cancel):
            if self._folders(identity):
                return False
            self._new_folder(identity, create)
            return True

    def forget(self, identity: str, remove: Callable[[str], object]) -> bool:
        """Forget all folders of an identity, which `remove` removes; False, and nothing else, where one is in use."""
        with self._locks.hold(f"mount-create/{identity}"):
            held = [(folder, self._locks.try_hold(f"mount/{folder}")) for folder in self._folders(identity)]
            try:
                if any(handle is None for _, handle in held):
                    return False
                for folder, _ in held:
                    self._bring_back(folder)
                    self._db.execute("DELETE FROM cache_mounts WHERE dir = ?", (os.path.basename(folder),))
                    remove(folder)
            finally:
                for _, handle in held:
                    if handle is not None:
                        os.close(handle)
        return True

    def lent(self, folder: str, path: str) -> None:
        """Note that a folder, which the caller holds, is moved to an absolute path for a while."""
        with open(folder + _LENT, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(path)

    def returned(self, folder: str) -> None:
        """Note that a folder is back."""
        os.unlink(folder + _LENT)

    def unnamed(self) -> list[str]:
        """The absolute folders that no row names; some may be in the making while builds run."""
        known = {name for (name,) in self._db.query("SELECT dir FROM cache_mounts")}
        names = sorted(name for name in _names(self._root) if name not in known)
        return [str(self._root / name) for name in names if name.removesuffix(_LENT) not in known]

    def lent_notes(self) -> list[str]:
        """The names of the notes of folders that are moved."""
        return sorted(note for note in _names(self._root) if note.endswith(_LENT))

    def bring_back(self) -> None:
        """Move folders back that processes had moved and died; what running builds hold is left alone."""
        for note in self.lent_notes():
            folder = str(self._root / note.removesuffix(_LENT))
            handle = self._locks.try_hold(f"mount/{folder}")
            if handle is not None:
                self._bring_back(folder)
                os.close(handle)

    def _bring_back(self, folder: str) -> None:
        """Have a folder, which the caller holds, in its place, wherever a process that died has left it."""
        try:
            with open(folder + _LENT, encoding="utf-8", errors="surrogateescape") as file:
                path = file.read()
        except FileNotFoundError:
            return
        if not os.path.lexists(folder):
            try:
                os.rename(path, folder)
            except (FileNotFoundError, NotADirectoryError):
                # The step had removed it, or the tree that it was in is gone.
                os.mkdir(folder)
        self.returned(folder)

    def _folders(self, identity: str) -> list[str]:
        rows = self._db.query("SELECT dir FROM cache_mounts WHERE id = ? ORDER BY created, dir", (identity,))
        return [str(self._root / row[0]) for row in rows]

    def _first_folder(self, identity: str, create: Callable[[str], None], cancel: threading.Event | None) -> str:
        with self._locks.hold(f"mount-create/{identity}", cancel=cancel):
            folders = self._folders(identity)
            folder = folders[0] if folders else self._new_folder(identity, create)
        self._db.execute("UPDATE cache_mounts SET last_used = ? WHERE dir = ?", (time.time(), os.path.basename(folder)))
        return folder

    def _free_folder(
        self, identity: str, create: Callable[[str], None], cancel: threading.Event | None
    ) -> tuple[int, str]:
        with self._locks.hold(f"mount-create/{identity}", cancel=cancel):
            for folder in self._folders(identity):
                handle = self._locks.try_hold(f"mount/{folder}")
                if handle is not None:
                    return handle, folder
            folder = self._new_folder(identity, create)
            handle = self._locks.try_hold(f"mount/{folder}")
        if handle is None:  # pragma: no cover - a name of random bytes that nobody else can know yet
            raise RuntimeError("a new cache folder is locked")
        return handle, folder

    def _new_folder(self, identity: str, create: Callable[[str], None]) -> str:
        name = os.urandom(8).hex()
        folder = self._root / name
        make_private(self._root)
        folder.mkdir()
        create(str(folder))
        self.seed(identity, str(folder))
        now = time.time()
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO cache_mounts (id, dir, created, last_used) VALUES (?, ?, ?, ?)", (identity, name, now, now)
            )
            self._db.unsynced.note("cache mount", name)
        return str(folder)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
