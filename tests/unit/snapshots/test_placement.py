"""Where drafts of snapshots come to lie on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from stagewright.content.db import Database
from stagewright.snapshots import placement
from stagewright.snapshots.placement import Placement
from stagewright.snapshots.store import SnapshotStore


def flags_of(folder: Path) -> str:
    """The flags of a folder, as lsattr shows them; "" where the file system has none."""
    done = subprocess.run(["lsattr", "-d", str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.split()[0] if done.returncode == 0 else ""


@pytest.fixture
def without_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes any file system for an ext4 without a journal."""
    monkeypatch.setattr(placement, "_passes_over_freed", lambda path: True)


@pytest.fixture
def places(tmp_path: Path, without_journal: None) -> Placement:
    return Placement(str(tmp_path), str(tmp_path / "freed"))


@pytest.mark.skipif(shutil.which("lsattr") is None, reason="lsattr is not installed")
def test_snapshots_are_placed_far_apart(tmp_path: Path) -> None:
    if "e" not in flags_of(tmp_path):
        pytest.skip("only ext4 places folders by a flag")
    SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata.db"))
    assert "T" in flags_of(tmp_path / "snapshots" / "drafts")
    assert "e" in flags_of(tmp_path / "snapshots" / "drafts")


def test_a_file_system_without_flags_is_left_alone() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        places = Placement(folder, f"{folder}/freed")
        places.spread()
        places.freed(os.stat(folder).st_ino, 20_000)
        assert not places.is_bad(folder)
        assert list(Path(folder).iterdir()) == []


@pytest.mark.parametrize(
    ("first", "count", "bad"),
    [
        (0, 20_000, True),  # just there
        (-40_000, 20_000, True),  # before, but so many that they reach as far
        (-40_000, 600, False),
        (40_000, 600, True),  # where the later files of a large layer will lie
        (120_000, 600, False),
        (0, 100, False),  # too few to matter
    ],
)
def test_a_place_is_bad_where_many_files_were_just_removed(
    places: Placement, tmp_path: Path, first: int, count: int, bad: bool
) -> None:
    places.freed(os.stat(tmp_path).st_ino + first, count)
    assert places.is_bad(str(tmp_path)) is bad
    # Another process finds the same.
    assert Placement(str(tmp_path), str(tmp_path / "freed")).is_bad(str(tmp_path)) is bad


def test_a_place_is_good_again_after_some_minutes(
    places: Placement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = os.stat(tmp_path).st_ino
    places.freed(inode, 20_000)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 400)
    assert not places.is_bad(str(tmp_path))
    places.freed(inode + 1_000_000, 20_000)
    assert len((tmp_path / "freed").read_text().splitlines()) == 1


def test_a_damaged_record_is_of_no_use_and_no_harm(places: Placement, tmp_path: Path) -> None:
    (tmp_path / "freed").write_bytes(b"\xff\xfe 1 2\n1 2\n-1 -1 -1\n\n17")
    assert not places.is_bad(str(tmp_path))
    places.freed(os.stat(tmp_path).st_ino, 20_000)
    assert places.is_bad(str(tmp_path))


def test_a_draft_is_placed_elsewhere_after_a_large_snapshot_is_removed(tmp_path: Path, without_journal: None) -> None:
    store = SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata.db"))
    draft = store.prepare(None)
    for number in range(600):
        Path(draft.fs, str(number)).touch()
    snapshot = store.commit(draft)
    inode = os.stat(store.folder(snapshot)).st_ino
    store.remove(snapshot)
    ((_, noted, count),) = (line.split() for line in (tmp_path / "snapshots" / "freed").read_text().splitlines())
    assert (int(noted), int(count)) == (inode, 601)
    store.close()


def test_drafts_of_a_process_lie_together(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata.db"))
    first, second = store.prepare(None), store.prepare(None)
    assert Path(first.path).parent == Path(second.path).parent
    store.commit(first)
    store.discard(second)
    store.close()
    assert os.listdir(tmp_path / "snapshots" / "drafts") == []
    # Closing gives back what is not used, and no more.
    third = store.prepare(None)
    store.close()
    store.commit(third)
    store.close()
    assert os.listdir(tmp_path / "snapshots" / "drafts") == []


def test_bad_places_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def is_bad(self: Placement, path: str) -> bool:
        tried.append(path)
        return len(tried) < 3

    monkeypatch.setattr(Placement, "is_bad", is_bad)
    store = SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata.db"))
    draft = store.prepare(None)
    assert [os.path.dirname(draft.path)] == tried[2:]
    assert [str(path) for path in (tmp_path / "snapshots" / "drafts").iterdir()] == tried[2:]
    store.discard(draft)
    store.close()


def test_drafts_stay_when_all_places_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Placement, "is_bad", lambda self, path: True)
    made: list[str] = []
    mkdir = os.mkdir
    monkeypatch.setattr(os, "mkdir", lambda path, *mode: made.append(path) or mkdir(path, *mode))
    store = SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata.db"))
    drafts = [store.prepare(None) for _ in range(20)]
    places = {os.path.dirname(draft.path) for draft in drafts}
    assert {str(path) for path in (tmp_path / "snapshots" / "drafts").iterdir()} == places
    # Thousands of small ones do not look for a better place each.
    assert len([path for path in made if Path(path).parent.name == "drafts"]) == 64 + 20
    for draft in drafts:
        store.discard(draft)
    store.close()
    assert os.listdir(tmp_path / "snapshots" / "drafts") == []
