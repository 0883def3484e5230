"""Limits as control groups take them, and where the groups may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagewright import privilege
from stagewright.options import StepLimits
from stagewright.sandbox import cgroups
from stagewright.sandbox.cgroups import DEFAULT_PIDS, complaint, contained, oci_resources, plan, settings
from stagewright.sandbox.groups import BuildGroup
from stagewright.sandbox.spec import Root, Step

PIDS = ("pids", "pids.max", str(DEFAULT_PIDS))
MIB = 1 << 20
MEMORY = ("memory", "memory.max", str(MIB))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (StepLimits(), []),
        (StepLimits(memory=MIB), [MEMORY, ("memory", "memory.swap.max", str(MIB))]),
        (StepLimits(memory=MIB, memory_swap=MIB), [MEMORY, ("memory", "memory.swap.max", "0")]),
        (StepLimits(memory=MIB, memory_swap=-1), [MEMORY, ("memory", "memory.swap.max", "max")]),
        (StepLimits(memory=0), []),
        (StepLimits(cpu_shares=1024), [("cpu", "cpu.weight", "39")]),
        (StepLimits(cpu_shares=2), [("cpu", "cpu.weight", "1")]),
        (StepLimits(cpu_shares=262144), [("cpu", "cpu.weight", "10000")]),
        (StepLimits(cpu_quota=5000), [("cpu", "cpu.max", "5000 100000")]),
        (StepLimits(cpu_quota=-1, cpu_period=2000), [("cpu", "cpu.max", "max 2000")]),
        (StepLimits(cpuset_cpus="0-1"), [("cpuset", "cpuset.cpus", "0-1")]),
        (StepLimits(cpuset_mems="0"), [("cpuset", "cpuset.mems", "0")]),
    ],
)
def test_settings(limits: StepLimits, expected: list[tuple[str, str, str]]) -> None:
    assert settings(limits) == [*expected, PIDS]


@pytest.mark.parametrize(("pids", "expected"), [(None, str(DEFAULT_PIDS)), (7, "7"), (-1, "max")])
def test_the_number_of_processes_has_a_default(pids: int | None, expected: str) -> None:
    assert settings(StepLimits(pids=pids)) == [("pids", "pids.max", expected)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    mountinfo, own = tmp_path / "mountinfo", tmp_path / "own"
    monkeypatch.setattr(cgroups, "_MOUNTINFO", str(mountinfo))
    monkeypatch.setattr(cgroups, "_OWN_GROUPS", str(own))
    mountinfo.write_text("21 1 0:2 / / rw - ext4 /dev/x rw\n")
    own.write_text("0::/user.slice/user@7.service/app.slice\n")
    return tmp_path


def mount_v2(machine: Path, controllers: str) -> str:
    (machine / "v2").mkdir()
    (machine / "v2/cgroup.controllers").write_text(controllers + "\n")
    with open(machine / "mountinfo", "a") as file:
        file.write(f"30 21 0:26 / {machine}/v2 rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
    return f"{machine}/v2"


def mount_old(machine: Path) -> str:
    with open(machine / "mountinfo", "a") as file:
        file.write(f"31 21 0:27 / {machine}/pids rw - cgroup cgroup rw,pids\n")
        file.write(f"32 21 0:28 / {machine}/memory rw - cgroup cgroup rw,memory\n")
    with open(machine / "own", "a") as file:
        file.write("8:pids:/jobs\n4:memory:/jobs\n")
    return f"{machine}/pids"


def test_groups_are_tried_from_our_own_upwards(machine: Path) -> None:
    top = mount_v2(machine, "cpuset cpu io memory pids")
    ((places, held, is_v2),) = plan(StepLimits(memory=MIB))
    user = f"{top}/user.slice/user@7.service"
    assert places == [f"{user}/app.slice", user, f"{top}/user.slice", top]
    assert [name for name, _, _ in held] == ["memory", "memory", "pids"]
    assert is_v2


def test_a_parent_is_the_only_place(machine: Path) -> None:
    top = mount_v2(machine, "pids")
    assert plan(StepLimits(cgroup_parent="/a/b/"))[0][0] == [f"{top}/a/b"]


def test_a_hybrid_machine_counts_processes_in_the_old_hierarchy(machine: Path) -> None:
    mount_v2(machine, "")
    old = mount_old(machine)
    new_one, old_one = plan(StepLimits(memory=MIB))
    assert (new_one[1], new_one[2]) == ([], True)
    assert old_one == ([f"{old}/jobs", old], [PIDS], False)


def test_an_old_machine_and_one_without_groups(machine: Path) -> None:
    assert plan(StepLimits()) == []
    mount_old(machine)
    assert [is_v2 for _, _, is_v2 in plan(StepLimits())] == [False]


def test_what_is_not_in_force_is_told() -> None:
    both = StepLimits(memory=MIB, cpu_quota=5000)
    told = "steps run without the limits of cpu, memory: no control groups of ours have them here"
    assert complaint(both, frozenset({"pids"})) == told
    assert complaint(both, frozenset({"cpu", "memory"})) is None
    assert complaint(StepLimits(), frozenset()) is None
    assert "without the limits of pids" in (complaint(StepLimits(pids=5), frozenset()) or "")
    assert complaint(StepLimits(cgroup_parent="/x"), frozenset()) == (
        "steps run outside of /x: no control group can be made there"
    )


def test_a_resource_limit_stands_in_for_a_missing_group(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(("sh",), Root(("/lower",)))
    monkeypatch.setattr(privilege, "in_user_namespace", lambda: True)
    assert contained(step, StepLimits(), frozenset()).ulimits == (("nproc", DEFAULT_PIDS, DEFAULT_PIDS),)
    assert contained(step, StepLimits(pids=9), frozenset()).ulimits == (("nproc", 9, 9),)
    assert contained(step, StepLimits(pids=-1), frozenset()) == step
    assert contained(step, StepLimits(), frozenset({"pids"})) == step
    monkeypatch.setattr(privilege, "in_user_namespace", lambda: False)
    assert contained(step, StepLimits(), frozenset()) == step


def test_what_an_oci_runtime_is_told() -> None:
    assert oci_resources(StepLimits()) == {"pids": {"limit": DEFAULT_PIDS}}
    limits = StepLimits(memory=MIB, cpu_shares=4, cpu_quota=5000, cpuset_cpus="0", pids=-1)
    assert oci_resources(limits) == {
        "pids": {"limit": -1},
        "memory": {"limit": MIB, "swap": 2 * MIB},
        "cpu": {"shares": 4, "quota": 5000, "cpus": "0"},
    }


def test_a_step_has_its_limits_and_its_end_is_read(tmp_path: Path) -> None:
    group = BuildGroup(str(tmp_path), settings(StepLimits(memory=MIB)), is_v2=True)
    place = Path(group.add_step(3))
    written = {path.name: path.read_text() for path in place.iterdir()}
    assert written == {"memory.max": str(MIB), "memory.swap.max": str(MIB), "pids.max": str(DEFAULT_PIDS)}
    assert not group.has_run_out_of_memory(3)
    (place / "memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 0\noom_group_kill 0\n")
    assert not group.has_run_out_of_memory(3)
    (place / "memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert group.has_run_out_of_memory(3)


def test_steps_without_limits_have_one_group_which_is_the_launchers(tmp_path: Path) -> None:
    group = BuildGroup(str(tmp_path), [], is_v2=True)
    assert group.is_common
    place = Path(group.add_common())
    assert (place.parent, (place / "cgroup.procs").read_text()) == (tmp_path, "0")
    limited = settings(StepLimits(memory=MIB))
    assert not BuildGroup(str(tmp_path), limited, is_v2=True).is_common
    assert not BuildGroup(str(tmp_path), [], is_v2=False).is_common


def test_in_an_old_hierarchy_a_thread_moves_alone(tmp_path: Path) -> None:
    group = BuildGroup(str(tmp_path), [], is_v2=False)
    place = Path(group.add_step(1))
    group.join(str(place))
    assert {path.name: path.read_text() for path in place.iterdir()} == {"tasks": "0"}
