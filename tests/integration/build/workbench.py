"""A build context that a test fills and builds, and a look at the files that come out."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from forks import server_pids
from harness import Build, Files, Stagewright
from processes import command_of

END_TIMEOUT_S = 60.0
# What `Workbench.start` has started in a test; `end_builds` ends what a test that failed has not waited for.
_started: list[subprocess.Popen[str]] = []


@dataclass(frozen=True, slots=True)
class Workbench:
    """A context folder and the command line that builds it."""

    stagewright: Stagewright
    context: Path

    @property
    def scratch(self) -> Path:
        """A folder beside the context, for what is not part of it."""
        return self.context.parent

    def dockerfile(self, text: str) -> None:
        """Write the Dockerfile: the text, but for the indentation that all lines share and empty lines at the start."""
        self.write("Dockerfile", dedent(text).lstrip("\n"))

    def write(self, name: str, content: str | bytes = "", mode: int = 0o644) -> Path:
        """Write a file of the context, folders included."""
        path = self.context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    def build(self, *flags: object, env: Mapping[str, str] | None = None) -> Build:
        """Build the context; that fails the test if it fails. Without an output nothing but the cache is made."""
        return self.stagewright.build(self.context, *self._output(flags), *flags, env=env)

    def fail(self, *flags: object, env: Mapping[str, str] | None = None) -> str:
        """Build what must fail with the status 1; gives what is printed below the events."""
        build = self.stagewright.build(self.context, *self._output(flags), *flags, check=False, env=env)
        assert build.status == 1, f"the status is {build.status}\n{build.stderr}"
        assert "Traceback" not in build.stderr
        return "\n".join(line for line in build.stderr.splitlines() if not line.startswith("{"))

    def start(self, *flags: object) -> subprocess.Popen[str]:
        """Start a build with plain progress on its standard error, for `wait_for` and `communicate`."""
        command = [sys.executable, "-m", "stagewright", "build", "--root", self.stagewright.root, "--config"]
        command += [self.stagewright.config, "--progress=plain", *self._output(flags), *flags, self.context]
        process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
        _started.append(process)
        return process

    def files(self, *flags: object, env: Mapping[str, str] | None = None) -> Files:
        """Build the context and read the result's files."""
        archive = self.scratch / "result.tar"
        self.build("-o", f"type=tar,dest={archive}", *flags, env=env)
        return Files.read(archive.read_bytes())

    @staticmethod
    def _output(flags: tuple[object, ...]) -> tuple[str, ...]:
        given = {"-o", "--output", "-t", "--tag", "--push", "--load", "--iidfile"}
        return () if given.intersection(map(str, flags)) else ("-o", "type=cacheonly")


def end_builds() -> None:
    """Kill the builds that were started and have not been waited for."""
    for process in _started:
        if process.returncode is None:
            process.kill()
            process.communicate()
    _started.clear()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Return when the build has printed a line that ends with the text."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.endswith(f"{text}\n"):
            return
    raise AssertionError(f"the build ended without {text!r}:\n{''.join(seen)}")


def wait_for_children() -> None:
    """Return once this process has no children but those that wait for commands; fails where one does not end."""

    def children() -> set[int]:
        pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return {int(pid) for pid in pids} - server_pids()

    while left := children():
        child = left.pop()
        process = os.pidfd_open(child)
        ended = select.select([process], [], [], END_TIMEOUT_S)[0]
        os.close(process)
        assert ended, f"still there: {command_of(child)!r}"
        os.waitpid(child, 0)
