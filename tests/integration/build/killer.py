"""Builds that are killed at random moments, in processes that are forked from this one.

Starting Python for each would take longer than the build. Prints what came of it as JSON; `test_build_killed` judges.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stagewright
from stagewright.api import Output, SecretSource, StepLimits, Store, StoreProblem, build

_PR_SET_CHILD_SUBREAPER = 36
# How long what a killed build has started may take to notice.
_END_S = 20
CGROUP_PARENT = f"stagewright-killed-{os.getpid()}"


@dataclass(frozen=True)
class Scene:
    """Where builds happen: the context, the configuration, and a folder for outputs."""

    context: Path
    config: Path
    out: Path

    def build(self, root: Path, *, no_cache: bool = False) -> None:
        build(
            self.context,
            tags=["killed:1"],
            secrets=[SecretSource("token", path=str(self.context.parent / "token"))],
            outputs=[Output("oci", dest=str(self.out / "app.tar")), Output("image", attrs={"name": "killed:1"})],
            no_cache=no_cache,
            limits=StepLimits(cgroup_parent=f"/{CGROUP_PARENT}") if os.geteuid() == 0 else None,
            root=root,
            config=self.config,
        )


def start(scene: Scene, root: Path, no_cache: bool) -> int:
    """Fork a process that builds; its PID."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        scene.build(root, no_cache=no_cache)
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def finish(scene: Scene, root: Path, no_cache: bool = False) -> bytes:
    """Build to the end; the bytes of the archive."""
    (scene.out / "app.tar").unlink(missing_ok=True)
    status = os.waitstatus_to_exitcode(os.waitpid(start(scene, root, no_cache), 0)[1])
    if status:
        raise SystemExit(f"a build after a killed one ended with {status}")
    return (scene.out / "app.tar").read_bytes()


def reap() -> list[str]:
    """Wait for all that killed builds have started, which are this process's children now; who does not end."""
    until = time.monotonic() + _END_S
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        if not pid:
            if time.monotonic() > until:
                return [Path(f"/proc/{child}/cmdline").read_text() for child in children()]
            time.sleep(0.01)


def children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


def foreign_mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def control_groups() -> list[str]:
    """What is in the control group that is the parent of all of these builds', in whichever hierarchy, which goes."""
    found = []
    for top, folders, _ in os.walk("/sys/fs/cgroup"):
        if CGROUP_PARENT in folders:
            parent = os.path.join(top, CGROUP_PARENT)
            found += [name for name in os.listdir(parent) if os.path.isdir(os.path.join(parent, name))]
            if not found:
                os.rmdir(parent)
    return found


def load_all() -> None:
    """Import all modules of the program, which each forked process would else do anew."""
    for module in pkgutil.walk_packages(stagewright.__path__, "stagewright."):
        if not module.name.endswith("__main__"):
            # Those for a cache in a bucket need a package that may not be there.
            with suppress(ImportError):
                importlib.import_module(module.name)


def main(folder: str, config: str, kills: int, seed: int, per_store: int) -> dict[str, Any]:
    """Kill builds `kills` times, with a store of its own for each `per_store` of them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    load_all()
    top = Path(folder)
    collecting = Scene(top / "context", Path(config), top / "out")
    quiet = Scene(top / "context", top / "quiet.toml", top / "out")
    # Starting a collection after each build would take longer than the build.
    quiet.config.write_text(f"{Path(config).read_text()}\n[gc]\ngc = false\n")
    quiet.out.mkdir()
    # What a first build works out for good (patterns, constructors) each forked process would else do anew.
    quiet.build(top / "warm")
    began = time.monotonic()
    clean = finish(quiet, top / "clean")
    first_s = time.monotonic() - began
    finish(quiet, top / "clean", no_cache=True)
    again_s = time.monotonic() - began - first_s
    mounts = foreign_mounts()
    chance = random.Random(seed)
    survived, died, complaints = 0, 0, []
    for number in range(kills):
        root = top / f"store{number // per_store}"
        pid = start(quiet, root, chance.random() < 0.85)
        time.sleep(chance.random() * (again_s if number % per_store else first_s))
        # Sometimes with all that it has started, as where a machine's memory runs out or a container is ended.
        (os.killpg if chance.random() < 0.3 else os.kill)(pid, signal.SIGKILL)
        died += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        complaints += [f"{number}: still runs: {name}" for name in reap()]
        is_last = number % per_store == per_store - 1 or number == kills - 1
        same = finish(collecting if is_last else quiet, root) == clean
        survived += same
        if not same:
            complaints.append(f"{number}: the next build made another image")
        if is_last:
            complaints += [f"{number}: still runs: {name}" for name in reap()]
            complaints += [f"{number}: {problem.kind} {problem.what} {problem.wrong}" for problem in problems(root)]
            shutil.rmtree(root)
    if foreign_mounts() != mounts:
        complaints.append("mounts are left")
    complaints += [f"a control group is left: {name}" for name in control_groups()]
    return {
        "survived": survived,
        "died": died,
        "complaints": complaints,
        "outputs": sorted(os.listdir(quiet.out)),
        "build_s": again_s,
        "took_s": time.monotonic() - began,
    }


def problems(root: Path) -> list[StoreProblem]:
    """What a check finds in a store."""
    with closing(Store(root)) as store:
        return list(store.check().problems)


if __name__ == "__main__":
    where, configuration, *numbers = sys.argv[1:]
    print(json.dumps(main(where, configuration, *map(int, numbers))))
