import os
from pathlib import Path

import pytest
from store_world import World

from stagewright.cache.leases import BuildLease
from stagewright.errors import StoreError
from stagewright.state import State


def test_named_images_stay_and_nameless_ones_go(world: World) -> None:
    kept = world.image("docker.io/library/app:1", b"one", b"two")
    gone = world.blobs_of(world.image(None, b"one", b"three")) - world.blobs_of(kept)
    size = sum(world.state.blobs.size(digest) for digest in gone)
    report = world.store.prune()
    assert world.all_blobs() == world.blobs_of(kept)
    assert {row.id for row in report.rows} == gone
    assert report.reclaimed == size


def test_an_index_keeps_all_of_its_images(world: World) -> None:
    first, second = world.image(None, b"one"), world.image(None, b"two")
    index = world.index("docker.io/library/app:1", first, second)
    world.store.prune(all=True)
    assert world.all_blobs() == {index.digest} | world.blobs_of(first) | world.blobs_of(second)


def test_the_cache_and_what_is_below_it_stay(world: World) -> None:
    bottom = world.snapshot(None)
    middle = world.snapshot(bottom)
    top = world.snapshot(middle)
    orphan = world.snapshot(middle)
    world.result("top", top)
    world.result("scratch", None)
    world.result("gone", orphan + 100)
    world.state.keys.save_content_digest(top, "/", "kept")
    world.state.keys.save_content_digest(orphan, "/", "gone")
    report = world.store.prune()
    assert world.snapshot_ids() == [bottom, middle, top]
    assert [row.id for row in report.rows] == [str(orphan)]
    assert report.reclaimed > 0
    assert {row for (row,) in world.state.db.query("SELECT canonical FROM cache_results")} == {"top", "scratch"}
    assert world.state.db.query("SELECT digest FROM content_digests") == [("kept",)]
    assert Path(world.state.snapshots.folder(top), "file").read_bytes() == b"x"


def test_packed_layers_of_the_cache_stay(world: World) -> None:
    kept, gone = world.snapshot(None), world.snapshot(None)
    world.result("kept", kept)
    kept_blob, gone_blob = world.state.blobs.write(b"kept"), world.state.blobs.write(b"gone")
    world.packed(kept, kept_blob)
    world.packed(gone, gone_blob)
    world.store.prune()
    assert world.all_blobs() == {kept_blob}
    assert world.state.db.query("SELECT digest FROM layer_blobs") == [(kept_blob,)]


def test_base_images_of_the_last_build_stay_until_all_goes(world: World) -> None:
    base = world.image(None, b"one", b"two")
    layers = world.unpacked(base)
    world.resolution("docker.io/library/debian:13", base)
    assert world.store.prune().rows == []
    assert world.snapshot_ids() == layers
    world.store.prune(all=True)
    assert world.snapshot_ids() == []
    assert world.all_blobs() == set()
    assert world.count("resolutions") == 0


def test_all_leaves_named_images_alone(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one", b"two")
    layers = world.unpacked(app)
    other_packing = world.state.blobs.write(b"the same layer, packed in another way")
    world.packed(layers[0], other_packing, "zstd")
    step = world.snapshot(layers[-1])
    world.result("step", step)
    world.state.keys.save_content_digest(layers[0], "/", "x")
    mount = world.cache_mount("/root/.cache", b"1234")
    index = world.state.context_indexes / "abc"
    index.parent.mkdir()
    index.write_bytes(b"index")
    report = world.store.prune(all=True)
    assert world.snapshot_ids() == layers
    assert world.all_blobs() == world.blobs_of(app)
    for table in ("cache_results", "cache_keys", "content_digests", "cache_mounts", "resolutions"):
        assert world.count(table) == 0, table
    assert not mount.exists()
    assert not index.exists()
    assert ("cache mount", "/root/.cache") in [(row.kind, row.description) for row in report.rows]
    assert ("cache", str(step)) in [(row.kind, row.id) for row in report.rows]
    assert world.store.prune(all=True).rows == []


def test_cache_mounts_stay_but_unfinished_ones_go(world: World) -> None:
    mount = world.cache_mount("/root/.cache", b"1234")
    orphan = mount.parent / "0123456789abcdef"
    orphan.mkdir()
    (orphan / "half").write_bytes(b"x" * 5000)
    report = world.store.prune()
    assert (mount / "kept").read_bytes() == b"1234"
    assert not orphan.exists()
    assert report.reclaimed >= 5000


def test_snapshots_that_share_a_folder_go_one_by_one(world: World) -> None:
    base, other, layer = world.snapshot(None), world.snapshot(None), world.snapshot(None, b"shared")
    grafts = [world.state.snapshots.graft(layer, base), world.state.snapshots.graft(layer, other)]
    world.result("graft", grafts[0])
    world.store.prune()
    assert world.snapshot_ids() == [base, grafts[0]]
    assert Path(world.state.snapshots.folder(grafts[0]), "file").read_bytes() == b"shared"


def leave_dead_pieces(world: World) -> list[Path]:
    """What a build leaves that is killed, and what the disk has of a removal that was."""
    child = os.fork()
    if not child:
        state = State(str(world.root), {})
        state.snapshots.prepare(None)
        state.blobs.writer().write(b"half")
        os._exit(0)
    os.waitpid(child, 0)
    trash = world.root / "snapshots" / "trash" / "0"
    trash.mkdir()
    return [trash, *(world.root / "snapshots" / "drafts").iterdir(), *(world.root / "content" / "ingest").iterdir()]


@pytest.mark.parametrize("all", [False, True])
def test_while_a_build_runs_only_dead_pieces_go(world: World, all: bool) -> None:
    unused = world.snapshot(None)
    blob = world.state.blobs.write(b"not named yet")
    mount = world.cache_mount("/m", b"")
    with BuildLease(world.state.locks), world.state.blobs.writer() as live:
        live.write(b"alive")
        draft = world.state.snapshots.prepare(None)
        dead = leave_dead_pieces(world)
        dead.remove(Path(draft.path).parent)
        dead = [path for path in dead if path != live._path]
        assert len(dead) == 3
        report = world.store.prune(all=all)
        assert [path for path in dead if path.exists()] == []
        assert Path(draft.fs).is_dir()
        world.state.snapshots.discard(draft)
        live.commit()
    assert (report.busy, report.rows) == (True, [])
    assert world.snapshot_ids() == [unused]
    assert world.state.blobs.has(blob)
    assert mount.exists()
    assert len(world.store.prune(all=all).rows) >= 3


def test_a_damaged_image_loses_nothing_to_a_prune_of_others(world: World) -> None:
    whole, broken = world.image("docker.io/library/whole:1", b"1"), world.image("docker.io/library/broken:1", b"2")
    world.state.blobs.path(broken.digest).write_bytes(b"damage")
    world.store.prune(all=True)
    assert world.blobs_of(whole) <= world.all_blobs()
    assert broken.digest in world.all_blobs()


def test_a_prune_of_nothing(world: World) -> None:
    report = world.store.prune(all=True)
    assert (report.reclaimed, list(report.rows)) == (0, [])


def rows(world: World, kind: str) -> dict[str, tuple[int, bool, str]]:
    return {row.id: (row.size, row.in_use, row.description) for row in world.store.disk_usage() if row.kind == kind}


def test_disk_usage_counts_each_byte_once(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one", b"two")
    world.state.images.put("docker.io/library/app:latest", app)
    other = world.image("docker.io/library/other:1", b"one", b"three")
    layers = world.unpacked(app)
    step = world.snapshot(layers[-1], b"x" * 10_000)
    graft = world.state.snapshots.graft(step, layers[0])
    world.result("step", step, "RUN make")
    mount = world.cache_mount("/root/.cache", b"x" * 9000)
    loose = world.state.blobs.write(b"loose")

    def total(blobs: set[str]) -> int:
        return sum(world.state.blobs.size(digest) for digest in blobs)

    images = rows(world, "image")
    assert images == {
        app.digest: (total(world.blobs_of(app)), True, "docker.io/library/app:1, docker.io/library/app:latest"),
        other.digest: (total(world.blobs_of(other) - world.blobs_of(app)), True, "docker.io/library/other:1"),
    }
    assert rows(world, "blob") == {loose: (5, False, "")}
    assert {key: in_use for key, (_, in_use, _) in rows(world, "layer snapshot").items()} == {
        str(layer): True for layer in layers
    }
    cache = rows(world, "cache")
    assert cache[str(step)][0] >= 10_000
    assert cache[str(step)][1:] == (False, "RUN make")
    assert cache[str(graft)][0] == 0
    (size, in_use, identity) = rows(world, "cache mount")[mount.name]
    assert (size >= 9000, in_use, identity) == (True, False, "/root/.cache")


def test_everything_is_in_use_while_a_build_runs(world: World) -> None:
    world.snapshot(None)
    world.state.blobs.write(b"loose")
    with BuildLease(world.state.locks):
        assert {row.in_use for row in world.store.disk_usage()} == {True}
    assert {row.in_use for row in world.store.disk_usage()} == {False}


def test_an_image_that_lacks_blobs_has_the_size_of_the_rest(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    world.state.blobs.delete(world.manifest(app)["layers"][0]["digest"])
    assert rows(world, "image")[app.digest][0] == app.size + world.manifest(app)["config"]["size"]


# --- what came from the network ---------------------------------------------------------------------------------------


def repository(world: World, text: str = "https://example.com/r.git\n") -> Path:
    """A folder as git sources keep one for a remote."""
    path = world.state.git_repositories / "0123"
    path.mkdir(parents=True)
    (path / "description").write_text(text)
    (path / "pack").write_bytes(b"x" * 9000)
    return path


def test_fetched_commits_stay_until_all_goes(world: World) -> None:
    path = repository(world)
    (size, in_use, remote) = rows(world, "git repository")[path.name]
    assert (size >= 9000, in_use, remote) == (True, False, "https://example.com/r.git")
    assert world.store.prune().rows == []
    report = world.store.prune(all=True)
    assert [(row.kind, row.description) for row in report.rows] == [("git repository", "https://example.com/r.git")]
    assert report.reclaimed >= size
    assert not path.exists()


def test_a_repository_that_a_killed_build_left_unfinished(world: World) -> None:
    path = repository(world)
    (path / "description").unlink()
    assert rows(world, "git repository")[path.name][2] == ""


def test_what_urls_held_is_no_image(world: World) -> None:
    world.state.db.execute(
        "INSERT INTO resolutions (name, value, resolved) VALUES ('url:0123', '{\"etag\": \"x\"}', 0)"
    )
    world.store.prune()
    assert world.count("resolutions") == 1
    world.store.prune(all=True)
    assert world.count("resolutions") == 0


def test_a_store_that_cannot_be_cleaned(world: World) -> None:
    ingest = world.root / "content" / "ingest"
    world.state.blobs.write(b"x")
    ingest.rmdir()
    ingest.touch()
    with pytest.raises(StoreError) as caught:
        world.store.prune()
    assert caught.value.message == f"cannot prune {world.root}: {ingest}: Not a directory"
