"""A Docker engine that serves as a witness: a dockerd of the tests' own, and its command line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import mounts_below

START_TIMEOUT_S = 30.0
# The client that comes with the engine: another one on PATH may be too new for it.
CLIENT = "/usr/bin/docker"


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine, by the address that DOCKER_HOST takes."""

    host: str

    def docker(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the client; with `check` a status other than 0 fails the test and shows what was printed."""
        done = subprocess.run(
            [CLIENT, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"},
            check=False,
        )
        if check:
            assert done.returncode == 0, (
                f"docker {arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def build(self, context: Path, *flags: str) -> str:
        """The ID of the image that the engine's BuildKit builds."""
        ids = context.with_name(f"{context.name}.iid")
        self.docker("build", "--network=host", "--progress=plain", f"--iidfile={ids}", *flags, context)
        return ids.read_text()

    def output_of(self, image: str, *arguments: str) -> str:
        """What the image's process prints in a container without a network."""
        return self.docker("run", "--rm", "--network=none", image, *arguments).stdout


@contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """A dockerd that keeps all it has in `folder`, which is gone at the end.

    It runs in a mount and a PID namespace of its own: what it mounts and starts cannot outlive it.
    """
    folder.mkdir()
    socket, log = folder / "docker.sock", folder / "dockerd.log"
    with open(log, "wb") as out:
        outer = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
                *("dockerd", "--iptables=false", "--bridge=none", "--host", f"unix://{socket}"),
                *("--pidfile", folder / "pid", "--data-root", folder / "data", "--exec-root", folder / "exec"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        engine = Engine(f"unix://{socket}")
        wait_until_it_answers(engine, outer, log)
        yield engine
    finally:
        stop(outer)
        shutil.rmtree(folder)
        assert mounts_below(folder) == [], "the engine left mounts behind"


def wait_until_it_answers(engine: Engine, outer: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the engine takes requests; it gives no other sign of being ready."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while engine.docker("version", check=False).returncode != 0:
        gone = outer.poll() is not None or time.monotonic() > deadline
        assert not gone, f"dockerd did not start:\n{log.read_text()}"
        time.sleep(0.05)


def stop(outer: subprocess.Popen[bytes]) -> None:
    """End dockerd and all that runs in its PID namespace; nothing that it would save is needed.

    It is that namespace's first process, which is not gone before all others are, and `unshare` waits for it.
    """
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split() if outer.poll() is None else []
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    if not children:
        outer.kill()
    outer.wait()
