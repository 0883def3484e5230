"""What is not on the disk yet: noted until a sync has come after it, and lost where the machine has started anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stagewright import syncing
from stagewright.content import unsynced
from stagewright.content.db import Database
from stagewright.content.unsynced import is_asked

Boot = Callable[[str], Database]


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boot]:
    """Opens the metadata file as of a boot."""
    opened: list[Database] = []

    def start(name: str) -> Database:
        for module in (unsynced, syncing):
            monkeypatch.setattr(module, "boot_id", lambda: name)
        opened.append(Database(tmp_path / "metadata.db"))
        return opened[-1]

    yield start
    for database in opened:
        database.close()


def noted(database: Database) -> list[str]:
    return [name for (name,) in database.query("SELECT name FROM unsynced ORDER BY id")]


def test_this_boot() -> None:
    assert unsynced.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_kernel_that_does_not_tell_its_boots_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsynced, "_BOOT_ID", str(tmp_path / "missing"))
    database = Database(tmp_path / "metadata.db")
    database.unsynced.note("snapshot", "1")
    database.unsynced.ask(set())
    assert is_asked(str(tmp_path))
    syncing.sync(str(tmp_path))
    database.close()
    assert not Database(tmp_path / "metadata.db").unsynced.is_any_lost()


def test_what_is_lost_with_a_boot(boot: Boot) -> None:
    first = boot("a")
    first.unsynced.note("snapshot", "1")
    first.unsynced.note("blob", "sha256:1")
    assert not first.unsynced.is_any_lost()
    second = boot("b")
    second.unsynced.note("snapshot", "2")
    assert second.unsynced.is_any_lost()
    assert (second.unsynced.lost("snapshot"), second.unsynced.lost("blob")) == (["1"], ["sha256:1"])
    second.unsynced.forget_lost()
    assert not second.unsynced.is_any_lost()
    assert noted(second) == ["2"]


def test_what_was_synced_is_not_lost(boot: Boot, tmp_path: Path) -> None:
    first = boot("a")
    assert not is_asked(str(tmp_path))
    first.unsynced.note("snapshot", "1")
    first.unsynced.ask(set())
    assert is_asked(str(tmp_path))
    first.unsynced.note("snapshot", "2")
    syncing.sync(str(tmp_path))
    assert not is_asked(str(tmp_path))
    assert boot("b").unsynced.lost("snapshot") == ["2"]
    assert not is_asked(str(tmp_path))


def test_a_process_knows_of_what_another_has_left_to_sync(boot: Boot, tmp_path: Path) -> None:
    first = boot("a")
    first.unsynced.note("snapshot", "1")
    second = boot("a")
    assert not second.unsynced.is_any_lost()
    assert second.unsynced.any
    second.unsynced.ask(set())
    syncing.sync(str(tmp_path))
    third = boot("a")
    assert not third.unsynced.is_any_lost()
    assert not third.unsynced.any
    # What is of no use any more goes when there is something to write anyway.
    assert noted(third) == ["1"]
    fourth = boot("b")
    fourth.unsynced.note("snapshot", "2")
    fourth.unsynced.ask(set())
    syncing.sync(str(tmp_path))
    assert noted(fourth) == ["2"]
    assert not fourth.unsynced.is_any_lost()


def test_what_changes_while_a_sync_runs_is_not_covered_by_it(boot: Boot, tmp_path: Path) -> None:
    first = boot("a")
    first.unsynced.note("cache mount", "m")
    first.unsynced.note("snapshot", "1")
    first.unsynced.ask(set())
    first.unsynced.note_change("cache mount", "m")
    syncing.sync(str(tmp_path))
    second = boot("b")
    assert (second.unsynced.lost("cache mount"), second.unsynced.lost("snapshot")) == (["m"], [])


def test_a_cache_mount_that_is_in_use_is_not_covered(boot: Boot, tmp_path: Path) -> None:
    first = boot("a")
    first.unsynced.note("snapshot", "1")
    first.unsynced.note("cache mount", "m")
    first.unsynced.note("snapshot", "2")
    assert first.unsynced.noted("cache mount") == ["m"]
    first.unsynced.ask({"m"})
    syncing.sync(str(tmp_path))
    second = boot("b")
    assert (second.unsynced.lost("cache mount"), second.unsynced.lost("snapshot")) == (["m"], ["2"])
    third = boot("a")
    third.unsynced.ask(set())
    syncing.sync(str(tmp_path))
    assert not boot("b").unsynced.is_any_lost()


def test_only_a_change_of_what_may_be_synced_is_noted_on_the_disk(
    boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = boot("a")
    durable: list[str] = []
    durably = first.durably
    monkeypatch.setattr(first, "durably", lambda: durable.append("") or durably())

    def costs() -> int:
        durable.clear()
        first.unsynced.note_change("cache mount", "m")
        return len(durable)

    assert (costs(), costs()) == (1, 0)
    first.unsynced.ask(set())
    assert (costs(), costs()) == (1, 0)
    first.unsynced.ask(set())
    syncing.sync(str(tmp_path))
    assert (costs(), costs()) == (1, 0)


def test_less_than_what_was_asked_for_is_never_asked_for(boot: Boot, tmp_path: Path) -> None:
    first = boot("a")
    first.unsynced.note("cache mount", "m")
    first.unsynced.note("snapshot", "1")
    first.unsynced.ask(set())
    syncing.sync(str(tmp_path))
    first.unsynced.ask({"m"})
    assert not is_asked(str(tmp_path))


def test_a_sync_that_another_boot_asked_for(boot: Boot, tmp_path: Path) -> None:
    first = boot("a")
    first.unsynced.note("snapshot", "1")
    first.unsynced.ask(set())
    second = boot("b")
    assert not is_asked(str(tmp_path))
    syncing.sync(str(tmp_path))
    assert second.unsynced.lost("snapshot") == ["1"]


@pytest.mark.parametrize("text", ["", "a", "a x", "a 1", " 99", "\xff" * 60])
def test_a_file_that_is_damaged_covers_nothing(boot: Boot, tmp_path: Path, text: str) -> None:
    first = boot("a")
    first.unsynced.note("snapshot", "1")
    first.unsynced.note("snapshot", "2")
    (tmp_path / "synced").write_text(text)
    assert boot("b").unsynced.lost("snapshot") == ["1", "2"][text == "a 1" :]


def test_a_new_metadata_file_begins_anew(boot: Boot, tmp_path: Path) -> None:
    """The ids of its notes are those of other notes of this boot."""
    first = boot("a")
    first.unsynced.note("snapshot", "1")
    first.unsynced.ask(set())
    syncing.sync(str(tmp_path))
    first.close()
    for path in tmp_path.glob("metadata.db*"):
        path.unlink()
    second = boot("a")
    second.unsynced.note("snapshot", "1")
    assert boot("b").unsynced.lost("snapshot") == ["1"]


def test_a_sync_leaves_nothing_where_the_state_directory_is_being_removed(boot: Boot, tmp_path: Path) -> None:
    first = boot("a")
    first.unsynced.note("snapshot", "1")
    first.unsynced.ask(set())
    before = sorted(os.listdir(tmp_path))
    syncing.sync(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == before
    (tmp_path / "synced").unlink()
    with pytest.raises(FileNotFoundError):
        syncing.sync(str(tmp_path))
    assert not (tmp_path / "synced").exists()
