"""A step's surroundings for tests: a tiny root file system and a way to run steps that keeps what they wrote."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stagewright.records import dataclass, field, replace
from stagewright.sandbox.spec import BindMount, Cancellation, Outcome, Root, Runtime, Step

APPLETS = "sh true cat ls id ps mount mkdir rm mv touch echo sleep hostname env setsid stat dd mknod chmod head ln"
PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\n"
GROUP = "root:x:0:\nbob:x:1001:\nstaff:x:50:bob\nwheel:x:10:root,bob\n"


@dataclass(frozen=True)
class Ran:
    """A finished step with its output."""

    outcome: Outcome
    out: str
    err: str
    upper: Path

    @property
    def code(self) -> int:
        return self.outcome.exit_code


@dataclass
class Box:
    """Runs steps on a root of a shared lower layer and, unless told otherwise, a fresh upper one."""

    runtime: Runtime
    lower: Path
    directory: Path
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 30)))

    def fresh_root(self, *lowers: Path) -> Root:
        number = next(self.numbers)
        upper, work = self.directory / f"upper{number}", self.directory / f"work{number}"
        upper.mkdir()
        work.mkdir()
        return Root(tuple(str(path) for path in (*lowers, self.lower)), str(upper), str(work))

    def run(
        self,
        *args: str,
        cancel: Cancellation | None = None,
        on_output: Callable[[int, bytes], None] | None = None,
        **fields: Any,
    ) -> Ran:
        fields.setdefault("root", self.fresh_root())
        fields.setdefault("env", ("PATH=/bin",))
        written = {1: bytearray(), 2: bytearray()}

        def collect(stream: int, data: bytes) -> None:
            written[stream] += data
            if on_output is not None:
                on_output(stream, data)

        step = Step(args=args, **fields)
        outcome = self.runtime.run(step, collect, cancel or threading.Event())
        upper = Path(step.root.upper or "/nonexistent")
        return Ran(outcome, written[1].decode(), written[2].decode(), upper)

    def sh(self, script: str, **fields: Any) -> Ran:
        return self.run("sh", "-c", script, **fields)

    def python(self, code: str, **fields: Any) -> Ran:
        """Run Python code in the step, with the host's interpreter."""
        fields["mounts"] = (*host_python_mounts(), *fields.get("mounts", ()))
        return self.run(host_python(), "-I", "-S", "-c", code, **fields)

    def on(self, lower: Path) -> Box:
        return replace(self, lower=lower)


def host_python() -> str:
    return os.path.realpath(sys.executable)


def host_python_mounts() -> tuple[BindMount, ...]:
    wanted = dict.fromkeys(["/lib", "/lib64", "/usr/lib", sys.base_prefix])
    return tuple(BindMount(path, os.path.realpath(path), readonly=True) for path in wanted if os.path.exists(path))


def make_root(directory: Path, busybox: str) -> Path:
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy(busybox, directory / "bin/busybox")
    for applet in APPLETS.split():
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/passwd").write_text(PASSWD)
    (directory / "etc/group").write_text(GROUP)
    return directory


def make_node(path: Path, kind: int, major: int, minor: int) -> None:
    """Make a device node for everybody; skips the test where nobody can make one."""
    try:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
    except PermissionError:
        pytest.skip("nobody makes device nodes in a user namespace")


def tree(directory: Path) -> list[str]:
    """All paths below a directory, relative to it."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
