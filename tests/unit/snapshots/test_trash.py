"""Folders that are thrown away: gone from their place at once, and from the disk when the trash is closed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from stagewright.snapshots import trash
from stagewright.snapshots.trash import Trash


@pytest.fixture
def made(tmp_path: Path) -> Trash:
    (tmp_path / "trash").mkdir()
    return Trash(str(tmp_path / "trash"))


def folder(path: Path) -> str:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text("x")
    return str(path)


def removers() -> set[threading.Thread]:
    """The threads that remove, also those of other tests' stores that nobody has closed."""
    return {thread for thread in threading.enumerate() if thread.name == "remove-trash"}


def test_removal_is_waited_for_when_the_trash_is_closed(made: Trash, tmp_path: Path) -> None:
    others = removers()
    for _ in range(2):
        for name in ("a", "b"):
            made.remove_soon(folder(tmp_path / name))
            assert not (tmp_path / name).exists()
        (remover,) = removers() - others
        made.close()
        assert os.listdir(made.path) == []
        remover.join()


def test_nothing_is_removed_in_the_way(made: Trash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def remove(path: str) -> None:
        assert go.wait(60)
        os.rmdir(path)

    monkeypatch.setattr(trash, "remove_tree", remove)
    (tmp_path / "a").mkdir()
    made.remove_soon(str(tmp_path / "a"))
    assert len(os.listdir(made.path)) == 1
    go.set()
    made.close()
    assert os.listdir(made.path) == []


def test_what_goes_wrong_is_raised_once(made: Trash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(trash, "remove_tree", fail)
    made.remove_soon(folder(tmp_path / "a"))
    with pytest.raises(OSError, match="Input/output error"):
        made.close()
    made.close()


def test_what_is_gone_already_is_passed_over(made: Trash, tmp_path: Path) -> None:
    made.remove_soon(str(tmp_path / "gone"))
    made.remove(str(tmp_path / "gone"))
    made.close()


def test_it_is_emptied_of_what_others_left(made: Trash, tmp_path: Path) -> None:
    made.add(folder(tmp_path / "a"))
    assert len(os.listdir(made.path)) == 1
    made.empty()
    assert os.listdir(made.path) == []
