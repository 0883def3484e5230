"""The folders of cache mounts: which one a step gets, and who waits for whom."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagewright.cache.locks import LockFile
from stagewright.cache.mounts import CacheMounts
from stagewright.content.db import Database
from stagewright.errors import CanceledError
from stagewright.graph.ops import Sharing
from stagewright.snapshots.store import SnapshotStore


class Mounts(CacheMounts):
    """Cache mounts whose new folders are noted in `made`."""

    def __init__(self, folder: Path) -> None:
        self.db = Database(folder / "metadata.db")
        self.made: list[str] = []
        super().__init__(folder / "mounts", self.db, LockFile(folder / "locks"))

    def get(self, identity: str, sharing: Sharing = "shared") -> str:
        with self.use(identity, sharing, self.made.append, None) as folder:
            return folder


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    made = Mounts(tmp_path)
    yield made
    made.db.close()


def test_the_folders_are_their_owners_alone(mounts: Mounts, tmp_path: Path) -> None:
    """A state directory that was there before Stagewright may be open to all."""
    tmp_path.chmod(0o755)
    mounts.get("a")
    SnapshotStore(tmp_path / "snapshots", mounts.db)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("mounts", "snapshots")] == [0o700, 0o700]


def test_a_folder_is_made_once(mounts: Mounts) -> None:
    first = mounts.get("a")
    assert os.path.isdir(first)
    assert [mounts.get("a"), mounts.get("a", "locked"), mounts.get("a", "private")] == [first] * 3
    assert mounts.get("b") != first
    assert mounts.made == [first, mounts.get("b")]


def test_a_folder_whose_making_failed_is_made_anew(mounts: Mounts) -> None:
    def fail(folder: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), mounts.use("a", "shared", fail, None):
        raise AssertionError
    assert mounts.made == []
    assert mounts.get("a") == mounts.made[0]


def test_private_folders_are_as_many_as_are_used_at_once(mounts: Mounts) -> None:
    with mounts.use("a", "private", mounts.made.append, None) as one:
        with mounts.use("a", "private", mounts.made.append, None) as two:
            assert one != two
    assert mounts.get("a", "private") == one
    assert mounts.made == [one, two]


@pytest.mark.parametrize(
    ("held", "wanted", "waits"),
    [
        ("shared", "shared", False),
        ("shared", "locked", True),
        ("locked", "shared", True),
        ("locked", "locked", True),
        ("locked", "private", False),
        ("private", "shared", True),
    ],
)
def test_who_waits_for_whom(mounts: Mounts, held: Sharing, wanted: Sharing, waits: bool) -> None:
    cancel = threading.Event()
    with mounts.use("a", held, mounts.made.append, None) as first:
        if not waits:
            with mounts.use("a", wanted, mounts.made.append, None) as second:
                assert (second == first) == (wanted == "shared")
            return
        # It would wait for good; a build that is canceled gives up.
        timer = threading.Timer(0.05, cancel.set)
        timer.start()
        with pytest.raises(CanceledError), mounts.use("a", wanted, mounts.made.append, cancel):
            raise AssertionError
        timer.join()
    assert mounts.get("a", wanted) == first


def test_steps_that_begin_at_once_make_one_folder(mounts: Mounts) -> None:
    folders: list[str] = []
    threads = [threading.Thread(target=lambda: folders.append(mounts.get("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(folders) == 8 and set(folders) == set(mounts.made) and len(mounts.made) == 1
