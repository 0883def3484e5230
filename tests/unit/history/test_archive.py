"""Records of builds on disk: numbers, bounds, damage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stagewright.cache.locks import LockFile
from stagewright.errors import StoreError
from stagewright.history import archive as module
from stagewright.history.archive import Archive, Build, Run
from stagewright.records import replace


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "history", LockFile(tmp_path / "locks"))


def build(subject: str = "s", graph: str = "g", created: float = 1.0) -> Build:
    """A build with nothing in it."""
    return Build(0, subject, "r", created, 0.1, "completed", "", {"context": "/c"}, {}, graph, 2, 1, "1")


def graph_of(*digests: str) -> dict[str, Any]:
    """A graph that refers to lists of files."""
    return {"steps": [], "dockerfile": "", "files": list(digests)}


def add(archive: Archive, item: Build, run: Run | None = None, *digests: str) -> int:
    """Keep a build with lists of files."""
    return archive.add(item, run, lambda: graph_of(*digests), dict.fromkeys(digests, b"listing"))


def test_what_is_kept_comes_back(archive: Archive) -> None:
    run = Run({1: {"state": "ran"}}, {1: [(0.5, 1, "hello\n")]})
    assert add(archive, build(), run, "sha256:f") == 1
    found = archive.get(1)
    assert found is not None
    assert (found.number, found.inputs) == (1, {"context": "/c"})
    assert archive.run(found) == run
    assert archive.graph(found.graph) == graph_of("sha256:f")
    assert archive.files("sha256:f") == b"listing"
    assert archive.get(2) is None
    assert archive.files("sha256:other") == b""


def begun() -> Build:
    return replace(build(graph=""), status=module.RUNNING)


def test_a_build_runs_from_its_beginning_to_its_end(archive: Archive) -> None:
    alive = archive.begin(item := begun())
    assert [(found.number, found.status, found.has_ended) for found in archive.list()] == [(1, "running", False)]
    assert add(archive, build()) == 2
    assert add(archive, replace(build(), number=item.number)) == 1
    os.close(alive)
    assert [(found.number, found.status) for found in archive.list()] == [(2, "completed"), (1, "completed")]


def test_a_build_whose_process_died_was_killed(archive: Archive, tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        archive.begin(begun())
        os._exit(0)
    os.waitpid(pid, 0)
    (found,) = archive.list()
    assert (found.number, found.status, found.has_ended) == (1, "killed", False)
    assert add(archive, build()) == 2


def test_a_build_that_begins_anew_was_never_begun(archive: Archive) -> None:
    alive = archive.begin(item := begun())
    archive.withdraw(item)
    os.close(alive)
    assert archive.list() == []


def test_a_number_of_a_build_that_runs_is_given_to_no_other_one(archive: Archive) -> None:
    first = archive.begin(item := begun())
    archive.withdraw(item)
    second = archive.begin(other := begun())
    assert (item.number, other.number) == (1, 2)
    assert add(archive, replace(build(), number=1)) == 1
    os.close(first)
    os.close(second)


def test_what_runs_in_a_folder_that_cannot_be_written_to_is_taken_for_running(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.close(archive.begin(begun()))

    def refuse(self: LockFile) -> int:
        raise StoreError("cannot lock anything")

    monkeypatch.setattr(LockFile, "_open", refuse)
    assert [found.status for found in archive.list()] == ["running"]


def test_builds_are_found_by_subject_the_newest_first(archive: Archive) -> None:
    for subject in ("a", "b", "a", "a"):
        add(archive, build(subject))
    assert [found.number for found in archive.of_subject("a", 2)] == [4, 3]
    assert [found.number for found in archive.list()] == [4, 3, 2, 1]


def test_a_graph_that_is_there_is_not_made_again(archive: Archive) -> None:
    add(archive, build())

    def fail() -> Any:
        raise AssertionError

    archive.add(build(), None, fail, {})


def test_only_so_many_builds_are_kept(archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "KEPT", 20)
    for number in range(1, 65):
        add(archive, build(graph=f"g{number}"), None, f"sha256:{number}")
    assert [found.number for found in archive.list()] == list(range(64, 44, -1))
    assert {path.name for path in (tmp_path / "history" / "graphs").iterdir()} == {f"g{n}" for n in range(45, 65)}
    assert len(list((tmp_path / "history" / "files").iterdir())) == 20


def test_only_so_many_bytes_are_kept(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 11):
        add(archive, build(graph=f"g{number}"), None, f"sha256:{number}")
    monkeypatch.setattr(module, "_MAX_BYTES", 2000)
    archive.trim()
    assert 1 <= len(archive.list()) < 10
    assert archive.list()[0].number == 10


def test_no_number_is_given_twice(archive: Archive) -> None:
    add(archive, build())
    add(archive, build())
    archive.remove([2])
    assert [found.number for found in archive.list()] == [1]
    assert add(archive, build()) == 3


def test_an_emptied_cache_leaves_the_newest_build_of_each_subject(archive: Archive) -> None:
    for subject in ("a", "b", "a"):
        add(archive, build(subject))
    assert archive.pruned("k") == 0.0
    archive.note_emptied(123.5)
    assert [found.number for found in archive.list()] == [3, 2]
    assert archive.pruned("k") == 123.5


DAMAGE = [b"", b"{", b"[]\n", b'{"format": 99}\n', b'{"format": 1, "number": 1}\n', b"\xff\n"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_none(archive: Archive, tmp_path: Path, damage: bytes) -> None:
    add(archive, build())
    add(archive, build(), Run({0: {"state": "ran"}}))
    path = tmp_path / "history" / "builds" / "1.s"
    path.write_bytes(damage)
    assert [found.number for found in archive.list()] == [2]
    newest = archive.list()[0]
    path = tmp_path / "history" / "builds" / "2.s"
    path.write_bytes(path.read_bytes()[:-3])
    assert archive.run(newest) == Run()
    (tmp_path / "history" / "graphs" / "g").write_bytes(b"damaged")
    assert archive.graph("g") is None


def test_what_a_killed_process_was_writing_is_removed(archive: Archive, tmp_path: Path) -> None:
    add(archive, build())
    stray = tmp_path / "history" / "new-1234"
    stray.write_bytes(b"half")
    archive.trim()
    assert not stray.exists()


def test_results_that_are_removed_one_by_one_are_remembered(archive: Archive, tmp_path: Path) -> None:
    archive.note_pruned(["a", "b"], 1.0)
    archive.note_pruned(["b"], 2.0)
    assert [archive.pruned(key) for key in "abc"] == [1.0, 2.0, 0.0]
    archive.note_emptied(3.0)
    assert archive.pruned("a") == 3.0
    (tmp_path / "history" / "pruned").write_bytes(b"damaged")
    assert archive.pruned("a") == 0.0
