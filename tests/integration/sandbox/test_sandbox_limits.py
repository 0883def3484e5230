"""What a step may use of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import Box
from harness import control_groups, is_root_of_machine

from stagewright.errors import SandboxError
from stagewright.options import StepLimits
from stagewright.sandbox import cgroups, devices_bpf, groups
from stagewright.sandbox.native import NativeRuntime
from stagewright.sandbox.oci import OciRuntime
from stagewright.sandbox.spec import Runtime

# Whatever goes wrong, the machine lives.
BOUND = ("nproc", 3000, 3000)
BOMB = """
import os
made = 0
try:
    while True:
        if os.fork():
            made += 1
        else:
            os.read(reading, 1)
            os._exit(0)
except OSError as error:
    print(made, error.strerror)
"""


@pytest.fixture(params=["native", "oci"])
def limited(request: pytest.FixtureRequest, lower: Path, tmp_path: Path) -> Iterator[Callable[[StepLimits], Box]]:
    made: list[Runtime] = []

    def make(limits: StepLimits, told: list[str] | None = None) -> Box:
        notify = (told if told is not None else []).append
        if request.param == "native":
            made.append(NativeRuntime(limits, notify))
        elif (runc := shutil.which("runc")) is not None:
            made.append(OciRuntime(runc, limits, notify))
        else:
            pytest.skip("runc is not installed")
        return Box(made[-1], lower, tmp_path)

    yield make
    for runtime in made:
        runtime.close()


def counts_processes() -> bool:
    return any("pids" in {name for name, _, _ in held} for _, held, _ in cgroups.plan(StepLimits()))


def needs_a_count(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that takes control groups that count processes, and the right to make them."""
    reason = "no hierarchy of control groups counts processes here"
    skip = pytest.mark.skipif(not counts_processes() or os.geteuid() != 0, reason=reason)
    return pytest.mark.root("makes control groups")(skip(test))


@needs_a_count
def test_a_fork_bomb_ends_its_step_alone(limited: Callable[[StepLimits], Box]) -> None:
    box = limited(StepLimits(pids=50))
    code = f"import os\nreading, _ = os.pipe()\n{BOMB}"
    ran = box.python(code, network="host", ulimits=(BOUND,))
    made, reason = ran.out.split(" ", 1)
    assert 10 < int(made) < 50
    assert "temporarily unavailable" in reason
    assert box.sh("echo next", network="host").out == "next\n"


@pytest.mark.skipif(is_root_of_machine(), reason="root of the machine has no limit of its own")
def test_a_fork_bomb_ends_in_a_user_namespace_without_control_groups(limited: Callable[[StepLimits], Box]) -> None:
    box = limited(StepLimits(pids=50))
    ran = box.python(f"import os\nreading, _ = os.pipe()\n{BOMB}", network="host")
    made, reason = ran.out.split(" ", 1)
    assert 10 < int(made) < 50
    assert "temporarily unavailable" in reason
    assert box.sh("echo next", network="host").out == "next\n"


@needs_a_count
def test_each_step_has_its_own_count(limited: Callable[[StepLimits], Box]) -> None:
    box = limited(StepLimits(pids=20))
    for _ in range(2):
        ran = box.sh("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 30 & done; echo ten", network="host")
        assert ran.out == "ten\n", ran.err


@needs_a_count
def test_the_groups_end_with_the_runtime(lower: Path, tmp_path: Path) -> None:
    parent = f"stagewright-test-{os.getpid()}"
    runtime = NativeRuntime(StepLimits(cgroup_parent=f"/{parent}"), pytest.fail)
    try:
        assert Box(runtime, lower, tmp_path).run("true", network="host").code == 0
        builds = control_groups(f"{parent}/stagewright-*")
        assert builds
        # A process is ready for the next step, in that one's group.
        assert {step.name for build in builds for step in build.glob("step*")} <= {"step2"}
        runtime.close()
        assert control_groups(f"{parent}/stagewright-*") == []
    finally:
        runtime.close()
        for made in control_groups(parent):
            made.rmdir()


@pytest.mark.skipif(
    "memory" in {name for _, held, _ in cgroups.plan(StepLimits(memory=1 << 30)) for name, _, _ in held},
    reason="this machine has the limit",
)
def test_a_limit_that_the_machine_lacks_is_told_once(lower: Path, tmp_path: Path) -> None:
    told: list[str] = []
    runtime = NativeRuntime(StepLimits(memory=64 << 20), told.append)
    box = Box(runtime, lower, tmp_path)
    try:
        for _ in range(2):
            assert box.run("true", network="host").code == 0
    finally:
        runtime.close()
    assert told == ["steps run without the limits of memory: no control groups of ours have them here"]


@pytest.mark.skipif(
    "memory" not in {name for _, held, _ in cgroups.plan(StepLimits(memory=1 << 30)) for name, _, _ in held}
    or os.geteuid() != 0,
    reason="no control group of version 2 limits memory here",
)
def test_a_step_out_of_memory_says_so(lower: Path, tmp_path: Path) -> None:
    runtime = NativeRuntime(StepLimits(memory=64 << 20, memory_swap=64 << 20))
    try:
        ran = Box(runtime, lower, tmp_path).python("b'x' * (256 << 20)", network="host")
    finally:
        runtime.close()
    assert ran.outcome.out_of_memory
    assert ran.outcome.signal == 9


@needs_a_count
def test_a_limit_that_the_kernel_refuses(lower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "settings", lambda limits: [("pids", "pids.max", "many")])
    runtime = NativeRuntime()
    try:
        with pytest.raises(SandboxError, match=r"pids\.max many: Invalid argument"):
            Box(runtime, lower, tmp_path).run("true", network="host")
    finally:
        runtime.close()


def test_what_runs_in_a_group_of_version_2_ends_with_it() -> None:
    ((places, _, is_v2), *_) = [*cgroups.plan(StepLimits()), ([], [], False)]
    if not is_v2 or not any(os.access(place, os.W_OK) for place in places):
        pytest.skip("no control groups of version 2 can be made here")
    (group,) = groups.make(f"stagewright-test-{os.getpid()}", [(places, [], True)])
    try:
        place = group.add_step(1)
        with subprocess.Popen(["sleep", "600"]) as process:
            Path(place, "cgroup.procs").write_text(str(process.pid))
            group.remove()
            assert process.wait(60) == -9
    finally:
        group.remove()
    assert not os.path.exists(group.path)


@pytest.fixture
def tree() -> Iterator[tuple[Path, str]]:
    """A tree of groups of version 2 with a group `own` inside, and a controller that none of them has yet."""
    ((places, _, is_v2), *_) = [*cgroups.plan(StepLimits()), ([], [], False)]
    if not is_v2 or not os.access(places[-1], os.W_OK):
        pytest.skip("no control groups of version 2 can be made here")
    offered = (Path(places[-1]) / "cgroup.controllers").read_text().split()
    if not offered:
        pytest.skip("the hierarchy of version 2 has no controllers here")
    handed_down = Path(places[-1]) / "cgroup.subtree_control"
    before = handed_down.read_text().split()
    top = Path(places[-1]) / f"stagewright-test-{os.getpid()}"
    (top / "own").mkdir(parents=True)
    yield top, offered[-1]
    for folder in sorted(top.glob("**/"), reverse=True):
        folder.rmdir()
    if offered[-1] not in before:
        handed_down.write_text(f"-{offered[-1]}")


def test_a_group_is_made_where_controllers_can_be_handed_down(tree: tuple[Path, str]) -> None:
    """A group with processes of its own hands none down, so that the one above it is the place."""
    top, controller = tree
    setting = (controller, "cgroup.max.depth", "7")
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            (top / "own/cgroup.procs").write_text(str(process.pid))
            (group,) = groups.make("build", [([str(top / "own"), str(top)], [setting], True)])
            assert group.path == f"{top}/build"
            place = Path(group.add_step(1))
            assert controller in (place / "cgroup.controllers").read_text().split()
            assert (place / "cgroup.max.depth").read_text() == "7\n"
            group.remove()
            assert not place.parent.exists()
        finally:
            process.kill()


def test_a_step_can_use_the_nodes_it_makes_if_they_are_of_no_harm(lower: Path, tmp_path: Path) -> None:
    """What sets up a distribution makes a /dev for it, and uses it at once."""
    if not can_rule_devices():
        pytest.skip("no control group of version 2 can rule devices here")
    runtime = NativeRuntime()
    script = """
        mkdir /new; for node in 'null c 1 3' 'mem c 1 1' 'kmsg c 1 11' 'fuse c 10 229' 'loop b 7 0'; do
            set -- $node; mknod /new/$1 $2 $3 $4 && (: < /new/$1) 2> /dev/null && echo $1
        done; echo x > /new/null && echo end
    """
    try:
        ran = Box(runtime, lower, tmp_path).sh(script, network="host")
    finally:
        runtime.close()
    assert ran.out.split() == ["null", "end"], ran.err


def can_rule_devices() -> bool:
    made = groups.make(f"stagewright-test-{os.getpid()}", cgroups.plan(StepLimits()))
    try:
        program = devices_bpf.load_for(made)
        if program is None:
            return False
        answers = [devices_bpf.attach(program, group.path) for group in made if group.is_v2]
        os.close(program)
        return all(answers)
    finally:
        for group in made:
            group.remove()
