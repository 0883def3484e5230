"""Starts the launcher of steps and hands it the steps of all threads."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from stagewright.errors import SandboxError
from stagewright.sandbox import kernel, seccomp, wire
from stagewright.sandbox.cgroups import Hierarchy

Bundles = tuple[str, str]
"""For OCI runtimes: a directory to mount bundles upon and the control group of all steps; both go with the launcher."""


class LauncherProcess:
    """The launcher and the socket on which it takes steps, which run natively or as `bundles`.

    `hierarchies` are where the control groups of steps may be; `controllers` are those whose limits are in force.
    Raises SandboxError where it cannot be started.
    """

    def __init__(self, bundles: Bundles | None = None, hierarchies: Sequence[Hierarchy] = ()) -> None:
        program = seccomp.default_filter(os.uname().machine)
        self._control, theirs = socket.socketpair()
        self._pid = 0
        failures: list[OSError] = []

        def spawn() -> None:
            try:
                self._pid = _spawn_launcher(theirs.fileno())
            except OSError as error:
                failures.append(error)

        # A thread, since it leaves the mount namespace of the process for good.
        thread = threading.Thread(target=spawn, name="start-launcher")
        thread.start()
        thread.join()
        theirs.close()
        if failures:
            self._control.close()
            reason = failures[0].strerror
            raise SandboxError(f"cannot start the launcher of steps: {reason}")
        self.controllers: frozenset[str] = frozenset()
        greeting = program, bundles, f"stagewright-{os.urandom(8).hex()}", list(hierarchies)
        with suppress(OSError):
            # What has gone wrong is told where its answer is waited for.
            self._control.sendall(wire.pack(greeting))

    def wait(self) -> None:
        """Come back when it can take steps. Raises SandboxError."""
        try:
            answer = wire.receive_message(self._control)
        except (OSError, EOFError):
            answer = (wire.FAILED, "the launcher of steps did not start")
        if answer[0] != wire.READY:
            self.close()
            raise SandboxError(answer[1])
        self.controllers = frozenset(answer[1])

    def start(self, kind: bytes, status: int, stdout: int, stderr: int, network: int | None = None) -> None:
        """Have a process read its request from `status`, in the network namespace `network`.

        `kind` is `wire.STEP` or `wire.OTHER`.
        """
        descriptors = [fd for fd in (status, stdout, stderr, network) if fd is not None]
        wire.send_descriptors(self._control, descriptors, kind)

    def start_ahead(self, network: int | None) -> None:
        """Have a process ready for the first contained step, in a network namespace or the machine's."""
        with suppress(OSError):
            # The step will say that the launcher has gone.
            wire.send_descriptors(self._control, [] if network is None else [network], wire.AHEAD)

    def end(self) -> None:
        """Have the launcher end, and with it every step; `close` waits for that."""
        self._control.close()

    def close(self) -> None:
        """End the launcher, and with it every step; come back when all are gone."""
        self.end()
        os.waitpid(self._pid, 0)


def _spawn_launcher(control_fd: int) -> int:
    """Start the launcher in a mount namespace of its own, which the calling thread enters too; gives its PID.

    A step whose program is a script of `#!/proc/self/exe` runs what the launcher ran, our interpreter, and has it in
    /proc. So the launcher runs it from a mount that nobody can write to.
    """
    kernel.unshare(kernel.CLONE_NEWNS)
    try:
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _make_root_a_mount()
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
    interpreter = os.path.realpath(sys.executable)
    readonly = kernel.open_tree_at(interpreter)
    try:
        kernel.mount_setattr(readonly, kernel.MOUNT_ATTR_RDONLY)
        kernel.move_mount_to(readonly, interpreter)
    finally:
        os.close(readonly)
    packages = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.append({packages!r}); from stagewright.sandbox import launcher; launcher.main(3)"
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", code],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, control_fd, 3),
        ],
        setsid=True,
        setsigmask=[],
    )


def _make_root_a_mount() -> None:
    """Enter a copy of the root as a mount of its own: in a plain chroot the root is a folder of some other mount."""
    root = kernel.open_whole_tree_at("/")
    try:
        kernel.move_mount_to(root, "/")
        os.fchdir(root)
    finally:
        os.close(root)
    os.chroot(".")


class LauncherSlot:
    """The launcher of a runtime: started by the first thread that needs it, ended once."""

    def __init__(
        self,
        bundles: Bundles | None = None,
        hierarchies: Sequence[Hierarchy] = (),
        on_start: Callable[[LauncherProcess], None] = lambda launcher: None,
    ) -> None:
        self._bundles = bundles
        self._hierarchies = hierarchies
        self._on_start = on_start
        self._lock = threading.RLock()
        self._launcher: LauncherProcess | None = None
        self._is_ready = False
        self._closed = False

    def begin(self) -> LauncherProcess:
        """Start the launcher, if it is not, without waiting until it is ready. Raises SandboxError."""
        with self._lock:
            if self._closed:
                raise SandboxError("the runtime is closed")
            if self._launcher is None:
                self._launcher = LauncherProcess(self._bundles, self._hierarchies)
            return self._launcher

    def get(self) -> LauncherProcess:
        """The launcher. Raises SandboxError where it cannot be started, or has been ended."""
        with self._lock:
            launcher = self.begin()
            if not self._is_ready:
                self._launcher = None
                launcher.wait()
                self._launcher, self._is_ready = launcher, True
                self._on_start(launcher)
            return launcher

    def end(self) -> None:
        """Have the launcher end, and all steps; `close` waits for that."""
        with self._lock:
            self._closed = True
            if self._launcher is not None:
                self._launcher.end()

    def close(self) -> None:
        """End the launcher and all steps; further calls do nothing."""
        with self._lock:
            self._closed = True
            if self._launcher is not None:
                self._launcher.close()
                self._launcher, self._is_ready = None, False
