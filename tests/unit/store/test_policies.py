"""What a prune by filters and limits removes, and in what order; and the same when a build has ended."""

import fcntl
import os
import subprocess
import time
from pathlib import Path

import pytest
from store_world import World

from stagewright import afterwards, syncing
from stagewright.cache.leases import BuildLease
from stagewright.config import load, parse_duration
from stagewright.content.unsynced import is_asked
from stagewright.errors import UsageError
from stagewright.policy import Policy, choose, parse_filters
from stagewright.reports import UsageRow

NOW = 1_000_000.0
DISK = 100_000


def row(identity: str, size: int = 100, age: float = 0, kind: str = "cache", **more: object) -> UsageRow:
    given = {"in_use": False, "description": "", **more}
    return UsageRow(kind, identity, size, NOW - age, NOW - age, **given)  # type: ignore[arg-type]


def chosen(rows: list[UsageRow], policy: Policy, free: int = DISK) -> list[str]:
    return [row.id for row in choose(rows, policy, free, DISK, NOW)]


def test_without_limits_all_goes_but_what_is_used_and_images() -> None:
    rows = [row("1"), row("2", in_use=True), row("sha256:x", kind="image"), row("m", kind="cache mount")]
    assert sorted(chosen(rows, Policy())) == ["1", "m"]


def test_the_oldest_goes_first_until_the_limit_holds() -> None:
    rows = [row("1", age=10), row("2", age=30), row("3", age=20)]
    assert chosen(rows, Policy(max_used=300)) == []
    assert chosen(rows, Policy(max_used=299)) == ["2"]
    assert chosen(rows, Policy(max_used=150)) == ["2", "3"]
    assert chosen(rows, Policy(max_used=1, reserved=150)) == ["2", "3"]
    assert chosen(rows, Policy(reserved=250)) == ["2"]


def test_the_disk_is_left_free() -> None:
    rows = [row("1", age=10), row("2", age=30), row("3", age=20)]
    assert chosen(rows, Policy(min_free=1000), free=1000) == []
    assert chosen(rows, Policy(min_free=1000), free=850) == ["2", "3"]
    assert chosen(rows, Policy(min_free=0.01, reserved=0.0025), free=0) == ["2"]
    assert chosen(rows, Policy(min_free=1000, max_used=299), free=1000) == ["2"]


def test_nothing_goes_before_what_is_built_on_it() -> None:
    rows = [row("1", age=50), row("2", age=50, parent="1"), row("3", age=1, parent="1"), row("4", age=40)]
    assert chosen(rows, Policy()) == ["2", "4", "3", "1"]
    assert chosen(rows, Policy(keep_s=10)) == ["2", "4"]
    # A parent is as young as the youngest of what is built on it.
    assert chosen(rows, Policy(max_used=250)) == ["2", "4"]


def test_times_from_the_future_are_those_of_now() -> None:
    assert chosen([row("1", age=-1e9)], Policy(keep_s=60)) == []
    assert chosen([row("1", age=-1e9)], Policy()) == ["1"]


def test_filters() -> None:
    rows = [
        row("1", description="RUN make"),
        row("2", kind="cache mount", description="/root/.cache", age=100),
        row("3", kind="git repository", shared=True),
    ]

    def kept(*texts: str) -> list[str]:
        policy = parse_filters(texts, parse_duration)
        return [row.id for row in rows if policy.lets_go(row, NOW)]

    assert kept() == ["1", "2", "3"]
    assert kept("type=exec.cachemount") == kept("type=cache-mount") == kept("kind=cache mount") == ["2"]
    assert kept("type=regular", "type=source.git.checkout") == ["1", "3"]
    assert kept("type=regular", "id=2") == []
    assert kept("id=3") == ["3"]
    assert kept("id!=3") == ["1", "2"]
    assert kept("description~=make") == ["1"]
    assert kept("shared") == ["3"]
    assert kept("inuse=false") == ["1", "2", "3"]
    assert kept("until=60s") == ["2"]
    assert kept("type==regular,shared") == []
    for wrong in ("colour=red", "until=soon", "mutable"):
        with pytest.raises(UsageError):
            kept(wrong)


# --- in a store -------------------------------------------------------------------------------------------------------


def aged(world: World, snapshot: int, age_s: float) -> None:
    for table, column in (("snapshots", "id"), ("cache_results", "snapshot")):
        world.state.db.execute(
            f"UPDATE {table} SET last_used = ?, created = ? WHERE {column} = ?",
            (time.time() - age_s, time.time() - age_s, snapshot),
        )


def test_prune_until(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    (layer,) = world.unpacked(app)
    old, young = world.snapshot(layer), world.snapshot(layer)
    older_below_young = world.snapshot(None)
    above = world.snapshot(older_below_young)
    for number, (snapshot, age) in enumerate(((old, 7200), (young, 60), (older_below_young, 9000), (above, 60))):
        world.result(f"r{number}", snapshot)
        aged(world, snapshot, age)
    aged(world, layer, 9000)
    assert {row.id for row in world.store.disk_usage(["until=1h", "type=regular"]) if row.reclaimable} == {
        str(old),
        str(older_below_young),
    }
    report = world.store.prune(filters=["until=1h"])
    assert [row.id for row in report.rows] == [str(old)]
    assert report.reclaimed > 0
    assert world.snapshot_ids() == [layer, young, older_below_young, above]
    assert world.count("cache_results") == 3


def test_what_was_fetched_just_now_is_not_old(world: World) -> None:
    blobs = [world.state.blobs.write(text) for text in (b"of a base image", b"of another one")]
    repositories = [world.state.git_repositories / name for name in ("young", "old")]
    for repository in repositories:
        repository.mkdir(parents=True)
        (repository / "FETCH_HEAD").write_text("")
    past = time.time() - 7200
    for path in (world.state.blobs.path(blobs[1]), repositories[1] / "FETCH_HEAD", repositories[1]):
        os.utime(path, (past, past))
    reclaimable = {row.id for row in world.store.disk_usage(["until=1h"]) if row.reclaimable}
    assert reclaimable >= {blobs[1], "old"}
    assert not reclaimable & {blobs[0], "young"}
    world.store.prune(filters=["until=1h", "type=source.git.checkout"])
    assert [path.exists() for path in repositories] == [True, False]


def test_prune_to_a_size(world: World) -> None:
    snapshots = [world.snapshot(None, b"x" * 100_000) for _ in range(4)]
    for number, snapshot in enumerate(snapshots):
        world.result(f"r{number}", snapshot)
        aged(world, snapshot, 1000 - 100 * number)
    total = sum(row.size for row in world.store.disk_usage())
    world.store.prune(max_used_space=total // 2 + 1)
    assert world.snapshot_ids() == snapshots[2:]
    mount = world.cache_mount("/m", b"x")
    world.store.prune(filters=["type=exec.cachemount"])
    assert not mount.exists()
    assert world.snapshot_ids() == snapshots[2:]


def test_what_goes_by_policy_is_what_is_called_reclaimable(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    layers = world.unpacked(app)
    world.result("step", world.snapshot(layers[-1]))
    world.resolution("docker.io/library/base:1", world.image(None, b"base"))
    world.cache_mount("/m", b"x")
    reclaimable = {(row.kind, row.id) for row in world.store.disk_usage() if row.reclaimable}
    report = world.store.prune(filters=["inuse=false"])
    assert {(row.kind, row.id) for row in report.rows} == reclaimable
    assert [row for row in world.store.disk_usage() if row.reclaimable] == []
    assert world.store.check().problems == ()


def test_nothing_goes_by_policy_while_a_build_runs(world: World) -> None:
    snapshot = world.snapshot(None)
    with BuildLease(world.state.locks):
        report = world.store.prune(filters=["until=1ns"])
    assert (report.busy, report.rows) == (True, [])
    assert world.snapshot_ids() == [snapshot]


# --- the configuration ------------------------------------------------------------------------------------------------


def policies(tmp_path: Path, text: str) -> tuple[Policy, ...] | None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return load(str(path), {}).gc


def test_policies_of_the_configuration(tmp_path: Path) -> None:
    assert policies(tmp_path, "") == (Policy(reserved=0.1, max_used=0.6, min_free=0.2),)
    assert policies(tmp_path, "[gc]\ngc = false\n") is None
    assert policies(tmp_path, "[gc]\ngckeepstorage = 9000\n") == (Policy(reserved=9000, max_used=0.6, min_free=0.2),)
    assert policies(tmp_path, '[gc]\nreservedSpace = "10GB"\nmaxUsedSpace = "80%"\nminFreeSpace = "1GiB"\n') == (
        Policy(reserved=10**10, max_used=0.8, min_free=1 << 30),
    )
    first, second = policies(
        tmp_path,
        '[[gc.gcpolicy]]\nfilters = ["type==source.local", "type==exec.cachemount,shared"]\nkeepDuration = "48h"\n'
        'maxUsedSpace = "512MB"\n[[gc.gcpolicy]]\nall = true\nkeepDuration = 3600\nreservedSpace = 1\n',
    ) or ((), ())
    assert (first.keep_s, first.max_used, len(first.filters), len(first.filters[1])) == (172800, 512 * 10**6, 2, 2)
    assert second == Policy(keep_s=3600, reserved=1)


@pytest.mark.parametrize(
    "text",
    [
        '[gc]\nreservedSpace = "lots"\n',
        "[gc]\nmaxUsedSpace = -1\n",
        "[gc]\nkeep = 1\n",
        "[gc]\ngc = 1\n",
        '[[gc.gcpolicy]]\nkeepDuration = "long"\n',
        '[[gc.gcpolicy]]\nfilters = ["colour==red"]\n',
        "[[gc.gcpolicy]]\nkeepBytes = 1\n",
    ],
)
def test_policies_that_are_wrong(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"c\.toml"):
        policies(tmp_path, text)


# --- after a build ----------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(afterwards, "_start", lambda module, *arguments: calls.append(module))
    return calls


def test_when_garbage_is_collected(world: World, started: list[str]) -> None:
    def ended() -> bool:
        started.clear()
        afterwards.collect_afterwards(str(world.root), str(world.config), {})
        return bool(started)

    world.state.locks.try_hold("x")
    assert not ended()
    assert not ended()
    stamp = world.root / "collected"
    os.utime(stamp, (time.time() - 3600,) * 2)
    assert ended()
    os.utime(stamp, (time.time() + 3600,) * 2)
    assert ended()
    with BuildLease(world.state.locks):
        # Whoever ends last does it.
        assert not ended()
    os.utime(stamp)
    assert not ended()
    _ = world.state.snapshots
    draft = world.root / "snapshots" / "drafts" / "left"
    draft.mkdir()
    assert ended()
    world.config.write_text("[gc]\ngc = false\n")
    assert not ended()


def test_a_store_that_cannot_be_used_keeps_no_build_from_ending(tmp_path: Path) -> None:
    afterwards.collect_afterwards(str(tmp_path / "nothing"), None, {})
    assert list(tmp_path.iterdir()) == []


def test_the_collection_itself(world: World) -> None:
    world.config.write_text("[gc]\nmaxUsedSpace = 1\nreservedSpace = 0\n")
    world.result("r", world.snapshot(None))
    (world.root / "snapshots" / "drafts" / "left").mkdir()
    program = "from stagewright import afterwards; afterwards.main()"
    subprocess.run(["python3", "-c", program, world.root, world.config], check=True)
    assert world.snapshot_ids() == []
    assert world.store.check().problems == ()
    assert (world.root / "collected").exists()


def test_a_collection_is_started_and_taken_leave_of(world: World) -> None:
    _ = world.state.snapshots
    (world.root / "snapshots" / "drafts" / "left").mkdir()
    afterwards.collect_afterwards(str(world.root), str(world.config), dict(os.environ))
    (child,) = afterwards._children
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert list((world.root / "snapshots" / "drafts").iterdir()) == []
    afterwards.collect_afterwards(str(world.root), str(world.config), dict(os.environ))
    assert afterwards._children == set()


# --- a sync after a build ---------------------------------------------------------------------------------------------


def test_when_the_disk_is_synced(world: World, started: list[str]) -> None:
    def ended() -> list[str]:
        started.clear()
        afterwards.sync_afterwards(str(world.root))
        return started

    assert ended() == []
    world.snapshot(None)
    assert ended() == []
    world.state.close()
    assert ended() == ["syncing"]
    with open(world.root / "synced") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # It may be for what an earlier build has asked, and the one that follows waits for it.
        assert ended() == ["syncing"]
        afterwards.sync_before(str(world.root))
        assert started == ["syncing"]
    afterwards.sync_before(str(world.root))
    assert started == ["syncing"] * 2
    syncing.sync(str(world.root))
    assert ended() == []
    afterwards.sync_before(str(world.root))
    assert started == []


def test_a_sync_is_started(world: World) -> None:
    world.snapshot(None)
    world.state.close()
    afterwards.sync_afterwards(str(world.root))
    (child,) = afterwards._children
    os.waitpid(child, 0)
    assert not is_asked(str(world.root))


def test_the_first_process_of_a_container_waits_for_its_sync(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.snapshot(None)
    world.state.close()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    afterwards.sync_afterwards(str(world.root))
    assert not is_asked(str(world.root))
