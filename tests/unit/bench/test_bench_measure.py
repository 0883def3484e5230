from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import machine
import pytest
from measure import CommandFailedError, run_timed, run_weighed

HOLD_64_MIB = "import time; data = b'x' * (64 << 20); print('held', flush=True); time.sleep({seconds})"


def test_the_time_is_that_of_the_command(tmp_path: Path) -> None:
    assert run_timed(["sleep", "0.2"], os.environ, tmp_path / "log") >= 0.2


def test_a_failing_command_says_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match="status 3: so it is"):
        run_timed(["sh", "-c", "echo so it is; exit 3"], os.environ, tmp_path / "log")


def test_the_memory_of_grandchildren_counts(tmp_path: Path) -> None:
    peak_mib = run_weighed(
        ["sh", "-c", '"$0" -c "$1"; true', sys.executable, HOLD_64_MIB.format(seconds=1)],
        os.environ,
        tmp_path / "log",
        [],
    )
    assert peak_mib > 64


def test_the_memory_of_daemons_counts(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_64_MIB.format(seconds=60)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"held\n"
        peak_mib = run_weighed(["sleep", "0.5"], os.environ, tmp_path / "log", [daemon.pid])
        daemon.kill()
    assert peak_mib > 64


def test_the_machine_has_a_name_for_everything(tmp_path: Path) -> None:
    facts = machine.facts(tmp_path)
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert all(value not in ("", None, "unknown") for value in facts.values())


def test_mounts_are_found_below_their_folder_alone() -> None:
    assert "/proc/self" not in machine.mounts_below(Path("/proc"))
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    assert set(machine.mounts_below(Path("/dev"))) == {point for point in points if point.startswith("/dev/")}
