"""The digest of what a copy takes: the same by an index of known files, file by file or at once, as by reading all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stagewright.dockerfile.ignore import Matcher, patterns_from
from stagewright.graph.ops import CopyAction
from stagewright.ops.selection import Listing, content_digest
from stagewright.sources import digests as digests_module
from stagewright.sources import tree as tree_module
from stagewright.sources.digests import FileDigests, StatIndex
from stagewright.sources.tree import Tree

FOLDERS = ("a", "a/inner", "a/inner/most", "b", "z")


@pytest.fixture(params=[256, 2], ids=["at-once", "in-pieces"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A folder with files before, between and behind folders, and a link; all of it counts as old."""
    monkeypatch.setattr(digests_module, "_RACY_NS", -(10**10))
    monkeypatch.setattr(tree_module, "_RUN", request.param)
    folder = tmp_path / "context"
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
        for file in ("0", "a.txt", "c", "caf\udce9", "k.log", "x"):
            (folder / name / file).write_bytes(os.fsencode(f"{name} {file}"))
    (folder / "b" / "link").symlink_to("x")
    (folder / "top").write_text("top")
    (folder / "b" / "x").chmod(0o755)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield handle
    os.close(handle)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that were opened to be read."""
    paths: list[str] = []
    opened = Tree.open_file

    def noting(tree: Tree, path: str) -> tuple[int, os.stat_result]:
        paths.append(path)
        return opened(tree, path)

    monkeypatch.setattr(Tree, "open_file", noting)
    return paths


def digest_of(root: int, digests: FileDigests, *hidden: str) -> tuple[str, Listing]:
    exclusion = Matcher(patterns_from(hidden)) if hidden else None
    tree = Tree(root, exclusion=exclusion, owner=(0, 0))
    listings: dict[str, Listing] = {}
    digest = content_digest(tree, [CopyAction(0, "/", "/")], digests, lambda: None, listings.__setitem__)
    return digest, listings[digest]


def rewrite(path: Path, text: str) -> None:
    """Another content, whatever the clock of file times: it may tick less often than a test takes."""
    path.write_text(text)
    os.utime(path, (2, 2))


def touch_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)


CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: None,
    "content": lambda folder: (folder / "a/inner/c").write_text("other"),
    "content-of-the-same-size": lambda folder: rewrite(folder / "a/inner/c", "A inner c"),
    "mode": lambda folder: (folder / "b/c").chmod(0o600),
    "added": lambda folder: (folder / "a/inner/d").write_text("new"),
    "first": lambda folder: (folder / "a/inner/!").write_text("new"),
    "removed": lambda folder: (folder / "a/inner/c").unlink(),
    "last": lambda folder: (folder / "a/inner/x").unlink(),
    "renamed": lambda folder: (folder / "z/c").rename(folder / "z/d"),
    "swapped": lambda folder: (folder / "z/c").rename(folder / "b/c"),
    "a-link-now": lambda folder: ((folder / "z/c").unlink(), (folder / "z/c").symlink_to("x")),
    "a-folder-now": lambda folder: ((folder / "z/c").unlink(), (folder / "z/c").mkdir()),
    "folder-between": lambda folder: (folder / "a/cc").mkdir(),
    "times": touch_all,
}


@pytest.mark.parametrize("hidden", [(), ("**/*.log",), ("a", "!a/inner/most/x")], ids=["all", "some", "most"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_index_changes_no_digest(root: int, tmp_path: Path, change: str, hidden: tuple[str, ...]) -> None:
    index = StatIndex(tmp_path / "index")
    before = digest_of(root, index, *hidden)
    assert before == digest_of(root, FileDigests(), *hidden)
    index.save()
    CHANGES[change](tmp_path / "context")
    fresh = digest_of(root, FileDigests(), *hidden)
    # The one that has just looked at them, the one of the next build, and that of the one after it.
    assert digest_of(root, index, *hidden) == fresh
    later = StatIndex(tmp_path / "index")
    assert digest_of(root, later, *hidden) == fresh
    assert digest_of(root, later, *hidden) == fresh
    later.save()
    assert digest_of(root, StatIndex(tmp_path / "index"), *hidden) == fresh
    if not hidden:
        assert (fresh == before) == (change in ("nothing", "times"))


@pytest.mark.parametrize(("change", "expected"), [("nothing", []), ("content", ["a/inner/c"]), ("removed", [])])
def test_what_is_known_is_not_read(
    root: int, tmp_path: Path, read: list[str], change: str, expected: list[str]
) -> None:
    index = StatIndex(tmp_path / "index")
    digest_of(root, index)
    index.save()
    assert len(read) == len(FOLDERS) * 6 + 1
    CHANGES[change](tmp_path / "context")
    read.clear()
    again = StatIndex(tmp_path / "index")
    digest_of(root, again)
    assert read == expected
    digest_of(root, again)
    assert read == expected
