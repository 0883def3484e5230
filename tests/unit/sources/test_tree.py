"""Trees that steps read: walks with an ignore file, links inside the root, files that go away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagewright.dockerfile.ignore import Matcher, read_patterns
from stagewright.errors import NotFoundError, StagewrightError
from stagewright.sources.tree import Tree, resolve_links


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    handle = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield handle
    os.close(handle)


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        name, _, target = path.partition(" -> ")
        full = folder / name
        full.parent.mkdir(parents=True, exist_ok=True)
        if target:
            full.symlink_to(target)
        elif name.endswith("/"):
            full.mkdir(exist_ok=True)
        else:
            full.write_text(name)


def walked(root: int, patterns: str | None = None, top: str = "") -> list[str]:
    matcher = Matcher(read_patterns(patterns.encode())) if patterns is not None else None
    return [entry.path for entry in Tree(root, exclusion=matcher).walk(top)]


def test_a_walk_is_in_order_and_follows_no_link(tmp_path: Path, root: int) -> None:
    make(tmp_path, "b/x", "b/a/y", "a", "c/", "link -> b")
    assert walked(root) == ["a", "b", "b/a", "b/a/y", "b/x", "c", "link"]
    assert walked(root, top="b") == ["b/a", "b/a/y", "b/x"]


def test_a_link_behind_a_folder_that_became_a_link_is_not_read(tmp_path: Path) -> None:
    inside = tmp_path / "root"
    make(tmp_path, "root/folder/link -> x", "outside/link -> secret")
    handle = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tree = Tree(handle)
        assert tree.readlink("folder/link") == "x"
        (inside / "folder").rename(inside / "before")
        (inside / "folder").symlink_to("../outside")
        with pytest.raises(StagewrightError):
            tree.readlink("folder/link")
    finally:
        os.close(handle)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("a", {"b", "b/c", "b/c/d", "b/e"}),
        ("*\n!b/c", {"b", "b/c", "b/c/d"}),
        ("*\n!b/c/d", {"b", "b/c", "b/c/d"}),
        ("b\n!b/missing", {"a"}),
        ("**/d", {"a", "b", "b/c", "b/e"}),
        ("b/*\n!**/d", {"a", "b", "b/c", "b/c/d"}),
        ("**", set()),
        ("!a", {"a", "b", "b/c", "b/c/d", "b/e"}),
    ],
)
def test_hidden_files(tmp_path: Path, root: int, patterns: str, expected: set[str]) -> None:
    make(tmp_path, "a", "b/c/d", "b/e")
    assert set(walked(root, patterns)) == expected
    tree = Tree(root, exclusion=Matcher(read_patterns(patterns.encode())))
    for path in ("a", "b", "b/c", "b/c/d", "b/e"):
        if path in expected:
            assert tree.entry(path).path == path
        else:
            with pytest.raises(NotFoundError):
                tree.entry(path)
    assert {entry.path for entry in tree.children("b")} == {path for path in expected if path in ("b/c", "b/e")}


def test_a_folder_in_which_nothing_can_come_back_is_not_entered(
    tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "node_modules/a/b", "src/node_modules/x", "src/y", "build/keep/z")
    entered = []
    scan = Tree._scan
    monkeypatch.setattr(Tree, "_scan", lambda self, folder: entered.append(folder) or scan(self, folder))
    assert walked(root, "**/node_modules\nbuild\n!build/keep") == [
        "build",
        "build/keep",
        "build/keep/z",
        "src",
        "src/y",
    ]
    assert entered == ["", "build", "build/keep", "src"]


PATHS = st.lists(st.sampled_from(["a", "b", "c/d"]), min_size=1, max_size=4).map("/".join)
LINES = st.lists(
    st.tuples(st.sampled_from(["", "!"]), st.sampled_from(["a", "b", "*", "**/d", "c", "c/d", "a/b", "*/*", "**"])),
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(PATHS, max_size=8), lines=LINES)
def test_a_walk_shows_what_entry_shows(
    tmp_path_factory: pytest.TempPathFactory, files: list[str], lines: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for path in files:
        try:
            make(folder, path)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            continue
    matcher = Matcher(read_patterns("\n".join(sign + text for sign, text in lines).encode()))
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tree = Tree(handle, exclusion=matcher)
        shown = []
        for entry in Tree(handle).walk(""):
            try:
                shown.append(tree.entry(entry.path).path)
            except NotFoundError:
                continue
        assert [entry.path for entry in tree.walk("")] == shown
    finally:
        os.close(handle)


def test_links_stay_inside(tmp_path: Path, root: int) -> None:
    (tmp_path.parent / "outside").write_text("no")
    make(tmp_path, "dir/file", "up -> ../../../dir", "abs -> /dir/file", "self -> self", "out -> ../outside")
    tree = Tree(root)
    assert tree.resolve("up/file") == "dir/file"
    assert tree.resolve("abs") == "dir/file"
    assert tree.resolve("abs", follow_last=False) == "abs"
    assert tree.resolve("out") == "outside"
    with pytest.raises(NotFoundError, match='"/outside": not found'):
        tree.entry(tree.resolve("out"))
    with pytest.raises(StagewrightError, match="too many links on the way to /"):
        tree.resolve("self")
    assert tree.resolve("missing/../dir") == "dir"


def test_a_link_that_appears_is_not_followed(tmp_path: Path, root: int) -> None:
    make(tmp_path, "dir/file", "link -> dir/file", "folder -> dir")
    tree = Tree(root)
    for path in ("link", "folder/file"):
        with pytest.raises(StagewrightError):
            os.close(tree.open(path))


def test_a_hidden_link_leads_nowhere(tmp_path: Path, root: int) -> None:
    make(tmp_path, "dir/file", "link -> dir", "seen -> dir")
    tree = Tree(root, exclusion=Matcher(read_patterns(b"link")))
    assert tree.resolve("seen/file") == "dir/file"
    with pytest.raises(NotFoundError):
        tree.entry(tree.resolve("link/file"))


def test_what_goes_away_meanwhile(tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/x", "b", "c")
    walk = Tree(root, label="/context").walk("")
    assert next(walk).path == "a"
    (tmp_path / "a/x").unlink()
    (tmp_path / "a").rmdir()
    assert [entry.path for entry in walk] == ["b", "c"]
    tree = Tree(root, label="/context")
    for read in (tree.open, tree.open_folder, tree.readlink):
        with pytest.raises(StagewrightError, match="cannot read /context/gone: No such file"):
            read("gone")


def test_a_large_folder_is_looked_at_piece_by_piece(
    tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagewright.sources.tree._SCANNED", 2)
    make(tmp_path, "a", "b/x", "b/y", "b/z", "c", "d", "e")
    walk = Tree(root).walk("")
    assert [next(walk).path, next(walk).path] == ["a", "b"]
    (tmp_path / "b/y").unlink()
    (tmp_path / "d").unlink()
    assert [entry.path for entry in walk] == ["b/x", "b/z", "c", "e"]


def test_names_that_are_no_text(tmp_path: Path, root: int) -> None:
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"x")
    tree = Tree(root)
    (entry,) = tree.walk("")
    assert os.fsencode(entry.path) == b"\xff"
    handle = tree.open(entry.path)
    assert os.read(handle, 10) == b"x"
    os.close(handle)


def test_deep_folders_need_no_stack(tmp_path: Path, root: int) -> None:
    path = "/".join(["d"] * 900)
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    assert walked(root)[-1] == path


def test_resolving_keeps_what_does_not_exist() -> None:
    links = {"a": "b/c", "b/c": "/d", "d/e": "../f"}
    assert resolve_links("a/e/g", links.get, follow_last=True) == "f/g"
    assert resolve_links("./x//y/../z", links.get, follow_last=True) == "x/z"
