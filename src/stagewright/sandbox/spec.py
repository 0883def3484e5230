"""What a step is, as data: its process, root file system, mounts and limits, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from stagewright.records import dataclass, field

DEFAULT_HOSTNAME = "buildkitsandbox"
DEFAULT_SHM_SIZE = 64 << 20


@dataclass(frozen=True, slots=True)
class Root:
    """A file system of overlay layers.

    `lowers` are absolute directories in overlay format, TOPMOST FIRST, any number of them. `upper` takes the changes
    and `work` is overlayfs's scratch directory beside it on the same file system; both None: read-only. `merged` is the
    descriptor of a detached mount where somebody has mounted just that already. Without `lowers`, `upper` is all.
    """

    lowers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    merged: int | None = None


@dataclass(frozen=True, slots=True)
class BindMount:
    """A directory or file that appears at `target`.

    `source` is an absolute path of the host or an overlay of its own. `subpath` is resolved inside the source as if
    that were the root of the file system, its symbolic links too; it may name a file. `is_kept` says that what is
    written to it outlives the step.
    """

    target: str
    source: str | Root
    subpath: str = ""
    readonly: bool = False
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class TmpfsMount:
    """An empty file system in memory; `size` is in bytes, None for the kernel's default of half the memory."""

    target: str
    size: int | None = None
    mode: int = 0o1777


@dataclass(frozen=True, slots=True)
class SecretMount:
    """A read-only file whose bytes are in memory only."""

    target: str
    data: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0

    def __repr__(self) -> str:
        """A text without the secret's bytes, which must not reach a log by way of an error message."""
        return f"SecretMount(target={self.target!r}, {len(self.data)} bytes)"


@dataclass(frozen=True, slots=True)
class SshMount:
    """A socket at `target` that only this step sees, relayed to the host's Unix socket `socket`."""

    target: str
    socket: str
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


Mount = BindMount | TmpfsMount | SecretMount | SshMount


@dataclass(frozen=True, slots=True)
class Step:
    """One process to run.

    `args[0]` is looked up in the PATH of `env` unless it holds a slash. `env` is `KEY=VALUE` strings, the last one of
    a key counts. `user` is what Dockerfile's USER takes. `extra_hosts` are (name, IP address) pairs, `ulimits` (name
    as in `nofile`, soft, hard; -1 for unlimited), `shm_size` bytes. `host_ca` is the path of a file with CA
    certificates that the step trusts.
    """

    args: tuple[str, ...]
    root: Root
    # It may hold secrets, which must not reach a log by way of an error message.
    env: tuple[str, ...] = field(default=(), repr=False)
    cwd: str = "/"
    user: str = ""
    mounts: tuple[Mount, ...] = ()
    network: Literal["host", "none", "default"] = "default"
    security: Literal["sandbox", "insecure"] = "sandbox"
    hostname: str = DEFAULT_HOSTNAME
    extra_hosts: tuple[tuple[str, str], ...] = ()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    shm_size: int = DEFAULT_SHM_SIZE
    host_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step's process ended.

    `exit_code` is 0 to 255, 128 + `signal` where a signal ended it. `created_mountpoints` are the paths, relative to
    the root and deepest first, that had to be made in `Root.upper` for the step's mounts, `/etc/hosts` and
    `/etc/resolv.conf`; those still empty are gone again. `canceled` tells that the step was killed because its
    `cancel` was set, `out_of_memory` that the kernel killed some of its processes for want of memory.
    """

    exit_code: int
    signal: int | None = None
    created_mountpoints: tuple[str, ...] = ()
    canceled: bool = False
    out_of_memory: bool = False


class Cancellation(Protocol):
    """The one method of `threading.Event` that a running step needs."""

    def is_set(self) -> bool:
        """True once the step is to be killed."""
        ...


OutputSink = Callable[[int, bytes], None]


class Runtime(Protocol):
    """Something that runs steps; any number of them at once, from any thread.

    `shares_folders` tells whether several steps can have one folder mounted at once.
    """

    shares_folders: bool

    def begin(self) -> None:
        """Start what the first step will need, without waiting for it. Raises SandboxError, as that step will."""
        ...

    def get_ready(self, network: str) -> None:
        """Have ready, after `begin`, what the first step, in `network`, would wait for.

        Raises SandboxError, as that step will.
        """
        ...

    def run(self, step: Step, on_output: OutputSink, cancel: Cancellation) -> Outcome:
        """Run a step to its end, with everything that it has started.

        `on_output(stream, data)` is called from the calling thread, with 1 for standard output and 2 for standard
        error. Raises SandboxError where the step could not be started; a program that is missing (exit code 127) or
        not executable (126) is an outcome, with a message on standard error.
        """
        ...

    def end(self) -> None:
        """Have go, without waiting for it, what only further steps would need: none may come any more."""
        ...

    def close(self) -> None:
        """Kill what still runs and give everything back. Further calls do nothing."""
        ...
