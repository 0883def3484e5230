"""How a command is measured: its wall time, and the peak memory of all processes that work for it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

_SAMPLE_INTERVAL_S = 0.02
_LOG_TAIL = 2000


class CommandFailedError(Exception):
    """A command ended with another status than 0; the message is the end of what it printed."""


def run_timed(command: Sequence[str], env: Mapping[str, str], log: Path) -> float:
    """Run a command to its end and return how many seconds it took; what it prints goes to `log`.

    Raises CommandFailedError.
    """
    started = time.perf_counter()
    _run(command, env, log, lambda process: process.wait())
    return time.perf_counter() - started


def run_weighed(command: Sequence[str], env: Mapping[str, str], log: Path, daemons: Iterable[int]) -> float:
    """Run a command and return the most memory, in MiB, that it, `daemons` (process IDs) and all their children used.

    That is the sum of their proportional set sizes (shared pages are split among those who share them), looked at
    every 20 ms. Raises CommandFailedError.
    """
    peak_kib = 0

    def watch(process: subprocess.Popen[bytes]) -> None:
        nonlocal peak_kib
        while not _has_ended(process):
            peak_kib = max(peak_kib, sum(map(_proportional_kib, _with_children({process.pid, *daemons}))))

    _run(command, env, log, watch)
    return peak_kib / 1024


def _run(
    command: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    wait: Callable[[subprocess.Popen[bytes]], object],
) -> None:
    with open(log, "wb") as out:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            wait(process)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        raise CommandFailedError(f"status {process.returncode}: {log.read_text(errors='replace')[-_LOG_TAIL:]}")


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait for the process until it is time for the next look at its memory."""
    try:
        process.wait(_SAMPLE_INTERVAL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _with_children(roots: set[int]) -> set[int]:
    """The processes and all that were started below them, as far as they still run."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = _read(f"/proc/{name}/stat")
            if stat:
                # The command's name, in parentheses, may hold anything; the parent is the second field after it.
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(name))
    found: set[int] = set()
    pending = list(roots)
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += children.get(pid, [])
    return found


def _proportional_kib(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _read(path: str) -> str:
    """The text of a file of a process, "" where that has ended."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
