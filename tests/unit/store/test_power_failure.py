"""What of a store counts, and what a check says, once the machine has stopped before all was on its disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_world import World

from stagewright import syncing
from stagewright.content import unsynced
from stagewright.health.checkup import forget_unsynced

APP = "docker.io/library/app:1"
STOPPED = "was not yet synced to the disk when the machine stopped"


class Machine:
    """A store that is opened anew in each boot."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._patch = monkeypatch
        self.number = 0
        self.world = self._open()

    def _open(self) -> World:
        self.number += 1
        for module in (unsynced, syncing):
            self._patch.setattr(module, "boot_id", lambda: f"boot-{self.number}")
        return World(self._root)

    def sync(self) -> None:
        self.world.close()
        syncing.sync(str(self._root))
        self.number -= 1
        self.world = self._open()

    def stop(self) -> World:
        """The power fails, and the store is opened again."""
        self.world.close()
        self.world = self._open()
        return self.world


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path / "state", monkeypatch)
    yield made
    made.world.close()


def problems(world: World, *, repair: bool = False) -> list[tuple[str, str]]:
    found = world.store.check(repair=repair).problems
    assert all(problem.repaired == repair for problem in found)
    return [(problem.kind, problem.wrong) for problem in found]


def test_nothing_is_wrong_in_the_same_boot(machine: Machine) -> None:
    machine.world.snapshot(None)
    machine.world.cache_mount("/m", b"1")
    assert problems(machine.world) == []
    assert not machine.world.state.db.unsynced.is_any_lost()


def test_snapshots_and_all_that_is_built_on_them(machine: Machine) -> None:
    world = machine.world
    base = world.snapshot(None)
    world.result("base", base, "RUN base")
    machine.sync()
    world = machine.world
    step = world.snapshot(base)
    world.result("step", step, "RUN step")
    # What was synced, put on what was not.
    grafted = world.state.snapshots.graft(base, world.snapshot(None))
    world.result("grafted", grafted, "RUN grafted")
    world = machine.stop()
    assert [(kind, STOPPED in wrong) for kind, wrong in problems(world)] == [("snapshot", True)] * 2
    assert forget_unsynced(world.state).endswith("made anew is 3 snapshots")
    assert world.snapshot_ids() == [base]
    assert world.count("cache_results") == 1
    assert forget_unsynced(world.state) == ""
    assert [kind for kind, _ in problems(world, repair=True)] == ["leftover", "leftover"]
    assert problems(world) == []


def test_a_repair_does_the_same(machine: Machine) -> None:
    world = machine.world
    world.result("step", world.snapshot(None))
    folder = world.cache_mount("/m", b"1")
    blob = world.state.blobs.path(world.image(APP, b"one").digest)
    world = machine.stop()
    os.truncate(blob, 0)
    before = problems(world)
    assert [kind for kind, _ in before] == ["snapshot", "cache mount", "blob", "image"]
    assert [STOPPED in wrong for _, wrong in before] == [True, True, False, False]
    assert {kind for kind, _ in problems(world, repair=True)} > {"snapshot", "cache mount", "blob", "image"}
    assert problems(world) == []
    assert not world.state.db.unsynced.is_any_lost()
    assert not folder.exists()


def test_a_layer_that_came_into_an_old_snapshot(machine: Machine) -> None:
    """It was yet to come when the rest was synced."""
    machine.world.snapshot(None)
    lazy = machine.world.state.snapshots.add_lazy(None, "sha256:chain", None)
    machine.sync()
    snapshots = machine.world.state.snapshots
    draft = snapshots.prepare(None)
    assert snapshots.commit_layer(draft, "sha256:chain") == lazy
    snapshots.close()
    world = machine.stop()
    assert forget_unsynced(world.state).endswith("made anew is 1 snapshot")
    assert lazy not in world.snapshot_ids()


def test_a_layer_that_is_yet_to_come_is_not_lost(machine: Machine) -> None:
    snapshots = machine.world.state.snapshots
    lazy = snapshots.add_lazy(None, "sha256:chain", None)
    machine.world.state.db.unsynced.note("snapshot", snapshots.dir(lazy))
    world = machine.stop()
    assert forget_unsynced(world.state) == ""
    assert world.snapshot_ids() == [lazy]


def test_blobs_count_if_their_bytes_are_right(machine: Machine) -> None:
    blobs = machine.world.state.blobs
    whole, empty, zeros = (blobs.write(data) for data in (b"whole", b"empty", b"zeros"))
    gone = blobs.write(b"gone")
    world = machine.stop()
    blobs = world.state.blobs
    os.truncate(blobs.path(empty), 0)
    blobs.path(zeros).write_bytes(bytes(5))
    blobs.delete(gone)
    assert forget_unsynced(world.state).endswith("made anew is 2 blobs")
    assert world.all_blobs() == {whole}


def test_a_cache_mount_begins_empty_if_it_was_changed_last(machine: Machine) -> None:
    old, new = (machine.world.cache_mount(name, b"1") for name in ("/old", "/new"))
    machine.sync()
    assert machine.world.cache_mount("/new", b"") == new
    world = machine.stop()
    assert forget_unsynced(world.state).endswith("made anew is 1 cache mount")
    assert world.cache_mount("/old", b"") == old
    assert (old / "kept").read_bytes() == b"1"
    assert world.cache_mount("/new", b"2") != new
    world.store.prune()
    assert not new.exists()


def test_an_export_of_cache_mounts_leaves_out_what_may_be_damaged(machine: Machine, tmp_path: Path) -> None:
    machine.world.cache_mount("a", b"1")
    world = machine.stop()
    assert world.store.cache_mounts() == []
    assert world.count("cache_mounts") == 0
