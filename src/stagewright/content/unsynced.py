"""What of a state directory may not be on the disk yet, and which boot of the machine wrote it.

Nothing that a build makes is synced while it runs: that would take longer than many a step. So each part is noted in
the table `unsynced`, with the row that names it, until a sync of the file systems has come after it (see `syncing`). A
note of another boot than this one tells of a part that the machine may have lost: after a power failure files may be
short, empty or full of zeros, and nothing on the disk tells which. That the kernel writes files back within half a
minute or so is its habit and no promise, hence no clock decides here.

Two files beside the metadata hold a boot and the id of a note: `unsynced` says up to which note a sync was asked for,
`synced` up to which one it was done. A sync only writes to `synced`, which is there by then, so that it is never in the
way of somebody who removes the state directory when a build has ended.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from stagewright.content.db import Database

    # A folder of snapshots/, a blob's digest, a folder of mounts/.
    Kind = Literal["snapshot", "blob", "cache mount"]

ASKED, DONE = "unsynced", "synced"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_LONGEST = 100
# By the boot and the id that `synced` holds.
_COVERED = "(boot = ? AND id <= ?)"


def boot_id() -> str:
    """Which boot of the machine this is, in whichever container; "" where the kernel does not tell."""
    return _text(_BOOT_ID).strip()


def is_asked(root: str) -> bool:
    """Whether something in the state directory `root` waits for a sync."""
    asked = _text(os.path.join(root, ASKED))
    return asked != _text(os.path.join(root, DONE)) and asked.startswith(boot_id())


def is_under_way(root: str) -> bool:
    """Whether a process syncs the state directory `root` now. Raises OSError where nobody has asked for that yet."""
    handle = os.open(os.path.join(root, DONE), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


class Unsynced:
    """The table `unsynced` of a metadata file in `folder`. Safe for use by threads and processes."""

    def __init__(self, db: Database, folder: Path) -> None:
        self._db = db
        self._folder = folder
        self._boot: str | None = None
        # Whether there is something to sync, as far as this process has come to know.
        self.any = False

    @property
    def _now(self) -> str:
        if self._boot is None:
            self._boot = boot_id()
        return self._boot

    def begin(self) -> None:
        """What these files say is of another metadata file than the one that has just been made."""
        for name in (DONE, ASKED):
            (self._folder / name).unlink(missing_ok=True)

    def note(self, kind: Kind, name: str) -> None:
        """Note something that is being written; its row belongs to the same transaction."""
        self.any = True
        # Each time with an id of its own: a sync that has begun does not cover this.
        self._db.execute(
            "INSERT OR REPLACE INTO unsynced (kind, name, boot) VALUES (?, ?, ?)", (kind, name, self._now)
        )

    def note_change(self, kind: Kind, name: str) -> None:
        """Note, on the disk, that something is about to change; the caller holds what `ask` takes for its use."""
        with self._db.transaction():
            boot, last = self._read(ASKED)
            found = self._db.query("SELECT id, boot FROM unsynced WHERE kind = ? AND name = ?", (kind, name))
            # A note that no sync was asked for stays until this one is on the disk.
            if found and found[0][1] == self._now and not (boot == self._now and found[0][0] <= last):
                return self.note(kind, name)
        with self._db.durably():
            self.note(kind, name)
        return None

    def is_any_lost(self) -> bool:
        """Whether there are notes of another boot, which no sync came after."""
        rows = self._db.query(
            f"SELECT boot FROM unsynced WHERE NOT {_COVERED} GROUP BY boot",  # noqa: S608
            self._read(DONE),
        )
        self.any = self.any or bool(rows)
        return any(boot != self._now for (boot,) in rows)

    def lost(self, kind: Kind) -> list[str]:
        """What another boot of the machine has noted and not synced."""
        rows = self._db.query(
            f"SELECT name FROM unsynced WHERE NOT {_COVERED} AND kind = ? AND boot != ? ORDER BY id",  # noqa: S608
            (*self._read(DONE), kind, self._now),
        )
        return [name for (name,) in rows]

    def forget_lost(self) -> None:
        """Forget the notes of other boots, once all that may be lost is out of use."""
        self._db.execute("DELETE FROM unsynced WHERE boot != ?", (self._now,))

    def ask(self, used: set[str]) -> None:
        """Ask for a sync of all that is noted by now, but for changes to cache mounts in `used` and what came after.

        Raises OSError, and StoreError as the database.
        """
        with self._db.transaction():
            # Before another boot's sync may take the place of the one that covers these.
            self._db.execute(f"DELETE FROM unsynced WHERE {_COVERED}", self._read(DONE))  # noqa: S608
            rows = self._db.query("SELECT id, kind, name FROM unsynced WHERE boot = ? ORDER BY id", (self._now,))
            ids = [0]
            for number, kind, name in rows:
                if kind == "cache mount" and name in used:
                    break
                ids.append(number)
            boot, last = self._read(ASKED)
            if boot == self._now and ids[-1] <= last:
                return
            os.close(os.open(self._folder / DONE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            handle = os.open(self._folder / ASKED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Of one length, so that one is written over another at once.
                text = f"{self._now} {ids[-1]:020}".encode()
                os.pwrite(handle, text, 0)
                os.ftruncate(handle, len(text))
            finally:
                os.close(handle)

    def noted(self, kind: Kind) -> list[str]:
        """What this boot has noted."""
        rows = self._db.query("SELECT name FROM unsynced WHERE kind = ? AND boot = ?", (kind, self._now))
        return [name for (name,) in rows]

    def _read(self, name: str) -> tuple[str, int]:
        """A boot and the id of its last note that is meant; what is no such text means none."""
        boot, _, number = _text(self._folder / name).partition(" ")
        return (boot, int(number)) if number.isascii() and number.isdigit() else ("", 0)


def _text(path: Path | str) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(handle, _LONGEST).decode(errors="replace")
    finally:
        os.close(handle)
