"""What a build costs beside its steps: the modules that one with nothing to do loads, and the processes of a step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from workbench import Workbench

PROGRAM = """
import sys
from stagewright.cli.main import main
status = main(sys.argv[1:])
print(*sys.modules, sep="\\n")
sys.exit(status)
"""

# What a build imports of the standard library where all is cached, and with it what those modules import. Each name
# here is paid for by every build: before one is added, see whether its user can import it where it is needed.
LIBRARY = (
    "argparse, atexit, base64, binascii, collections.abc, contextlib, ctypes, errno, fcntl, functools, gc, hashlib, "
    "http.client, importlib, ipaddress, json, locale, pathlib, queue, re, select, signal, socket, sqlite3, struct, "
    "threading, tomllib, typing, urllib.parse"
)
# Rooms and modules of our own that only a build that runs, pulls, unpacks, packs or pushes something needs.
UNNEEDED = (
    "stagewright.cli.failures",
    "stagewright.collect",
    "stagewright.door.ids",
    "stagewright.door.outer",
    "stagewright.exporters.archive",
    "stagewright.loading",
    "stagewright.ops.sharing",
    "stagewright.progress.rawjson",
    "stagewright.progress.tty",
    "stagewright.registry.download",
    "stagewright.registry.tls",
    "stagewright.registry.transfer",
    "stagewright.registry.upload",
    "stagewright.sandbox.",
    "stagewright.snapshots.changes",
    "stagewright.snapshots.extract",
    "stagewright.snapshots.links",
    "stagewright.snapshots.pack",
    "stagewright.snapshots.streams",
    "stagewright.snapshots.tar",
    "stagewright.snapshots.treewriter",
    "stagewright.snapshots.unpack",
    "stagewright.sources.snapshot",
    "stagewright.store",
    "stagewright.usage",
)
NEEDED = frozenset({"stagewright.sandbox.spec"})


def modules_of(*command: str | Path) -> set[str]:
    """What an interpreter has loaded after a program that prints the names."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {line for line in done.stdout.splitlines() if not line.startswith("sha256:")}


@pytest.mark.parametrize("output", [["--output=type=cacheonly"], ["--tag=app"]], ids=["cacheonly", "image"])
def test_a_cached_build_loads_what_it_uses(bench: Workbench, output: list[str]) -> None:
    bench.dockerfile("""
        FROM busybox AS base
        RUN --mount=type=cache,target=/cache echo 1 > /one
        FROM base
        WORKDIR /app
        COPY . .
        COPY --from=base --chown=1:1 /one .
        RUN cat one
        CMD ["cat", "one"]
    """)
    bench.write("file", "content")
    bench.write(".dockerignore", "Dockerfile\n")
    stagewright = bench.stagewright
    where = ["--root", stagewright.root, "--config", stagewright.config]
    build = ["-c", PROGRAM, "build", "--progress=plain", *where, *output, bench.context]
    modules_of(*build)
    loaded = modules_of(*build)
    library = {name for name in loaded if not name.startswith("stagewright")}
    assert library - modules_of("-c", f'import sys, {LIBRARY}\nprint(*sys.modules, sep="\\n")') == set()
    own = {name for name in loaded if name.startswith("stagewright")}
    assert {name for name in own if name.startswith(UNNEEDED)} - NEEDED == set()


@pytest.mark.skipif(not os.path.exists("/proc/sys/kernel/ns_last_pid"), reason="the kernel does not count processes")
@pytest.mark.root("counts processes by a PID namespace around a build without a user namespace")
def test_a_step_starts_its_command_and_nothing_else(bench: Workbench) -> None:
    stagewright = bench.stagewright

    def processes(steps: int) -> int:
        """How many processes and threads a build of so many new steps has in all: a PID namespace numbers them."""
        bench.dockerfile("\n".join(["FROM busybox", *(f"RUN echo {steps} {step}" for step in range(steps))]))
        command = [sys.executable, "-m", "stagewright", "build", "--progress=quiet", "--output=type=cacheonly"]
        command += ["--root", str(stagewright.root), "--config", str(stagewright.config), str(bench.context)]
        script = '"$@" && cat /proc/sys/kernel/ns_last_pid'
        apart = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh", *command]
        return int(subprocess.run(apart, capture_output=True, text=True, check=True).stdout)

    processes(1)
    assert processes(12) - processes(2) == 10
