"""Steps end when they must, whatever they have started, and leave nothing behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box
from harness import control_groups
from processes import descendants, processes_with

from stagewright.errors import SandboxError
from stagewright.sandbox.launching import LauncherProcess
from stagewright.sandbox.native import NativeRuntime
from stagewright.sandbox.oci import OciRuntime


@pytest.fixture
def marker() -> Iterator[str]:
    """A duration for `sleep` that no other process has, so that processes can be found by it."""
    yield f"{100000 + int.from_bytes(os.urandom(3), 'big')}.25"


def wait_until_gone(processes: list[int]) -> None:
    """Wait for the ends of processes (pidfds), which are closed."""
    for process in processes:
        ready, _, _ = select.select([process], [], [], 60)
        os.close(process)
        assert ready


def mounts() -> list[str]:
    """The mounts that have to do with the tests or their subject; other programs of the machine mount and unmount."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = [line.split(" ", 3)[3] for line in file if "pytest-of-" in line or "stagewright" in line]
    # A benchmark of other builders has mounts of theirs.
    return [line for line in lines if "stagewright-bench-" not in line]


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def groups_of_steps(runtime: str) -> list[Path]:
    """Control groups that the OCI runtime with that folder has made for steps."""
    return control_groups(f"{runtime}/step*")


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where OCI runtimes of this test have their folders: those of other builders are elsewhere."""
    folder = tmp_path / "bundles"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def folders_of_runtimes(bundles: Path) -> list[str]:
    return [path.name for path in bundles.glob("stagewright-oci-*")]


def test_many_steps_leave_nothing(box: Box) -> None:
    count = 200 if isinstance(box.runtime, NativeRuntime) else 10
    root = box.fresh_root()
    box.sh("true", root=root)
    before = (len(os.listdir("/proc/self/fd")), children(), mounts(), threading.active_count())
    for number in range(count):
        assert box.sh(f"exit {number % 2}", root=root).code == number % 2
    assert (len(os.listdir("/proc/self/fd")), children(), mounts(), threading.active_count()) == before
    if isinstance(box.runtime, OciRuntime):
        assert groups_of_steps(box.runtime._cgroup) == []


def test_failed_starts_leave_nothing(box: Box) -> None:
    before = (len(os.listdir("/proc/self/fd")), children(), mounts())
    for _ in range(5):
        with pytest.raises(SandboxError):
            box.sh("true", user="nobody-knows")
    assert (len(os.listdir("/proc/self/fd")), children(), mounts()) == before


def test_the_launchers_memory_does_not_keep_steps(box: Box) -> None:
    box.sh("true")
    (launcher,) = [pid for pid in children() if len(os.listdir(f"/proc/{pid}/task/{pid}")) and is_ours(pid, box)]
    inner = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()[0]
    before = len(os.listdir(f"/proc/{inner}/fd"))
    for _ in range(5):
        box.sh("true")
    # The socket of a step is closed a moment after its result was sent.
    assert len(os.listdir(f"/proc/{inner}/fd")) <= before + 1


def is_ours(pid: str, box: Box) -> bool:
    return int(pid) == box.runtime._launcher.get()._pid  # type: ignore[attr-defined]


def test_a_step_does_without_the_process_that_was_ready_for_it(lower: Path, tmp_path: Path) -> None:
    runtime = NativeRuntime()
    own = Box(runtime, lower, tmp_path)
    own.sh("true", network="none")
    inner, ready = descendants(runtime._launcher.get()._pid)
    process = os.pidfd_open(ready)
    signal.pidfd_send_signal(process, signal.SIGKILL)
    wait_until_gone([process])
    assert own.sh("echo up", network="none").out == "up\n"
    assert len(descendants(inner)) == 1
    runtime.close()


def test_a_launcher_that_is_killed(box: Box, marker: str, tmp_path: Path) -> None:
    runtime = NativeRuntime()
    other = Box(runtime, box.lower, tmp_path)
    running: list[int] = []

    def on_output(_stream: int, _data: bytes) -> None:
        launcher = runtime._launcher.get()
        running.extend(os.pidfd_open(pid) for pid in processes_with(marker))
        os.kill(launcher._pid, signal.SIGKILL)
        os.waitid(os.P_PID, launcher._pid, os.WEXITED | os.WNOWAIT)

    with pytest.raises(SandboxError, match=r"^the launcher of steps has died$"):
        other.run("sh", "-c", "echo up; exec sleep $0", marker, on_output=on_output)
    # The kernel ends what ran in its namespace a moment later.
    wait_until_gone(running)
    assert processes_with(marker) == []
    # Its inner half may go a moment later.
    with pytest.raises(SandboxError, match=r"^the launcher of steps has (died|gone: Broken pipe)$"):
        other.sh("true")
    runtime.close()


def test_a_launcher_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(SandboxError) as caught:
        LauncherProcess()
    assert caught.value.message == "cannot start the launcher of steps: open_tree: No such file or directory"


def test_daemons_end_with_the_step(box: Box, marker: str) -> None:
    ran = box.sh(f"setsid sleep {marker} & (sleep {marker} &) ; sleep 0.1; ps | grep -c '[s]leep' || ps; exit 3")
    assert ran.code == 3
    assert processes_with(marker) == []


def test_a_daemon_that_holds_the_output_does_not_hold_the_step(box: Box, marker: str) -> None:
    ran = box.sh(f"echo done; sleep {marker} & exit 0")
    assert ran.out == "done\n"
    assert processes_with(marker) == []


def test_cancel_kills_the_whole_tree(box: Box, marker: str) -> None:
    cancel = threading.Event()
    script = f"trap '' TERM INT HUP; setsid sleep {marker} & (trap '' TERM; sleep {marker}) & echo up; wait"

    def on_output(_stream: int, _data: bytes) -> None:
        threading.Thread(target=cancel.set).start()

    ran = box.sh(script, cancel=cancel, on_output=on_output)
    assert ran.outcome.canceled
    assert ran.code == 137
    assert processes_with(marker) == []
    assert box.sh("echo next").out == "next\n"


def test_a_step_that_is_canceled_from_the_start(box: Box, marker: str) -> None:
    cancel = threading.Event()
    cancel.set()
    assert box.sh(f"sleep {marker}", cancel=cancel).outcome.canceled
    assert processes_with(marker) == []


def test_an_error_in_the_sink_kills_the_step(box: Box, marker: str) -> None:
    def on_output(_stream: int, _data: bytes) -> None:
        raise RuntimeError("the disk of the log is full")

    with pytest.raises(RuntimeError, match="the disk of the log is full"):
        box.sh(f"echo x; sleep {marker}", on_output=on_output)
    assert processes_with(marker) == []


def test_steps_at_once(box: Box) -> None:
    results: dict[int, str] = {}
    count = 16 if isinstance(box.runtime, NativeRuntime) else 4
    roots = [box.fresh_root() for _ in range(count)]

    def one(number: int) -> None:
        results[number] = box.sh(f"sleep 0.05; echo {number}", root=roots[number]).out

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n" for number in range(count)}


PARENT = """
import sys, threading
from stagewright.sandbox.native import NativeRuntime
from stagewright.sandbox.oci import OciRuntime
from stagewright.sandbox.spec import Root, Step

runtime = OciRuntime(sys.argv[4]) if len(sys.argv) > 4 else NativeRuntime()
script = f"trap '' TERM; setsid sleep {sys.argv[3]} & echo up; wait"
step = Step(("sh", "-c", script), Root((sys.argv[1],), sys.argv[2] + "/up", sys.argv[2] + "/wk"), ("PATH=/bin",))
runtime.run(step, lambda stream, data: print("up", flush=True), threading.Event())
"""


def test_a_killed_builder_leaves_nothing(box: Box, tmp_path: Path, marker: str, bundles: Path) -> None:
    for name in ("up", "wk"):
        (tmp_path / name).mkdir()
    before = mounts()
    extra = [box.runtime._path] if isinstance(box.runtime, OciRuntime) else []
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(box.lower), str(tmp_path), marker, *extra]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"up\n"
        # The step's processes and the launcher have the number on their command lines only where it is theirs.
        running = [os.pidfd_open(pid) for pid in [*processes_with(marker), *descendants(builder.pid)]]
        assert len(running) > 2
        runtimes = folders_of_runtimes(bundles)
        assert len(runtimes) == len(extra)
        builder.send_signal(signal.SIGKILL)
    wait_until_gone(running)
    assert processes_with(marker) == []
    assert mounts() == before
    assert folders_of_runtimes(bundles) == []
    assert [groups_of_steps(name) for name in runtimes] == [[]] * len(extra)


def test_closing_kills_what_runs(box: Box, marker: str, tmp_path: Path, bundles: Path) -> None:
    runtime = OciRuntime(box.runtime._path) if isinstance(box.runtime, OciRuntime) else NativeRuntime()
    other = Box(runtime, box.lower, tmp_path)
    up = threading.Event()
    errors: list[BaseException] = []

    def one() -> None:
        try:
            other.sh(f"echo up; sleep {marker}", on_output=lambda _stream, _data: up.set())
        except SandboxError as error:
            errors.append(error)

    thread = threading.Thread(target=one)
    thread.start()
    assert up.wait(60)
    runtimes = folders_of_runtimes(bundles)
    runtime.close()
    thread.join(60)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert processes_with(marker) == []
    assert folders_of_runtimes(bundles) == []
    assert [groups_of_steps(name) for name in runtimes] == [[]] * isinstance(runtime, OciRuntime)
    runtime.close()
    with pytest.raises(SandboxError, match="closed"):
        other.sh("true")
