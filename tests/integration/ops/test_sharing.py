"""Files that snapshots have in common: when a copy is a link to what is there already, and when it must not be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from op_worker import Bench, write

from stagewright.graph.ops import CopyAction, FileOp
from stagewright.ops.result import Result
from stagewright.snapshots import overlay

MANY = {f"src/d/f{number}": f"text {number}" for number in range(20)}


def inode(bench: Bench, snapshot: int, path: str) -> int:
    """That of a file in the snapshot's own layer."""
    return os.lstat(os.path.join(bench.snapshots.folder(snapshot), path)).st_ino


def age(bench: Bench, *, mtime: int = 1_000_000_000) -> None:
    for folder, _, names in os.walk(bench.context_folder):
        for name in names:
            os.utime(os.path.join(folder, name), (mtime, mtime))


def test_a_copy_from_a_stage_is_a_link(bench: Bench) -> None:
    stage = bench.snapshot({"m/a": "A", "m/d/b": "B", "m/l": "-> a", "single": "S"})
    os.setxattr(os.path.join(bench.snapshots.folder(stage), "m/a"), "user.note", b"kept")
    base = bench.snapshot({"etc/passwd": ""})
    copy = bench.copy("m", "/x", base=base, stage=stage)
    assert bench.tree(copy) == {
        "etc": "/",
        "etc/passwd": "",
        "x": "/",
        "x/a": "A",
        "x/d": "/",
        "x/d/b": "B",
        "x/l": "-> a",
    }
    assert inode(bench, copy, "x/a") == inode(bench, stage, "m/a")
    assert inode(bench, copy, "x/d/b") == inode(bench, stage, "m/d/b")
    single = bench.copy("single", "/s", base=base, stage=stage)
    assert inode(bench, single, "s") == inode(bench, stage, "single")


@pytest.mark.parametrize(("owner", "mode"), [("7:8", ""), ("", "0700"), ("", "a+x")])
def test_other_metadata_takes_a_copy(bench: Bench, owner: str, mode: str) -> None:
    stage = bench.snapshot({"m/a": "A"})
    copy = bench.copy("m", "/x", stage=stage, owner=owner, mode=mode)
    assert inode(bench, copy, "x/a") != inode(bench, stage, "m/a")
    assert bench.mode(stage, "m/a") == "644"
    assert bench.owner(stage, "m/a") == (0, 0)


def test_one_tree_has_no_file_twice(bench: Bench) -> None:
    stage = bench.snapshot({"m/a": "A"})
    first = bench.copy("m", "/one", stage=stage)
    second = bench.copy("m", "/two", base=first, stage=stage)
    assert inode(bench, first, "one/a") == inode(bench, stage, "m/a")
    assert bench.stat(second, "one/a").st_ino != bench.stat(second, "two/a").st_ino
    # Nor by way of a third snapshot.
    third = bench.copy("two", "/three", base=first, stage=second)
    fourth = bench.copy("three", "/four", base=second, stage=third)
    assert len({bench.stat(fourth, path).st_ino for path in ("one/a", "two/a", "four/a")}) == 3


def test_what_lies_below_both_is_copied(bench: Bench) -> None:
    base = bench.snapshot({"m/a": "A"})
    stage = bench.snapshot({"m/b": "B"}, base)
    copy = bench.copy("m", "/x", base=base, stage=stage)
    assert inode(bench, copy, "x/a") != inode(bench, base, "m/a")
    assert inode(bench, copy, "x/b") == inode(bench, stage, "m/b")


def test_links_among_the_sources_stay(bench: Bench) -> None:
    stage = bench.snapshot({"m/a": "A", "m/b": lambda path: os.link(Path(path).with_name("a"), path)})
    copy = bench.copy("m", "/x", stage=stage)
    assert inode(bench, copy, "x/a") == inode(bench, copy, "x/b") == inode(bench, stage, "m/a")
    # The matches of a wildcard are copies apart.
    apart = bench.copy("m/*", "/x/", stage=stage)
    assert inode(bench, apart, "x/a") != inode(bench, apart, "x/b")


def test_a_layer_without_merging_is_read_as_the_view_shows_it(bench: Bench) -> None:
    draft = bench.snapshots.prepare(None)
    write(draft.fs, {"m/a": "A", "m/d/b": "B"})
    overlay.make_whiteout(draft.fs, os.path.join(draft.fs, "m"), b"gone", 0)
    overlay.make_opaque(os.path.join(draft.fs, "m/d"))
    stage = bench.snapshots.commit(draft)
    copy = bench.copy("m", "/x", stage=stage)
    expected = {"x": "/", "x/a": "A", "x/d": "/", "x/d/b": "B"}
    assert bench.tree(copy) == expected
    assert sorted(os.listdir(os.path.join(bench.snapshots.folder(copy), "x"))) == ["a", "d"]
    assert not overlay.is_opaque(os.path.join(bench.snapshots.folder(copy), "x/d"))
    merged = bench.snapshot({"other": "O"}, stage)
    action = CopyAction(1, "m", "/x")
    assert bench.key(action, stage) == bench.key(action, merged)


def test_a_context_is_copied_once(bench: Bench) -> None:
    write(bench.context_folder, MANY)
    age(bench)
    first = bench.copy("src", "/x")
    bench.next_build()
    write(bench.context_folder, {"src/d/f0": "other", "src/d/new": "new"})
    (bench.context_folder / "src/d/f1").chmod(0o600)
    os.utime(bench.context_folder / "src/d/f2", (1, 1))
    (bench.context_folder / "src/d/f3").unlink()
    second = bench.copy("src", "/x")
    merged = bench.tree(second)
    expected = {path: text for path, text in MANY.items() if path != "src/d/f3"} | {
        "src/d/f0": "other",
        "src/d/new": "new",
    }
    assert {path: text for path, text in merged.items() if text != "/"} == {
        path.replace("src", "x"): text for path, text in expected.items()
    }
    shared = {name for name in merged if merged[name] != "/" and name != "x/d/new"}
    shared = {name for name in shared if inode(bench, first, name) == inode(bench, second, name)}
    assert shared == {f"x/d/f{number}" for number in range(4, 20)}
    assert bench.mode(second, "x/d/f1") == "600"
    assert bench.stat(second, "x/d/f2").st_mtime == 1
    assert bench.stat(first, "x/d/f2").st_mtime == 1_000_000_000
    # What is copied elsewhere, or with another owner, is another copy.
    bench.next_build()
    assert inode(bench, bench.copy("src", "/y"), "y/d/f9") != inode(bench, first, "x/d/f9")
    third = bench.copy("src", "/x", owner="5:6")
    assert inode(bench, third, "x/d/f9") != inode(bench, first, "x/d/f9")


def test_files_of_a_context_that_were_links_are_apart_again(bench: Bench) -> None:
    write(bench.context_folder, MANY)
    twin = bench.context_folder / "src/d/twin"
    os.link(bench.context_folder / "src/d/f0", twin)
    age(bench)
    first = bench.copy("src", "/x")
    assert inode(bench, first, "x/d/f0") == inode(bench, first, "x/d/twin")
    bench.next_build()
    twin.unlink()
    twin.write_text("text 0")
    age(bench)
    second = bench.copy("src", "/x")
    assert inode(bench, second, "x/d/f0") != inode(bench, second, "x/d/twin")


def test_an_unpacked_archive_writes_to_no_other_snapshot(bench: Bench) -> None:
    stage = bench.snapshot({"m/a": "A"})
    action = CopyAction(1, "m", "/x", unpack=True)
    result = bench.run(FileOp((action,), base=0), Result(None), Result(stage))
    assert result.snapshot is not None
    assert inode(bench, result.snapshot, "x/a") != inode(bench, stage, "m/a")


def test_links_outlive_what_they_were_made_from(bench: Bench) -> None:
    write(bench.context_folder, MANY)
    age(bench)
    first = bench.copy("src", "/x")
    bench.next_build()
    write(bench.context_folder, {"src/d/f0": "other"})
    second = bench.copy("src", "/x")
    alone = bench.snapshots.size(second)
    bench.snapshots.remove(first)
    assert bench.tree(second)["x/d/f9"] == "text 9"
    assert alone < 19 * 4096
    bench.next_build()
    write(bench.context_folder, {"src/d/f1": "other"})
    third = bench.copy("src", "/x")
    assert inode(bench, third, "x/d/f9") == inode(bench, second, "x/d/f9")
    bench.snapshots.remove(second)
    bench.snapshots.remove(third)
    assert bench.db.query("SELECT * FROM linked_files") == bench.db.query("SELECT dir FROM context_copies") == []
    bench.next_build()
    assert bench.tree(bench.copy("src", "/x"))["x/d/f9"] == "text 9"


def test_a_layer_that_shares_files_is_laid_on_others_as_a_copy(bench: Bench) -> None:
    stage = bench.snapshot({"m/a": "A", "m/b": lambda path: os.link(Path(path).with_name("a"), path), "m/l": "-> a"})
    base = bench.snapshot({"m/d/below": "x", "m/gone": "x"})
    draft = bench.snapshots.prepare(None)
    write(draft.fs, {"m/d/e": None})
    overlay.make_whiteout(draft.fs, os.path.join(draft.fs, "m"), b"gone", 5)
    links = bench.snapshots.links(draft)
    giver = links.giver(bench.snapshots.lowers(stage))
    folder = os.open(os.path.join(draft.fs, "m"), os.O_RDONLY)
    for name in ("a", "b"):
        found = giver.find(b"m/a")
        assert found is not None
        if not giver.link(found, folder, name):
            os.link("a", name, src_dir_fd=folder, dst_dir_fd=folder)
    os.close(folder)
    linked = bench.snapshots.commit(draft, links.origins)
    # As the layers of images have them.
    overlay.make_opaque(os.path.join(bench.snapshots.folder(linked), "m/d"))
    assert bench.snapshots.folder(bench.snapshots.graft(linked, base)) == bench.snapshots.folder(linked)
    onto = bench.copy("m", "/other", base=base, stage=stage)
    grafted = bench.snapshots.graft(linked, onto)
    assert bench.snapshots.folder(grafted) != bench.snapshots.folder(linked)
    assert bench.stat(grafted, "m/a").st_ino == bench.stat(grafted, "m/b").st_ino
    assert bench.stat(grafted, "m/a").st_ino != bench.stat(grafted, "other/a").st_ino
    merged = bench.tree(grafted)
    assert {path: merged[path] for path in merged if path.startswith("m/")} == {
        "m/a": "A", "m/b": "A", "m/d": "/", "m/d/e": "/",
    }  # fmt: skip
