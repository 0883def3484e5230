"""Digests of a context's files, and the index that remembers them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagewright.errors import StoreError
from stagewright.sources import digests as digests_module
from stagewright.sources.digests import FileDigests, StatIndex, describe
from stagewright.sources.tree import Tree


class Context:
    """A folder, its index, and which of its files were read."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "context"
        self.folder.mkdir()
        self.path = folder / "indexes" / "one"
        self.read: list[str] = []
        self.handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        self.tree = Tree(self.handle, owner=(0, 0))
        opened = Tree.open_file

        def noting(tree: Tree, path: str) -> tuple[int, os.stat_result]:
            self.read.append(path)
            return opened(tree, path)

        monkeypatch.setattr(Tree, "open_file", noting)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def digest(self, index: FileDigests, name: str) -> str:
        return index.digest(self.tree, self.tree.entry(name)).hex()


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    made = Context(tmp_path, monkeypatch)
    yield made
    os.close(made.handle)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written just now counts as old."""
    monkeypatch.setattr(digests_module, "_RACY_NS", -(10**10))


@pytest.mark.usefixtures("later")
def test_a_file_is_read_once(context: Context) -> None:
    context.write("f", "one")
    index = StatIndex(context.path)
    first = context.digest(index, "f")
    assert context.digest(index, "f") == first
    index.save()
    assert context.digest(StatIndex(context.path), "f") == first
    assert context.read == ["f"]


@pytest.mark.usefixtures("later")
def test_a_touched_file_is_read_again_and_is_the_same(context: Context) -> None:
    context.write("f", "one")
    index = StatIndex(context.path)
    first = context.digest(index, "f")
    os.utime(context.folder / "f", (1, 1))
    assert context.digest(index, "f") == first
    assert context.read == ["f", "f"]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", ["content", "times kept", "replaced", "attribute"])
def test_every_change_is_seen(context: Context, change: str) -> None:
    context.write("f", "one")
    before = os.stat(context.folder / "f")
    index = StatIndex(context.path)
    first = context.digest(index, "f")
    index.save()
    while time.time_ns() - before.st_ctime_ns < 20_000_000:
        pass
    if change == "attribute":
        os.setxattr(context.folder / "f", "user.x", b"1")
    elif change == "replaced":
        context.write("g", "two")
        os.rename(context.folder / "g", context.folder / "f")
    else:
        context.write("f", "two")
    if change != "content":
        os.utime(context.folder / "f", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert context.digest(StatIndex(context.path), "f") != first


def test_a_file_that_was_just_written_is_not_trusted(context: Context) -> None:
    context.write("f", "one")
    index = StatIndex(context.path)
    first = context.digest(index, "f")
    stamp = os.stat(context.folder / "f")
    # Another change within the same tick of the clock: the same size and times, other bytes.
    context.write("f", "two")
    os.utime(context.folder / "f", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert context.digest(index, "f") != first


def test_trust_counts_from_before_the_file_was_read(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    context.write("f", "one")
    index = StatIndex(context.path)
    hash_file = digests_module._hash_open_file

    def slowly(handle: int, info: os.stat_result) -> bytes:
        digest = hash_file(handle, info)
        written = os.stat(context.folder / "f").st_ctime_ns
        while time.time_ns() - written < digests_module._RACY_NS + 10_000_000:
            pass
        return digest

    monkeypatch.setattr(digests_module, "_hash_open_file", slowly)
    context.digest(index, "f")
    context.digest(index, "f")
    assert context.read == ["f", "f"]


@pytest.mark.usefixtures("later")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.write("f", "one")
    index = StatIndex(context.path)
    hash_file = digests_module._hash_open_file

    def changing(handle: int, info: os.stat_result) -> bytes:
        digest = hash_file(handle, info)
        context.write("f", "longer now")
        return digest

    monkeypatch.setattr(digests_module, "_hash_open_file", changing)
    context.digest(index, "f")
    monkeypatch.undo()
    index.save()
    assert not context.path.exists()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "bit", "older", "folder"])
def test_a_damaged_index_costs_reading_only(context: Context, damage: str) -> None:
    context.write("f", "one")
    index = StatIndex(context.path)
    first = context.digest(index, "f")
    index.save()
    data = context.path.read_bytes()
    context.path.unlink()
    if damage == "folder":
        context.path.mkdir()
    else:
        cases = {
            "empty": b"",
            "cut": data[:-3],
            "zeros": bytes(len(data)),
            "bit": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
            "older": b"stagewright stat index 1" + data[24:],
        }
        context.path.write_bytes(cases[damage])
    assert context.digest(StatIndex(context.path), "f") == first
    assert context.read == ["f", "f"]


@pytest.mark.usefixtures("later")
def test_the_index_is_written_whole_and_by_many(context: Context) -> None:
    context.write("f", "one")
    one, two = StatIndex(context.path), StatIndex(context.path)
    context.digest(one, "f")
    context.digest(two, "f")
    one.save()
    two.save()
    one.save()
    assert os.listdir(context.path.parent) == ["one"]


@pytest.mark.usefixtures("later")
def test_files_that_are_gone_leave_the_index_in_time(context: Context) -> None:
    for number in range(1200):
        context.write(f"old{number}", "")
    index = StatIndex(context.path)
    for number in range(1200):
        context.digest(index, f"old{number}")
    index.save()
    context.write("new", "x")
    again = StatIndex(context.path)
    context.digest(again, "new")
    again.save()
    context.read.clear()
    last = StatIndex(context.path)
    context.digest(last, "new")
    context.digest(last, "old0")
    assert context.read == ["old0"]


@pytest.mark.usefixtures("later")
def test_an_index_that_cannot_be_written(context: Context) -> None:
    context.path.parent.write_text("a file is in the way")
    context.write("f", "x")
    index = StatIndex(context.path)
    context.digest(index, "f")
    with pytest.raises(StoreError, match="cannot write"):
        index.save()


@pytest.mark.usefixtures("later")
def test_an_index_that_cannot_be_replaced_leaves_no_other(context: Context) -> None:
    context.path.mkdir(parents=True)
    context.write("f", "x")
    index = StatIndex(context.path)
    context.digest(index, "f")
    with pytest.raises(StoreError, match="cannot write"):
        index.save()
    assert os.listdir(context.path.parent) == [context.path.name]


def test_bytes_that_were_read_are_told(context: Context) -> None:
    context.write("a", "12345")
    context.write("b", "123")
    index = StatIndex(context.path)
    told: list[int] = []
    index.on_read = told.append
    for name in ("a", "b"):
        context.digest(index, name)
    assert told == [5, 8]


def test_what_a_copy_takes_over_is_in_the_record(context: Context) -> None:
    def record(name: str) -> str:
        return describe(context.tree, context.tree.entry(name), "as", FileDigests())

    context.write("f", "x")
    (context.folder / "d").mkdir()
    os.symlink("f", context.folder / "l")
    for name in ("f", "d"):
        before = record(name)
        os.utime(context.folder / name, (1, 1))
        assert record(name) == before
        os.chmod(context.folder / name, 0o711)
        after = record(name)
        assert after != before
        os.setxattr(context.folder / name, "user.x", b"1")
        assert record(name) != after
        os.setxattr(context.folder / name, "user.x", b"2")
        assert record(name).count("\0") == 5
    before = record("l")
    os.unlink(context.folder / "l")
    os.symlink("g", context.folder / "l")
    assert record("l") != before


def test_holes_are_zeros(context: Context) -> None:
    """Equal contents have one digest, wherever their zeros are holes."""
    data = bytes(3 << 20) + b"x" + bytes(2 << 20) + b"y" * (1 << 20) + bytes((1 << 20) + 5)
    (context.folder / "full").write_bytes(data)
    with open(context.folder / "sparse", "wb") as file:
        file.truncate(len(data))
        for at, piece in (((3 << 20), b"x"), ((5 << 20) + 1, b"y" * (1 << 20))):
            file.seek(at)
            file.write(piece)
    with open(context.folder / "partly", "wb") as file:
        file.write(data[: 4 << 20])
        file.truncate(len(data))
        file.seek((5 << 20) + 1)
        file.write(b"y" * (1 << 20))
    digests = {digest_in(context.folder, name) for name in ("full", "sparse", "partly")}
    assert len(digests) == 1
    for number, other in enumerate((data + b"\0", data[:-1], data[1:] + b"\0", data[: 6 << 20] + bytes((2 << 20) + 6))):
        (context.folder / f"other{number}").write_bytes(other)
        digests.add(digest_in(context.folder, f"other{number}"))
    assert len(digests) == 5


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([b"a", b"b"])), max_size=3), st.integers(0, 3 << 10))
@settings(max_examples=30, deadline=None)
def test_where_zeros_are_is_part_of_the_digest(pieces: list[tuple[int, bytes]], tail: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = bytearray((4 << 20) + tail)
        for half, byte in pieces:
            data[half << 19 : (half << 19) + 100] = byte * 100
        (folder / "full").write_bytes(data)
        with open(folder / "sparse", "wb") as file:
            file.truncate(len(data))
            for half, byte in pieces:
                file.seek(half << 19)
                file.write(byte * 100)
        moved = bytes(1 << 20) + data[: -(1 << 20)]
        (folder / "moved").write_bytes(moved)
        full, sparse, other = (digest_in(folder, name) for name in ("full", "sparse", "moved"))
        assert full == sparse
        assert (full == other) == (bytes(data) == moved)


def test_no_content_passes_for_another_with_attributes(context: Context) -> None:
    (context.folder / "plain").write_bytes(b"x\0user.a\0" + b"1\0b")
    (context.folder / "marked").write_bytes(b"x")
    os.setxattr(context.folder / "marked", "user.a", b"b")
    assert digest_in(context.folder, "plain") != digest_in(context.folder, "marked")


def digest_in(folder: Path, name: str) -> bytes:
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tree = Tree(root)
        return FileDigests().digest(tree, tree.entry(name))
    finally:
        os.close(root)
