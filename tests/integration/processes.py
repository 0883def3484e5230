"""Looks at the processes of the machine, any of which may end meanwhile."""

from __future__ import annotations

import os
from pathlib import Path


def command_of(pid: int) -> list[bytes]:
    """A process's command and its arguments; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def commands() -> dict[int, list[bytes]]:
    """What `command_of` says of each process of the machine."""
    return {int(name): command_of(int(name)) for name in os.listdir("/proc") if name.isdecimal()}


def processes_with(argument: str) -> list[int]:
    """The processes that have been given the argument, as a word of its own."""
    return [pid for pid, words in commands().items() if os.fsencode(argument) in words]


def descendants(pid: int) -> list[int]:
    """The children of a process and theirs."""
    found = []
    waiting = [pid]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid: int) -> list[int]:
    # A thread has the children that it has started.
    folder = f"/proc/{pid}/task"
    found = []
    try:
        for thread in os.listdir(folder):
            found += [int(child) for child in Path(folder, thread, "children").read_text().split()]
    except OSError:
        pass  # It has ended, and its children are no longer its own.
    return found
