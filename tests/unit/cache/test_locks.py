"""Locks by name, between threads and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stagewright.cache.locks import LockFile
from stagewright.errors import CanceledError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def is_free(path: Path, name: str, *, shared: bool = False) -> bool:
    handle = LockFile(path).try_hold(name, shared=shared)
    if handle is not None:
        os.close(handle)
    return handle is not None


def test_a_name_has_one_holder(path: Path) -> None:
    with LockFile(path).hold("a"):
        assert not is_free(path, "a")
        assert not is_free(path, "a", shared=True)
        assert is_free(path, "b")
    assert is_free(path, "a")


def test_shared_holders_keep_out_others_only(path: Path) -> None:
    locks = LockFile(path)
    with locks.hold("a", shared=True), locks.hold("a", shared=True):
        assert is_free(path, "a", shared=True)
        assert not is_free(path, "a")


def test_waiting_ends_with_the_holder(path: Path) -> None:
    locks, order = LockFile(path), []
    for cancel in (None, threading.Event()):
        holder = locks.try_hold("a")
        assert holder is not None

        def wait(cancel: threading.Event | None) -> None:
            with locks.hold("a", cancel=cancel):
                order.append("held")

        thread = threading.Thread(target=wait, args=(cancel,))
        thread.start()
        order.append("given back")
        os.close(holder)
        thread.join(30)
    assert order == ["given back", "held"] * 2


def test_waiting_can_be_given_up(path: Path) -> None:
    cancel = threading.Event()
    with LockFile(path).hold("a"):
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        with pytest.raises(CanceledError), LockFile(path).hold("a", cancel=cancel):
            raise AssertionError
        timer.join()
    assert is_free(path, "a")


def test_a_killed_process_gives_its_locks_back(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from stagewright.cache.locks import LockFile\n"
        "with LockFile(Path(sys.argv[1])).hold('a'):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert not is_free(path, "a")
        process.kill()
    assert is_free(path, "a")


def test_names_that_are_no_text_and_leave_nothing(path: Path) -> None:
    with LockFile(path).hold("a\udcff"), LockFile(path).hold(""):
        assert not is_free(path, "a\udcff")
    assert path.stat().st_size == 0
