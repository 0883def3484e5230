"""Lists of files, kept and compared."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.history.filelist import Changes, FileChange, FileList, pack, sentence, unpack


def record(mode: str, what: str, owner: str = "0\0" + "0") -> str:
    """What `describe` says of a file."""
    return f"name\0{mode}\0{owner}\0{what}\0"


def kept(records: Iterable[tuple[str, str]]) -> FileList:
    """A list of files as it is kept."""
    found = unpack(pack(records))
    assert found is not None
    return found


def paths(files: FileList | None) -> list[str]:
    """The paths in a list, in its order."""
    assert files is not None
    return [row[1] for row in files]


def test_what_is_kept_is_compact() -> None:
    listing = [(f"folder/file{number}", record("100644", f"{number:064x}")) for number in range(1000)]
    assert len(pack(listing)) < 20_000
    assert {row[1:] for row in kept(listing)} == {(path, "100644", "0:0", "0" * 16) for path, _ in listing}


def test_changes_are_named_by_what_they_are() -> None:
    old = {
        "a": record("100644", "1" * 64),
        "b": record("100644", "1" * 64),
        "gone": record("100644", "1" * 64),
        "mode": record("100644", "1" * 64),
        "owner": record("100644", "1" * 64),
        "link": record("120777", "the/beginning/of/a/path/one"),
        "kind": record("100644", ""),
        "folder": record("40755", ""),
    }
    new = {
        "a": record("100644", "1" * 64),
        "b": record("100644", "2" * 64),
        "come": record("100644", "1" * 64),
        "mode": record("100755", "1" * 64),
        "owner": record("100644", "1" * 64, "5\0" + "6"),
        "link": record("120777", "the/beginning/of/a/path/two"),
        "kind": record("40644", ""),
        "folder": record("40700", ""),
    }
    changes = Changes(kept(old.items()), kept(new.items()))
    assert changes.first == [
        FileChange("kind", "type", "a file", "a folder"),
        FileChange("b", "changed"),
        FileChange("link", "changed"),
        FileChange("come", "added"),
        FileChange("gone", "removed"),
        FileChange("mode", "mode", "0644", "0755"),
        FileChange("owner", "owner", "0:0", "5:6"),
        FileChange("folder", "mode", "0755", "0700"),
    ]
    assert changes.count == len(changes.first)
    assert [change.path for change in changes] == ["b", "come", "folder", "gone", "kind", "link", "mode", "owner"]


NAMES = st.text(st.sampled_from("ab.-/\udcff"), min_size=1, max_size=5)
CONTENTS = st.sampled_from([record("100644", "1" * 64), record("100644", "2" * 64), record("100755", "1" * 64)])
# In any order, and with names that come twice, as several sources of one copy may have them.
LISTINGS = st.lists(st.tuples(NAMES, CONTENTS), max_size=12)


@given(old=LISTINGS, new=LISTINGS, block=st.integers(1, 5))
def test_changes_are_those_between_the_files_by_their_paths(
    old: list[tuple[str, str]], new: list[tuple[str, str]], block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stagewright.history.filelist._BLOCK_FILES", block)
        changes = list(Changes(kept(old), kept(new)))
    before, after = dict(old), dict(new)
    assert {change.path for change in changes if change.kind == "added"} == after.keys() - before.keys()
    assert {change.path for change in changes if change.kind == "removed"} == before.keys() - after.keys()
    both = {change.path for change in changes if change.kind in ("changed", "mode")}
    assert both == {path for path in before.keys() & after.keys() if before[path] != after[path]}
    assert len(changes) == len({change.path for change in changes})


@pytest.mark.parametrize("turned", [False, True], ids=["walked", "two sources"])
def test_comparing_takes_no_more_memory_for_more_files(*, turned: bool) -> None:
    assert peak_of_comparing(100_000, turned=turned) < peak_of_comparing(10_000, turned=turned) + 500_000


def peak_of_comparing(files: int, *, turned: bool) -> int:
    """The bytes that it takes to compare so many files with as many of which each has another content."""

    def listing(content: str) -> Iterator[tuple[str, str]]:
        numbers = [*range(files // 2, files), *range(files // 2)] if turned else range(files)
        return ((f"folder/file{number:08d}", record("100644", content)) for number in numbers)

    old, new = pack(listing("1" * 64)), pack(listing("2" * 64))
    tracemalloc.start()
    try:
        before, after = unpack(old), unpack(new)
        assert before is not None
        assert after is not None
        changes = Changes(before, after)
        assert changes.count == files
        assert changes.first[0] == FileChange("folder/file00000000", "changed")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_damaged_is_not_known() -> None:
    assert unpack(b"") is None
    assert unpack(b"damaged") is None
    assert paths(unpack(pack([]))) == []
    whole = pack([(f"{number}", record("100644", "1" * 64)) for number in range(5000)])
    assert unpack(whole[:-1]) is None
    assert unpack(whole + b"x") is None


def test_files_are_named_up_to_a_number() -> None:
    changes = [FileChange(name, "changed") for name in "abcde"]
    assert sentence(changes[:1], 1) == "a changed"
    assert sentence(changes[:2], 2) == "a changed and b changed"
    assert sentence(changes[:3], 3, prefix="/") == "/a changed, /b changed and /c changed"
    assert sentence(changes[:3], 4) == "a changed, b changed, c changed, and 1 more file differs"
    assert sentence(changes[:3], 5) == "a changed, b changed, c changed, and 2 more files differ"
    assert sentence([FileChange("\udcff", "added")], 1) == "\\xff was added"


def test_paths_are_cleaned() -> None:
    listing = [("a/secret/b", record("100644", "1" * 64)), ("c", record("100644", "2" * 64))]
    assert paths(unpack(pack(listing, lambda text: text.replace("secret", "***")))) == ["a/***/b", "c"]
    # What takes more than a part of one path away is done path by path.
    assert paths(unpack(pack(listing, lambda text: text.replace("b\0c", "***")))) == ["a/secret/b", "c"]


def test_several_files_come_at_once() -> None:
    records = [record("100644", "1" * 64), record("100755", "2" * 64, "7\0" + "8"), record("120777", "target")]
    one_by_one = list(zip(["", "a/b", "c"], records, strict=True))
    together = [("\0" + "a/b", "".join(records[:2])), ("c", records[2])]
    assert pack(together) == pack(one_by_one)
    assert paths(unpack(pack(together))) == ["", "a/b", "c"]
    # What takes more than a part of one path away is done path by path.
    found = unpack(pack([("a/b\0c", records[0] * 2)], lambda text: text.replace("b\0c", "***").replace("a/", "x/")))
    assert paths(found) == ["c", "x/b"]
