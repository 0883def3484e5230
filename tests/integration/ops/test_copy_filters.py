"""COPY --parents and --exclude, and copies with a given time: what is taken, and what the key sees of it."""

from __future__ import annotations

import os

import pytest
from op_worker import Bench, write

from stagewright.errors import NotFoundError
from stagewright.graph.ops import CopyAction, FileOp, MkdirAction
from stagewright.ops.result import Result
from stagewright.sources.tree import Tree

FILES = {
    "a.txt": "1", "b.md": "2", "x/a.txt": "3", "x/b.md": "4", "x/y/a.txt": "5", "x/y/c.go": "6", "x/empty": None,
    "z/deep/er/a.txt": "7", "link": "-> x",
}  # fmt: skip


def filtered(bench: Bench, source: str = "/", **patterns: tuple[str, ...]) -> dict[str, str]:
    """What a copy to /d of the context takes, by paths in /d; folders are left out where a file shows them."""
    write(bench.context_folder, FILES)
    result = bench.run(
        FileOp((CopyAction(1, source, "/d/", optional=True, **patterns),), base=0),  # type: ignore[arg-type]
        Result(None),
        Result(context="context"),
    )
    tree = {path.removeprefix("d/"): text for path, text in bench.tree(result.snapshot).items() if path != "d"}
    return {
        path: text
        for path, text in tree.items()
        if text != "/" or not any(other.startswith(f"{path}/") for other in tree)
    }


@pytest.mark.parametrize(
    ("source", "include", "expected"),
    [
        ("/", "x/y/a.txt", {"x/y/a.txt": "5"}),
        ("/", "x/y", {"x/y/a.txt": "5", "x/y/c.go": "6"}),
        ("/", "x/*.txt", {"x/a.txt": "3"}),
        ("/", "*/*.md", {"x/b.md": "4"}),
        ("/", "**/a.txt", {"a.txt": "1", "x/a.txt": "3", "x/y/a.txt": "5", "z/deep/er/a.txt": "7"}),
        ("/", "x/**/*.go", {"x/y/c.go": "6"}),
        ("/", "x/empty", {"x/empty": "/"}),
        ("/", "nothing*", {}),
        ("/", "link", {"link": "-> x"}),
        ("/", "link/a.txt", {}),
        ("x", "y/*", {"y/a.txt": "5", "y/c.go": "6"}),
        ("link", "*.txt", {"a.txt": "3"}),
        ("*", "deep/er", {"deep/er/a.txt": "7"}),
    ],
)
def test_what_a_pattern_includes(bench: Bench, source: str, include: str, expected: dict[str, str]) -> None:
    found = filtered(bench, source, includes=(include,))
    if source == "*":
        # Files that the wildcard itself names are taken as they are.
        expected = {**expected, "a.txt": "1", "b.md": "2"}
    assert found == expected


@pytest.mark.parametrize(
    ("excludes", "expected"),
    [
        (("x", "z", "link"), {"a.txt": "1", "b.md": "2"}),
        (("*.txt", "x/*", "z", "link"), {"b.md": "2", "x": "/"}),
        (("**/*.txt", "x/y", "link"), {"b.md": "2", "x/b.md": "4", "x/empty": "/", "z/deep/er": "/"}),
        (("*", "!x/y/c.go"), {"x/y/c.go": "6"}),
        (("x", "!x/y", "x/y/a.txt", "*.*", "z", "link"), {"x/y/c.go": "6"}),
        (("z", "x/", "./link", "./a.txt"), {"b.md": "2"}),
        # Unlike in an ignore file, a leading slash is part of the pattern.
        (("z", "x", "/link", "/*.txt"), {"a.txt": "1", "b.md": "2", "link": "-> x"}),
    ],
)
def test_what_patterns_exclude(bench: Bench, excludes: tuple[str, ...], expected: dict[str, str]) -> None:
    assert filtered(bench, excludes=excludes) == expected


def test_excluded_and_included(bench: Bench) -> None:
    assert filtered(bench, includes=("**/*.txt",), excludes=("x/y", "z/**/a.txt")) == {"a.txt": "1", "x/a.txt": "3"}


def test_files_that_a_source_names_are_not_excluded(bench: Bench) -> None:
    # BuildKit compares the patterns with what is below a source folder only.
    assert filtered(bench, "a*", excludes=("a.txt",)) == {"a.txt": "1"}


def test_folders_on_the_way_keep_their_metadata(bench: Bench) -> None:
    write(bench.context_folder, FILES)
    os.chmod(bench.context_folder / "x", 0o700)
    os.utime(bench.context_folder / "x", (5, 5))
    action = CopyAction(1, "/", "/d/", includes=("x/y/a.txt",))
    snapshot = bench.run(FileOp((action,), base=0), Result(None), Result(context="context")).snapshot
    assert snapshot is not None
    assert (bench.mode(snapshot, "d/x"), bench.stat(snapshot, "d/x").st_mtime) == ("700", 5)


def test_folders_that_were_there_take_the_mode_alone_on_the_way(bench: Bench) -> None:
    write(bench.context_folder, {"x/y/a": "", "x/z/b": ""})
    for name, mode in (("x", 0o711), ("x/y", 0o700)):
        os.chmod(bench.context_folder / name, mode)
    base = bench.snapshot({"d/x/y": None, "d/x/old": ""})
    base = bench.files(MkdirAction("/d/x/z", owner="7:8"), base=base)
    action = CopyAction(1, "/", "/d/", owner="5:6", includes=("x/y", "x/z/b"))
    snapshot = bench.run(FileOp((action,), base=0), Result(base), Result(context="context")).snapshot
    assert snapshot is not None
    assert {
        path: (bench.mode(snapshot, path), bench.owner(snapshot, path)) for path in ("d/x", "d/x/y", "d/x/z")
    } == {"d/x": ("711", (0, 0)), "d/x/y": ("700", (5, 6)), "d/x/z": ("755", (7, 8))}


def test_required_paths(bench: Bench) -> None:
    write(bench.context_folder, FILES)
    with pytest.raises(NotFoundError, match='"/x/none": not found'):
        filtered_action = CopyAction(1, "/", "/d/", includes=("x/none",), required=("/x/none",))
        bench.run(FileOp((filtered_action,), base=0), Result(None), Result(context="context"))


def test_key_sees_only_what_is_taken(bench: Bench) -> None:
    write(bench.context_folder, FILES)
    actions = [
        CopyAction(0, "/", "/d/", includes=("**/*.txt",)),
        CopyAction(0, "/", "/d/", excludes=("**/*.md",)),
    ]
    before = [bench.key(action) for action in actions]
    write(bench.context_folder, {"x/b.md": "changed", "x/y/new.md": ""})
    bench.next_build()
    assert [bench.key(action) for action in actions] == before
    write(bench.context_folder, {"x/y/a.txt": "changed"})
    bench.next_build()
    assert all(bench.key(action) != old for action, old in zip(actions, before, strict=True))


def test_folders_that_cannot_matter_are_not_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []
    scan = Tree._scan
    monkeypatch.setattr(Tree, "_scan", lambda self, folder: scanned.append(folder) or scan(self, folder))
    write(bench.context_folder, FILES)
    bench.key(CopyAction(0, "/", "/d/", excludes=("x",)))
    assert not any(folder == "x" or folder.startswith("x/") for folder in scanned)
    scanned.clear()
    bench.key(CopyAction(0, "/", "/d/", includes=("x/y/*.go",)))
    assert sorted(set(scanned)) == ["", "x", "x/y"]


def test_given_time(bench: Bench) -> None:
    write(bench.context_folder, {"d/f": "F", "d/l": "-> f"})
    actions = (MkdirAction("/w/v", mtime=7), CopyAction(1, "d", "/new/deep", mtime=7))
    snapshot = bench.run(FileOp(actions, base=0), Result(None), Result(context="context")).snapshot
    assert snapshot is not None
    made = ["w", "w/v", "new", "new/deep", "new/deep/f", "new/deep/l"]
    assert {path: bench.stat(snapshot, path).st_mtime for path in made} == dict.fromkeys(made, 7)


def test_given_time_leaves_what_was_there(bench: Bench) -> None:
    base = bench.snapshot({"old/f": "F"})
    before = bench.stat(base, "old").st_mtime_ns
    snapshot = bench.files(MkdirAction("/old/new", mtime=7), base=base)
    assert bench.stat(snapshot, "old").st_mtime_ns == before
    assert bench.stat(snapshot, "old/f").st_mtime_ns == bench.stat(base, "old/f").st_mtime_ns
