"""Python code that runs with little memory and for a short time, as everything that strangers write has to."""

from __future__ import annotations

import resource
import subprocess
import sys

_MEMORY = 1 << 30
_CPU_S = 60


def limited(code: str, memory: int = _MEMORY) -> str:
    """What the code prints in a process of its own that may have `memory` bytes and 60 seconds of the processor."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))

    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
