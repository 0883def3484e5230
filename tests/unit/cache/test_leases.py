import os
import signal
import threading
from pathlib import Path

import pytest

from stagewright.cache.leases import BuildLease, collecting
from stagewright.cache.locks import LockFile
from stagewright.errors import CanceledError


@pytest.fixture
def locks(tmp_path: Path) -> LockFile:
    return LockFile(tmp_path / "locks")


def is_free(locks: LockFile) -> bool:
    with collecting(locks) as alone:
        return alone


def test_no_collection_while_any_build_runs(locks: LockFile) -> None:
    assert is_free(locks)
    with BuildLease(locks):
        with BuildLease(locks):
            assert not is_free(locks)
        assert not is_free(locks)
    assert is_free(locks)


def test_a_failed_build_gives_its_lease_back(locks: LockFile) -> None:
    with pytest.raises(ZeroDivisionError), BuildLease(locks):
        raise ZeroDivisionError
    assert is_free(locks)


def test_a_build_waits_for_the_end_of_a_collection(locks: LockFile) -> None:
    order = []

    def build() -> None:
        started.set()
        with BuildLease(locks):
            order.append("build")

    started = threading.Event()
    thread = threading.Thread(target=build)
    with collecting(locks) as alone:
        assert alone
        thread.start()
        started.wait()
        thread.join(0.1)
        order.append("collected")
    thread.join()
    assert order == ["collected", "build"]


def test_a_build_that_waits_can_be_canceled(locks: LockFile) -> None:
    cancel = threading.Event()
    cancel.set()
    with collecting(locks), pytest.raises(CanceledError), BuildLease(locks, cancel):
        pass
    with BuildLease(locks, cancel):
        assert not is_free(locks)


def test_a_collection_waits_for_another_one(locks: LockFile) -> None:
    order = []

    def collect() -> None:
        started.set()
        with collecting(locks) as alone:
            order.append(("second", alone))

    started = threading.Event()
    thread = threading.Thread(target=collect)
    with collecting(locks) as alone:
        thread.start()
        started.wait()
        thread.join(0.1)
        order.append(("first", alone))
    thread.join()
    # A prune right after a build finds the collection that the build has started.
    assert order == [("first", True), ("second", True)]


def test_a_killed_build_holds_nothing(locks: LockFile) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with BuildLease(locks):
            os.write(writer, b"!")
            signal.pause()
        os._exit(1)
    try:
        assert os.read(reader, 1) == b"!"
        assert not is_free(locks)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
    assert is_free(locks)
