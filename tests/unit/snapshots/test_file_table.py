"""Notes on files: found again whatever is asked for in between, packed, and rid of those that nobody asks for."""

from __future__ import annotations

import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagewright.snapshots import filetable
from stagewright.snapshots.filetable import FileTable


@pytest.fixture(autouse=True, params=[3, 1024], ids=["pieces", "whole folders"])
def _few_are_spread_out(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(filetable, "_FILES_SPREAD", 20)
    monkeypatch.setattr(filetable, "_PIECE_FILES", request.param)


def note(number: int) -> bytes:
    return number.to_bytes(4, "big")


def filled(paths: list[str]) -> FileTable:
    table = FileTable(4)
    for number, path in enumerate(paths):
        table.put(path, note(number))
    return table


def test_a_note_is_found_by_its_path_and_replaced() -> None:
    table = filled(["a", "d/a", "d/e/a"])
    assert [table.get(path) for path in ("a", "d/a", "d/e/a", "b", "d/b", "x/a", "")] == [
        note(0),
        note(1),
        note(2),
        None,
        None,
        None,
        None,
    ]
    table.put("d/a", note(9))
    assert (table.get("d/a"), len(table)) == (note(9), 3)


@pytest.mark.parametrize("packs", [False, True])
def test_more_folders_than_are_spread_out_lose_nothing(packs: bool) -> None:
    rng = random.Random(5)
    paths = [f"f{folder}/g{folder % 7}/n{name}" for folder in range(100) for name in range(5)]
    table = filled(paths)
    if packs:
        table = FileTable(4, table.pack())
    order = list(enumerate(paths))
    rng.shuffle(order)
    assert all(table.get(path) == note(number) for number, path in order)
    for number, path in order[:200]:
        table.put(path, note(1000 + number))
    changed = dict(order[:200])
    expected = {path: note(1000 + number if number in changed else number) for number, path in order}
    assert dict(table.items()) == expected
    assert dict(FileTable(4, table.pack()).items()) == expected
    assert len(table) == 500


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rounds=st.lists(st.lists(st.tuples(st.booleans(), st.sampled_from(["", "d/", "d/e/"]), st.integers(0, 30)))),
)
def test_whatever_is_asked_for_and_noted_the_last_note_counts(rounds: list[list[tuple[bool, str, int]]]) -> None:
    table, expected, number = FileTable(4), {}, 0
    for actions in rounds:
        for noted, folder, name in actions:
            path, number = f"{folder}{name}", number + 1
            if noted:
                table.put(path, note(number))
                expected[path] = note(number)
            assert table.get(path) == expected.get(path)
        assert len(table) == len(expected)
        table = FileTable(4, table.pack())
    assert dict(table.items()) == expected


def test_a_large_folder_is_never_spread_out_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filetable, "_PIECE_FILES", 1024)
    assert peak_of_reading(80_000) < peak_of_reading(40_000) + 500_000


def peak_of_reading(files: int) -> int:
    """The bytes that it takes to ask for all files of a packed table, which lie in one folder."""
    paths = [f"{number:06d}" for number in range(files)]
    packed = filled(paths).pack()
    tracemalloc.start()
    try:
        table = FileTable(4, packed)
        assert all(table.get(path) is not None for path in paths)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_names_that_are_no_text_are_kept() -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    assert FileTable(4, filled([f"{name}/{name}"]).pack()).get(f"{name}/{name}") == note(0)


def test_what_nobody_asks_for_is_kept_while_it_is_little() -> None:
    table = FileTable(4, filled([f"d/{number}" for number in range(1000)]).pack())
    assert len(FileTable(4, table.pack())) == 1000


def test_much_that_nobody_asks_for_is_dropped_file_by_file() -> None:
    paths = [f"d{number % 3}/{number}" for number in range(3000)]
    table = FileTable(4, filled(paths).pack())
    asked = paths[:300:2]
    assert all(table.get(path) is not None for path in asked)
    table.put("new/1", note(7))
    kept = FileTable(4, table.pack())
    assert {path for path, _ in kept.items()} == {*asked, "new/1"}
    assert dict(kept.items())[paths[2]] == note(2)


def test_what_was_asked_for_counts_also_after_its_folder_was_packed() -> None:
    paths = [f"d{number}/{name}" for number in range(50) for name in range(100)]
    table = FileTable(4, filled(paths).pack())
    asked = [path for path in paths if path.endswith(("/3", "/44"))]
    for path in [*asked, *reversed(asked)]:
        assert table.get(path) is not None
    assert {path for path, _ in FileTable(4, table.pack()).items()} == set(asked)


def test_threads_do_not_disturb_each_other() -> None:
    paths = [f"d{number}/{name}" for number in range(60) for name in range(20)]
    table = filled(paths)

    def read(seed: int) -> bool:
        order = list(enumerate(paths))
        random.Random(seed).shuffle(order)
        return all(table.get(path) == note(number) for number, path in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


def packed_folder(names: int) -> FileTable:
    return FileTable(4, filled([f"d/{number:03}" for number in range(names)]).pack())


@pytest.fixture
def whole_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filetable, "_PIECE_FILES", 1024)


@pytest.mark.usefixtures("whole_folders")
def test_files_that_are_as_they_were_are_found_at_once() -> None:
    table = packed_folder(100)
    names = [f"{number:03}" for number in range(100)]
    notes = [note(number) for number in range(100)]
    starts = [one[:3] for one in notes]
    assert table.run([f"d/{name}" for name in names], starts) == notes
    # Once more, and in pieces between which other folders are asked for.
    for first, end in ((0, 10), (10, 11), (11, 100), (0, 100)):
        assert table.run([f"d/{name}" for name in names[first:end]], starts[first:end]) == notes[first:end]
        assert table.run(["other/a"], [b"abc"]) is None
    assert dict(table.items()) == {f"d/{name}": one for name, one in zip(names, notes, strict=True)}


@pytest.mark.parametrize("other", ["names", "order", "start", "more", "end"])
def test_files_that_are_not_as_they_were_are_not_found_at_once(other: str) -> None:
    table = packed_folder(9)
    names = [f"{number:03}" for number in range(9)]
    notes = [note(number) for number in range(9)]
    starts = [one[:4] for one in notes]
    if other == "names":
        names[4] = "x"
    elif other == "order":
        names[3:5] = names[4], names[3]
    elif other == "start":
        starts[6] = note(66)
    elif other == "more":
        names, starts = [*names, "9"], [*starts, note(0)]
    else:
        names, starts = names[5:], starts[5:]
    assert table.run([f"d/{name}" for name in names], starts) is None
    # One by one they are found, and once all were asked for, at once again.
    assert [table.get(f"d/{number:03}") for number in range(8)] == notes[:8]
    assert table.run(["d/000"], [note(0)]) is None
    assert table.get("d/008") == notes[8]
    assert table.run(["d/000"], [note(0)]) == (None if filetable._PIECE_FILES < 9 else [note(0)])
    table.put("d/new", note(77))
    assert table.get("d/new") == note(77)
    again = FileTable(4, table.pack())
    assert dict(again.items()) == dict(table.items())
    assert len(again) == 10


@pytest.mark.usefixtures("whole_folders")
def test_what_was_found_at_once_was_asked_for() -> None:
    paths = [f"d{folder}/{number:04}" for folder in range(3) for number in range(1000)]
    table = FileTable(4, filled(paths).pack())
    asked = [f"d1/{number:04}" for number in range(200)]
    assert table.run(asked, [note(1000 + number) for number in range(200)])
    assert {path for path, _ in FileTable(4, table.pack()).items()} == set(asked)
    # Also when it is asked for more, one by one.
    assert table.get("d1/0500") == note(1500)
    assert {path for path, _ in FileTable(4, table.pack()).items()} == {*asked, "d1/0500"}
