"""A prune that is killed at any point costs nothing: what it keeps is whole, and the next one ends as it would have."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from store_world import World

# What a prune does to the disk, as the interpreter announces it.
_DEEDS = frozenset({"os.remove", "os.rename", "os.rmdir"})


def fill(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one", b"two")
    layers = world.unpacked(app)
    world.image(None, b"three")
    world.resolution("docker.io/library/base:1", world.image(None, b"base"))
    step = world.snapshot(layers[-1])
    world.result("step", step)
    world.state.snapshots.graft(step, layers[0])
    world.snapshot(world.snapshot(None))
    world.cache_mount("/m", b"1234")


def die_at(deed: int) -> None:
    """Let this process end without a word when it is about to change the disk for the `deed`th time."""
    left = deed

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in _DEEDS:
            left -= 1
            if not left:
                os._exit(9)

    sys.addaudithook(hook)


def prune_and_die(root: Path, deed: int, all: bool) -> bool:
    """Prune in a process of its own; whether it died before its end."""
    child = os.fork()
    if not child:
        status = 1
        try:
            world = World(root)
            die_at(deed)
            world.store.prune(all=all)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def check_whole(world: World) -> None:
    rows = {row.id: row for row in world.state.snapshots.rows()}
    for row in rows.values():
        assert row.parent is None or row.parent in rows
        assert Path(world.state.snapshots.folder(row.id), "file").is_file()
    for info in world.store.images():
        for layer in world.store.inspect(info.name)["layers"]:
            assert world.state.blobs.has(layer["digest"])
    for (name,) in world.state.db.query("SELECT dir FROM cache_mounts"):
        assert (world.root / "mounts" / name / "kept").is_file()
    # A key whose result is gone is known to be a miss.
    known = world.state.keys.lookup("d:step")
    assert known is None or known.result is None or known.result.snapshot in rows


def remains(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if "metadata.db" not in path.name)


@pytest.mark.parametrize("all", [False, True])
def test_a_prune_that_is_killed(tmp_path: Path, all: bool) -> None:
    made = World(tmp_path / "made")
    fill(made)
    made.close()
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "made", whole)
    assert not prune_and_die(whole, 0, all)
    deed = 1
    while True:
        root = tmp_path / "killed"
        shutil.copytree(tmp_path / "made", root)
        died = prune_and_die(root, deed, all)
        world = World(root)
        try:
            check_whole(world)
            world.store.prune(all=all)
            check_whole(world)
        finally:
            world.close()
        assert remains(root) == remains(whole)
        shutil.rmtree(root)
        if not died:
            break
        deed += 1
    assert deed > 5
