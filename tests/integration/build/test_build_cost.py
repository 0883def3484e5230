"""What a build costs beside its steps: modules loaded, files read and looked at, bytes hashed, processes started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
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

# Runs a build and prints what it opened (by Python's own calls; names as they were given) and what it looked at of
# trees of files, each as often as it did, and how many bytes of files it hashed.
COUNTING_PROGRAM = """
import json, os, sys
opened, seen, hashed = [], [], []
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(os.fsdecode(arguments[0]))
sys.addaudithook(note)
from stagewright.cli.main import main
from stagewright.sources import digests, tree
make_entry, hash_file = tree.Entry.__init__, digests._hash_open_file
def counting_entry(self, path, info, **more):
    seen.append(path)
    make_entry(self, path, info, **more)
def counting_hash(handle, info):
    hashed.append(info.st_size)
    return hash_file(handle, info)
tree.Entry.__init__, digests._hash_open_file = counting_entry, counting_hash
status = main(sys.argv[1:])
print(json.dumps([opened, seen, sum(hashed)]))
sys.exit(status)
"""

# What a build imports of others' modules where all is cached, and with it what those modules import. Each name
# here is paid for by every build: before one is added, see whether its user can import it where it is needed.
LIBRARY = (
    "argparse, atexit, binascii, collections.abc, contextlib, errno, fcntl, functools, gc, hashlib, httptools, "
    "importlib, ipaddress, json, pathlib, queue, re, select, signal, socket, sqlite3, struct, threading, tomllib, "
    "typing, urllib.parse"
)
# Rooms and modules of our own that only a build that runs, pulls, unpacks, packs or pushes something needs.
UNNEEDED = (
    "stagewright.cli.failures",
    "stagewright.collect",
    "stagewright.door.ids",
    "stagewright.door.outer",
    "stagewright.exporters.archive",
    "stagewright.history.causes",
    "stagewright.history.explain",
    "stagewright.history.filelist",
    "stagewright.history.matching",
    "stagewright.history.past",
    "stagewright.history.recipe",
    "stagewright.history.steps",
    "stagewright.history.view",
    "stagewright.loading",
    "stagewright.ops.actions",
    "stagewright.ops.copy",
    "stagewright.ops.crew",
    "stagewright.ops.sharing",
    "stagewright.ops.step",
    "stagewright.ops.target",
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
    assert {name for name in own if name.startswith(UNNEEDED)} == set()


def test_a_cached_build_records_little(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nCOPY . .\nRUN echo 1\n")
    for number in range(500):
        bench.write(f"files/{number}", str(number))

    def records() -> dict[str, int]:
        folder = bench.stagewright.root / "history"
        return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}

    bench.build()
    bench.build()
    before = records()
    bench.build()
    new = {path: size for path, size in records().items() if path not in before}
    assert len(new) == 1
    assert sum(new.values()) < 1000


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
        # A sync that this process space has broken off is started once more, or it is not.
        (stagewright.root / "unsynced").unlink(missing_ok=True)
        apart = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh", *command]
        return int(subprocess.run(apart, capture_output=True, text=True, check=True).stdout)

    processes(1)
    assert processes(12) - processes(2) == 10


@dataclass
class Work:
    """What one build did: files opened and entries looked at, each as often as that was done, and bytes hashed."""

    opened: list[str]
    seen: list[str]
    hashed: int

    def reads(self, prefix: str) -> int:
        """How often it opened files whose names begin so."""
        return sum(os.path.basename(path).startswith(prefix) for path in self.opened)


def counted(bench: Workbench) -> Work:
    stagewright = bench.stagewright
    where = ["--root", stagewright.root, "--config", stagewright.config]
    build = ["-c", COUNTING_PROGRAM, "build", "--progress=quiet", "--output=type=cacheonly", *where, bench.context]
    done = subprocess.run([sys.executable, *build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Work(*json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.root("an ordinary user's build goes on in a process of its own, where nobody counts")
def test_a_cached_build_looks_at_each_file_once_and_reads_none(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY src /src\nCOPY src /again/")
    names = [f"src/d{number % 4}/data-{number:02}" for number in range(60)]
    for name in names:
        bench.write(name, "text")
        os.utime(bench.context / name, (1, 1))
    counted(bench)
    counted(bench)
    work = counted(bench)
    assert work.reads("data-") == 0
    assert work.hashed == 0
    # The files and their folders; the folder that is copied is looked up by its name, too.
    below = [path for path in work.seen if path.startswith("src/")]
    assert sorted(below) == sorted([*names, *(f"src/d{number}" for number in range(4))])
    # With four more folders only their openings are added, with any number of files nothing.
    for name in ("src/d0/data-new", "src/d1/data-new"):
        bench.write(name, "text")
        os.utime(bench.context / name, (1, 1))
    counted(bench)
    counted(bench)
    assert len(counted(bench).opened) == len(work.opened)


@pytest.mark.root("an ordinary user's build goes on in a process of its own, where nobody counts")
def test_one_changed_file_is_all_that_is_read_and_hashed(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY src /src")
    for number in range(60):
        bench.write(f"src/d{number % 4}/data-{number:02}", "text")
    # What was written in the last moments before it was read is not trusted, and read again.
    first = counted(bench)
    assert first.hashed >= 60 * len("text")
    counted(bench)
    bench.write("src/d1/data-01", "another text")
    time.sleep(0.1)
    work = counted(bench)
    # Read for its digest and to be copied, and made; all others are links to what the last copy has made.
    assert (work.reads("data-01"), work.reads("data-")) == (3, 3)
    assert work.hashed == len("another text")
