"""What the records of builds, the store's checks and filters, and the network of steps say when they refuse or fail."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stagewright import policy
from stagewright.api import History
from stagewright.cache.locks import LockFile
from stagewright.cli.main import main
from stagewright.content.db import Database
from stagewright.errors import LostSnapshotError, NotFoundError, SandboxError, StoreError, UsageError
from stagewright.health import checkup
from stagewright.history.archive import Archive, Build
from stagewright.sandbox import network, wire
from stagewright.snapshots.store import SnapshotStore


def refuse(*arguments: object) -> None:
    raise OSError(30, "Read-only file system", "/x")


def test_records_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path / "history", LockFile(tmp_path / "locks"))
    archive.add(Build(0, "s", "r", 1.0, 1.0, "completed", "", {}, {}, "", 0, 0, "1"), None, dict, dict)
    monkeypatch.setattr(Archive, "remove", refuse)
    with pytest.raises(StoreError) as caught:
        History(tmp_path).remove(None)
    assert caught.value.message == "cannot remove records of builds: [Errno 30] Read-only file system: '/x'"


def test_numbers_and_all_builds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "rm", "--all", f"--root={tmp_path}", "3"]) == 1
    assert capsys.readouterr().err == "ERROR: history rm takes numbers of builds or --all, not both\n"


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE])
def test_a_disk_without_room_for_metadata(tmp_path: Path, code: int) -> None:
    database = Database(tmp_path / "metadata")
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = code
    with pytest.raises(StoreError) as caught, database.transaction():
        raise error
    assert caught.value.message == f"the metadata file {tmp_path}/metadata cannot be written: the disk is full"
    assert caught.value.hint == "make room on it; stagewright du says what the store takes, prune --all frees it"


def test_a_disk_that_fails(tmp_path: Path) -> None:
    database = Database(tmp_path / "metadata")
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    with pytest.raises(StoreError) as caught, database.transaction():
        raise error
    assert caught.value.message == f"the metadata file {tmp_path}/metadata cannot be written: disk I/O error"
    assert caught.value.hint == "the disk may be full, over its quota or failing"


def test_a_row_that_cannot_be_read(tmp_path: Path) -> None:
    database = Database(tmp_path / "metadata")
    with pytest.raises(StoreError) as caught:
        database.decoded('{"digest": ', dict)
    why = """'{"digest": ' cannot be read"""
    assert caught.value.message == f"the metadata file {tmp_path}/metadata is damaged: {why}"
    assert caught.value.hint == (
        "stagewright check says what of the store is whole, and check --repair lets builds work again"
    )


def test_a_leftover_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "remove_tree", refuse)
    with pytest.raises(StoreError) as caught:
        checkup._remove("/state/snapshots/drafts/a")
    assert caught.value.message == "cannot remove /state/snapshots/drafts/a: Read-only file system"


def test_an_unknown_filter() -> None:
    with pytest.raises(UsageError) as caught:
        policy.parse_conditions("type==regular, size>3")
    assert caught.value.message == "'size>3' is no filter that is known"
    assert caught.value.hint == "fields: id, type, kind, description, inuse, shared, parent, until"


def test_snapshots_that_are_not_there(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata"))
    with pytest.raises(LostSnapshotError) as lost:
        store.lowers(7)
    assert (lost.value.message, lost.value.hint) == ("snapshot 7 has been forgotten meanwhile", "build again")
    lazy = store.add_lazy(None, "sha256:" + "1" * 64, None)
    with pytest.raises(NotFoundError) as caught:
        store.lowers(lazy)
    assert caught.value.message == f"files of snapshot {lazy} were never fetched from the cache that they are in"


# --- the network of steps ---------------------------------------------------------------------------------------------


def answered(*messages: object) -> Callable[[socket.socket], None]:
    """A launcher that says this, and goes."""

    def answer(theirs: socket.socket) -> None:
        for message in messages:
            theirs.sendall(wire.pack(message))

    return answer


class Launcher:
    """Stands in for the process that starts helpers."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer

    def start(self, kind: bytes, status: int, *others: int) -> None:
        # It stays, for what it is told.
        self._theirs = socket.socket(fileno=socket.dup(status))
        self._answer(self._theirs)
        self._theirs.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of the socket."""
        self._theirs.close()


def fail(theirs: socket.socket) -> None:
    raise ConnectionResetError(104, "Connection reset by peer")


def be_late(theirs: socket.socket) -> None:
    raise TimeoutError


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (answered(), "the launcher of steps has gone"),
        (answered((wire.FAILED, "pasta: no such device")), "pasta: no such device"),
        (answered((wire.EXITED, 3, 0)), "ended with exit code 3"),
        (fail, "Connection reset by peer"),
        (be_late, f"not ready after {network._START_TIMEOUT_S} seconds"),
    ],
    ids=["gone", "failed", "ended", "broken", "late"],
)
def test_a_network_that_does_not_start(answer: Callable[[socket.socket], None], message: str) -> None:
    with closing(Launcher(answer)) as launcher, pytest.raises(SandboxError) as caught:
        network._start_child(launcher, {})  # type: ignore[arg-type]
    assert caught.value.message == message
