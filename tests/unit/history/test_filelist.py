"""Lists of files, kept and compared."""

from __future__ import annotations

from stagewright.history.filelist import FileChange, compare, pack, sentence, unpack


def record(mode: str, what: str, owner: str = "0\0" + "0") -> str:
    """What `describe` says of a file."""
    return f"name\0{mode}\0{owner}\0{what}\0"


def files(**records: str) -> dict[str, tuple[str, str, str]]:
    """A list of files as it is kept."""
    found = unpack(pack(list(records.items())))
    assert found is not None
    return found


def test_what_is_kept_is_compact() -> None:
    listing = [(f"folder/file{number}", record("100644", f"{number:064x}")) for number in range(1000)]
    assert len(pack(listing)) < 20_000
    assert unpack(pack(listing)) == {path: ("100644", "0:0", "0" * 16) for path, _ in listing}


def test_changes_are_named_by_what_they_are() -> None:
    old = files(
        a=record("100644", "1" * 64),
        b=record("100644", "1" * 64),
        gone=record("100644", "1" * 64),
        mode=record("100644", "1" * 64),
        owner=record("100644", "1" * 64),
        link=record("120777", "the/beginning/of/a/path/one"),
        kind=record("100644", ""),
        folder=record("40755", ""),
    )
    new = files(
        a=record("100644", "1" * 64),
        b=record("100644", "2" * 64),
        come=record("100644", "1" * 64),
        mode=record("100755", "1" * 64),
        owner=record("100644", "1" * 64, "5\0" + "6"),
        link=record("120777", "the/beginning/of/a/path/two"),
        kind=record("40644", ""),
        folder=record("40700", ""),
    )
    assert compare(old, new) == [
        FileChange("b", "changed"),
        FileChange("link", "changed"),
        FileChange("come", "added"),
        FileChange("gone", "removed"),
        FileChange("mode", "mode", "0644", "0755"),
        FileChange("owner", "owner", "0:0", "5:6"),
        FileChange("kind", "changed"),
        FileChange("folder", "mode", "0755", "0700"),
    ]


def test_what_is_damaged_is_not_known() -> None:
    assert unpack(b"") is None
    assert unpack(b"damaged") is None
    assert unpack(pack([])) == {}


def test_files_are_named_up_to_a_number() -> None:
    changes = [FileChange(name, "changed") for name in "abcde"]
    assert sentence(changes[:1]) == "a changed"
    assert sentence(changes[:2]) == "a changed and b changed"
    assert sentence(changes[:3], prefix="/") == "/a changed, /b changed and /c changed"
    assert sentence(changes[:4]) == "a changed, b changed, c changed, and 1 more file differs"
    assert sentence(changes) == "a changed, b changed, c changed, and 2 more files differ"
    assert sentence([FileChange("\udcff", "added")]) == "\\xff was added"


def test_paths_are_cleaned() -> None:
    listing = [("a/secret/b", record("100644", "1" * 64)), ("c", record("100644", "2" * 64))]
    found = unpack(pack(listing, lambda text: text.replace("secret", "***")))
    assert found is not None
    assert list(found) == ["a/***/b", "c"]
    # What takes more than a part of one path away is done path by path.
    found = unpack(pack(listing, lambda text: text.replace("b\0c", "***")))
    assert found is not None
    assert list(found) == ["a/secret/b", "c"]


def test_several_files_come_at_once() -> None:
    records = [record("100644", "1" * 64), record("100755", "2" * 64, "7\0" + "8"), record("120777", "target")]
    one_by_one = list(zip(["a/b", "", "c"], records, strict=True))
    together = [("a/b\0", "".join(records[:2])), ("c", records[2])]
    assert pack(together) == pack(one_by_one)
    assert list(unpack(pack(together)) or ()) == ["a/b", "", "c"]
    # What takes more than a part of one path away is done path by path.
    found = unpack(pack([("a/b\0c", records[0] * 2)], lambda text: text.replace("b\0c", "***").replace("a/", "x/")))
    assert list(found or ()) == ["x/b", "c"]
