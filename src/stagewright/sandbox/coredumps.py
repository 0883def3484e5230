"""Core files: a crash must not write a process's memory, secrets and all, to a disk or into a layer."""

from __future__ import annotations

import resource


def forgo_core_dumps() -> None:
    """Let this process, and those that it starts, leave no core files unless they ask for them (the soft limit)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
