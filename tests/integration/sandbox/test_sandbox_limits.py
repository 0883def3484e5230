"""What a step may use of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Box
from stagewright.errors import SandboxError
from stagewright.options import StepLimits
from stagewright.sandbox import cgroups, groups
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


needs_a_count = pytest.mark.skipif(
    not counts_processes() or os.geteuid() != 0, reason="no hierarchy of control groups counts processes here"
)


@needs_a_count
def test_a_fork_bomb_ends_its_step_alone(limited: Callable[[StepLimits], Box]) -> None:
    box = limited(StepLimits(pids=50))
    code = f"import os\nreading, _ = os.pipe()\n{BOMB}"
    ran = box.python(code, network="host", ulimits=(BOUND,))
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


def all_groups() -> set[str]:
    return {str(path) for path in Path("/sys/fs/cgroup").glob("**/stagewright-*")}


def test_the_groups_end_with_the_runtime(lower: Path, tmp_path: Path) -> None:
    before = all_groups()
    runtime = NativeRuntime()
    assert Box(runtime, lower, tmp_path).run("true", network="host").code == 0
    own = all_groups() - before
    assert [path for group in own for path in Path(group).glob("step*")] == []
    runtime.close()
    assert not own & all_groups()


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
