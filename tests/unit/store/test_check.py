"""What `check` finds in a store that was damaged in each way, what a repair makes of it, and what it leaves alone."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from store_world import World

from stagewright.cache.leases import BuildLease
from stagewright.content.db import SCHEMA_VERSION
from stagewright.errors import StoreError
from stagewright.reports import StoreProblem

APP = "docker.io/library/app:1"


def fill(world: World) -> None:
    app = world.image(APP, b"one", b"two")
    layers = world.unpacked(app)
    step = world.snapshot(layers[-1])
    world.result("step", step, "RUN make")
    world.result("next", world.snapshot(step), "RUN test")
    world.state.snapshots.graft(step, layers[0])
    world.resolution("docker.io/library/base:1", world.image(None, b"base"))
    world.cache_mount("/m", b"1234")


def found(world: World, *, repair: bool = False) -> list[StoreProblem]:
    return list(world.store.check(repair=repair).problems)


def check_one(world: World, kind: str, what: str = "", wrong: str = "") -> StoreProblem:
    """The only problem is the one that is meant; a repair mends it for good."""
    (problem,) = found(world)
    assert (problem.kind, problem.repaired) == (kind, False)
    assert what in problem.what
    assert wrong in problem.wrong
    repaired = found(world, repair=True)
    assert repaired[0].kind == kind
    assert all(problem.repaired for problem in repaired)
    assert found(world) == []
    return problem


def test_a_store_that_does_not_exist(tmp_path: Path) -> None:
    world = World(tmp_path / "state")
    assert found(world) == []
    assert not world.root.exists()


def test_a_whole_store(world: World) -> None:
    fill(world)
    check = world.store.check()
    assert (check.problems, check.busy) == ((), False)
    assert (check.blobs, check.snapshots, check.images) == (7, 5, 1)
    assert world.store.check(repair=True) == check


def test_what_only_looks_odd_is_right(world: World) -> None:
    fill(world)
    # A result that was pruned: its key still says what was built on it.
    world.state.keys.link("d:pruned", "pruned")
    # A layer that has not come yet, and one whose blob was pruned.
    world.state.snapshots.add_lazy(None, "sha256:" + "1" * 64, None)
    world.packed(world.snapshot(None), "sha256:" + "2" * 64)
    # An image whose layers a registry has, and an index of which one platform was pulled.
    pushed = world.image("docker.io/library/pushed:1", b"elsewhere")
    world.state.blobs.delete(world.manifest(pushed)["layers"][0]["digest"])
    foreign = world.image(None, b"foreign")
    world.index("docker.io/library/multi:1", foreign, pushed)
    world.state.blobs.delete(foreign.digest)
    assert found(world) == []


def test_a_damaged_layer_of_a_named_image(world: World) -> None:
    fill(world)
    app = world.state.images.list()[0].descriptor
    layer = world.manifest(app)["layers"][0]["digest"]
    path = world.state.blobs.path(layer)
    path.write_bytes(bytes(path.stat().st_size))
    problems = found(world)
    assert [(problem.kind, problem.what) for problem in problems] == [("blob", layer), ("image", APP)]
    assert layer in problems[1].wrong
    assert [problem.repaired for problem in found(world, repair=True)] == [True, True]
    assert not path.exists()
    assert world.state.images.list() == []
    assert found(world) == []


def test_a_damaged_blob_of_no_image(world: World) -> None:
    fill(world)
    digest = world.state.blobs.write(b"whole")
    world.state.blobs.path(digest).write_bytes(b"hole?")
    check_one(world, "blob", digest, "not what its digest says")
    assert world.state.images.get(APP) is not None


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_an_image_without_its_documents(world: World, part: str) -> None:
    fill(world)
    app = world.state.images.list()[0].descriptor
    digest = app.digest if part == "manifest" else world.manifest(app)["config"]["digest"]
    world.state.blobs.delete(digest)
    check_one(world, "image", APP, digest)


def test_a_name_that_leads_nowhere(world: World) -> None:
    world.state.db.execute("INSERT INTO images VALUES (?, '{', 0)", (APP,))
    check_one(world, "image", APP, "cannot be read")


def test_a_snapshot_without_its_folder(world: World) -> None:
    fill(world)
    before = world.snapshot_ids()
    step = world.state.keys.lookup("d:step")
    assert step is not None and step.result is not None and step.result.snapshot is not None
    shutil.rmtree(world.state.snapshots.folder(step.result.snapshot))
    problems = found(world)
    # The graft shares the folder; what is built on the step goes with it.
    assert [problem.kind for problem in problems] == ["snapshot", "snapshot"]
    assert "RUN make, RUN test" in problems[0].costs
    found(world, repair=True)
    assert world.snapshot_ids() == before[:2]
    assert found(world) == []
    again = world.state.keys.lookup("d:step")
    assert again is not None and again.result is None


def test_a_snapshot_without_its_parent(world: World) -> None:
    top = world.snapshot(world.snapshot(None))
    connection = sqlite3.connect(world.root / "metadata.db")
    connection.execute("DELETE FROM snapshots WHERE id < ?", (top,))
    connection.commit()
    connection.close()
    shutil.rmtree(world.root / "snapshots" / "1")
    check_one(world, "snapshot", str(top), "not there")
    assert world.snapshot_ids() == []


def orphan(world: World) -> Path:
    folder = world.root / "snapshots" / "4711"
    folder.mkdir()
    return folder


def draft(world: World) -> Path:
    folder = world.root / "snapshots" / "drafts" / "abc"
    (folder / "fs").mkdir(parents=True)
    return folder


def trash(world: World) -> Path:
    folder = world.root / "snapshots" / "trash" / "abc"
    folder.mkdir()
    return folder


def ingest(world: World) -> Path:
    file = world.root / "content" / "ingest" / "abc"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"half a blob")
    return file


def mount(world: World) -> Path:
    folder = world.root / "mounts" / "abc"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("leave", [orphan, draft, trash, ingest, mount])
def test_what_dead_processes_leave(world: World, leave: Callable[[World], Path]) -> None:
    fill(world)
    path = leave(world)
    check_one(world, "leftover", str(path))
    assert not path.exists()


def test_a_cache_mount_without_its_folder(world: World) -> None:
    shutil.rmtree(world.cache_mount("/m", b"1"))
    check_one(world, "cache mount", "/m", "missing")
    assert world.cache_mount("/m", b"2").is_dir()


def test_a_cache_mount_that_a_dead_step_has(world: World) -> None:
    folder = world.cache_mount("/m", b"1")
    away = world.root / "away"
    folder.rename(away)
    world.state.cache_mounts.lent(str(folder), str(away))
    problems = found(world)
    assert {problem.kind for problem in problems} == {"cache mount"}
    found(world, repair=True)
    assert (folder / "kept").read_bytes() == b"1"
    assert found(world) == []


def test_a_stat_index_that_cannot_be_read(world: World) -> None:
    fill(world)
    index = world.state.context_indexes / "abc"
    index.parent.mkdir()
    index.write_bytes(b"?")
    check_one(world, "stat index", str(index))
    assert not index.exists()


def test_rows_that_point_nowhere(world: World) -> None:
    world.result("gone", 4711)
    check_one(world, "rows", "cache_results")
    world.packed(world.snapshot(None), "sha256:" + "1" * 64)
    world.state.db.execute("UPDATE layer_blobs SET dir = '4711'")
    check_one(world, "rows", "layer_blobs")


def test_nothing_is_repaired_beside_a_build(world: World) -> None:
    fill(world)
    folder = orphan(world)
    digest = world.state.blobs.write(b"whole")
    world.state.blobs.path(digest).write_bytes(b"hole?")
    with BuildLease(world.state.locks):
        check = world.store.check(repair=True)
        assert check.busy
        # The folder may be a build's that is about to write its row.
        assert [(problem.kind, problem.repaired) for problem in check.problems] == [("blob", False)]
    assert folder.exists()
    assert world.state.blobs.has(digest)


# --- the metadata file ------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def overwrite_head(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"\xff" * 2000)


def overwrite_keys(path: Path) -> None:
    """Damage the pages of one table, as a bad sector would."""
    data = path.read_bytes()
    pages = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    path.write_bytes(b"".join(b"\xee" * 4096 if page.count(b"x" * 100) > 5 else page for page in pages))


@pytest.mark.parametrize("damage", [truncate, overwrite_head, overwrite_keys])
def test_a_damaged_metadata_file(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    made = World(tmp_path / "state")
    fill(made)
    with made.state.db.transaction():
        for number in range(2000):
            made.state.keys.link(f"d:{number}", "x" * 100)
    half = made.image("docker.io/library/half:1", b"half")
    made.state.blobs.delete(made.manifest(half)["layers"][0]["digest"])
    kept = made.blobs_of(made.state.images.list()[0].descriptor)
    made.state.db.query("PRAGMA wal_checkpoint(TRUNCATE)")
    made.close()
    path = made.root / "metadata.db"
    damage(path)

    world = World(made.root)
    try:
        with pytest.raises(StoreError, match="damaged") as caught:
            # Which part of the file is looked at first depends on what was damaged.
            world.state.images.put("docker.io/library/x:1", half)
            world.state.snapshots.rows()
            world.state.db.query("SELECT * FROM cache_keys ORDER BY canonical")
        assert "check" in str(caught.value.hint)
    finally:
        world.close()

    world = World(made.root)
    try:
        problems = found(world)
        assert [problem.kind for problem in problems] == ["metadata"]
        repaired = found(world, repair=True)
        assert all(problem.repaired for problem in repaired)
        assert found(world) == []
        # Of a file without a head no table can be found. Its image can be named again.
        readable = damage is not overwrite_head
        assert [image.name for image in world.state.images.list()] == ([APP] if readable else [])
        assert kept <= world.all_blobs()
        assert len(list(made.root.glob("metadata.db.damaged-*"))) >= 1
        world.result("works", world.snapshot(None))
    finally:
        world.close()


def test_a_file_of_a_newer_version(world: World) -> None:
    fill(world)
    world.state.db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match="another version") as caught:
        found(world, repair=True)
    assert "remove the state directory" in str(caught.value.hint)
