"""The runtime for where no namespace can be made, as in a container without privileges: a chroot, and little more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from stagewright.errors import SandboxError
from stagewright.sandbox import seccomp
from stagewright.sandbox.placing import Placement
from stagewright.sandbox.request import build_request
from stagewright.sandbox.running import StepRun
from stagewright.sandbox.spec import BindMount, Cancellation, Outcome, OutputSink, Step

SHORTCOMINGS = (
    "steps run in a chroot only: they have the network and see the processes of this machine or container, and can"
    " signal those of their user; /proc is a few files, read-only mounts can be written to, and set-user-ID programs"
    " do not work"
)


class ChrootRuntime:
    """Runs steps in trees of files that are put together already.

    `notify` gets a line on what steps must do without. `lend(folder, path)` is told before the folder of a cache mount
    is moved to a path, `returned(folder)` when it is back.
    """

    shares_folders = False

    def __init__(
        self, notify: Callable[[str], None], lend: Callable[[str, str], None], returned: Callable[[str], None]
    ) -> None:
        self._lend = lend
        self._returned = returned
        notify(SHORTCOMINGS)

    def begin(self) -> None:
        """See `Runtime.begin`."""

    def get_ready(self, network: str) -> None:
        """See `Runtime.get_ready`: steps wait for nothing that could be started ahead."""

    def run(self, step: Step, on_output: OutputSink, cancel: Cancellation) -> Outcome:
        """See `Runtime.run`. Raises SandboxError for what takes a namespace: a step without a network."""
        root = step.root.upper
        if root is None or step.root.lowers:
            raise SandboxError("steps in a chroot need a tree of files", hint='set snapshotter = "copies"')
        if step.network == "none":
            raise SandboxError(
                "a step without a network takes a network namespace, and this build runs its steps in a chroot",
                hint="stagewright info says what this machine lacks; or leave out --network=none",
            )
        request = build_request(step)
        request["filter"] = seccomp.default_filter(os.uname().machine)
        run = StepRun(step, request, on_output, cancel)
        kept = {mount.source for mount in step.mounts if isinstance(mount, BindMount) and mount.is_kept}
        aside = os.path.join(os.path.dirname(root), "aside")
        placement = Placement(root, aside, self._lend, self._returned, run.relay)
        with placement.held(request.pop("mounts"), {str(source) for source in kept}), _Supervisor() as supervisor:
            return run.run(supervisor)

    def end(self) -> None:
        """See `Runtime.end`: nothing is ready for further steps."""

    def close(self) -> None:
        """See `Runtime.close`: no process outlives its step."""


class _Supervisor:
    """The process that starts one step; the block's end is its end."""

    def __init__(self) -> None:
        self._pid = 0

    def __enter__(self) -> _Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid:
            os.waitpid(self._pid, 0)

    def start(self, kind: bytes, status: int, stdout: int, stderr: int, network: int | None) -> None:
        """See `LauncherProcess.start`."""
        packages = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        code = f"import sys; sys.path.append({packages!r}); from stagewright.sandbox import supervisor"
        self._pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", f"{code}; supervisor.main(3)"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_DUP2, stderr, 2),
                (os.POSIX_SPAWN_DUP2, status, 3),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            ],
            setsid=True,
            setsigmask=[],
        )
