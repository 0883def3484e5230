"""The default runtime: steps started by our own launcher, in some milliseconds each."""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable

from stagewright.errors import SandboxError
from stagewright.sandbox import seccomp, stubs, wire
from stagewright.sandbox.relay import Relay
from stagewright.sandbox.request import build_request
from stagewright.sandbox.spec import Cancellation, Outcome, OutputSink, Step

_CHUNK = 1 << 16
_CANCEL_CHECK_S = 0.05


class NativeRuntime:
    """Runs steps by a launcher process that is started with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._launcher: _LauncherProcess | None = None
        self._closed = False

    def run(self, step: Step, on_output: OutputSink, cancel: Cancellation) -> Outcome:
        """See `Runtime.run`."""
        return _Run(step, on_output, cancel).run(self._started())

    def close(self) -> None:
        """See `Runtime.close`."""
        with self._lock:
            self._closed = True
            if self._launcher is not None:
                self._launcher.close()
                self._launcher = None

    def _started(self) -> _LauncherProcess:
        with self._lock:
            if self._closed:
                raise SandboxError("the runtime is closed")
            if self._launcher is None:
                self._launcher = _LauncherProcess()
            return self._launcher


class _LauncherProcess:
    """The launcher and the socket on which it takes steps."""

    def __init__(self) -> None:
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
            raise SandboxError(f"cannot start the launcher of steps: {reason}", hint="steps need to run as root")
        self._greet(program)

    def _greet(self, program: bytes) -> None:
        try:
            self._control.sendall(wire.pack(program))
            answer = wire.receive_message(self._control)
        except (OSError, EOFError):
            answer = (wire.FAILED, "the launcher of steps did not start")
        if answer[0] != wire.READY:
            self.close()
            raise SandboxError(answer[1])

    def start(self, status: int, stdout: int, stderr: int) -> None:
        """Have a process started that reads its request from `status`."""
        socket.send_fds(self._control, [b"\1"], [status, stdout, stderr])

    def close(self) -> None:
        """End the launcher, and with it every step; come back when all are gone."""
        self._control.close()
        os.waitpid(self._pid, 0)


def _spawn_launcher(control_fd: int) -> int:
    """Start the launcher in a mount namespace of its own, which the calling thread enters too; gives its PID.

    A step whose program is a script of `#!/proc/self/exe` runs what the launcher ran, our interpreter, and has it in
    /proc. So the launcher runs it from a mount that nobody can write to.
    """
    from stagewright.sandbox import kernel

    kernel.unshare(kernel.CLONE_NEWNS)
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


class _Run:
    """One run of one step, seen from the thread that waits for it."""

    def __init__(self, step: Step, on_output: OutputSink, cancel: Cancellation) -> None:
        self._step = step
        self._request = build_request(step)
        self._on_output = on_output
        self._cancel = cancel
        self._selector = selectors.DefaultSelector()
        self._inbox = wire.Inbox()
        self._pidfd: int | None = None
        self._killed = False
        self._failure: str | None = None
        self._exit: tuple[int, int] | None = None
        self._over = False
        self._stubs: tuple[tuple[str, ...], dict[str, stubs.DirectoryState]] = ((), {})
        self._relays: list[Relay] = []

    def run(self, launcher: _LauncherProcess) -> Outcome:
        status, theirs = socket.socketpair()
        pipes = {1: os.pipe(), 2: os.pipe()}
        try:
            try:
                launcher.start(theirs.fileno(), pipes[1][1], pipes[2][1])
            except OSError as error:
                raise SandboxError(f"the launcher of steps has gone: {error.strerror}") from None
            finally:
                theirs.close()
                for _, end in pipes.values():
                    os.close(end)
            for stream, (end, _) in pipes.items():
                os.set_blocking(end, False)
                self._selector.register(end, selectors.EVENT_READ, self._reader(end, stream))
            self._send_request(status)
            self._selector.register(status, selectors.EVENT_READ, lambda _: self._receive(status))
            while not self._over:
                for key, ready in self._selector.select(_CANCEL_CHECK_S):
                    key.data(ready)
                if not self._killed and self._pidfd is not None and self._cancel.is_set():
                    self._killed = True
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            for stream, (end, _) in pipes.items():
                while self._read(end, stream):
                    pass
        finally:
            self._release(status, [end for end, _ in pipes.values()])
        return self._finish()

    def _send_request(self, status: socket.socket) -> None:
        try:
            status.sendall(wire.pack(self._request))
        except OSError:
            # The process has died already; what it or the launcher said about it is still to be read.
            return

    def _reader(self, end: int, stream: int) -> Callable[[int], None]:
        def read(_: int) -> None:
            if self._read(end, stream) is None:
                self._selector.unregister(end)

        return read

    def _read(self, end: int, stream: int) -> bool | None:
        """Pass on a piece of output: False where there is none now, None at the end."""
        try:
            data = os.read(end, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            return None
        self._on_output(stream, data)
        return True

    def _receive(self, status: socket.socket) -> None:
        data, descriptors = wire.receive(status, _CHUNK, 1)
        if not data:
            self._over = True
        for message in self._inbox.feed(data):
            match message:
                case (wire.STARTED,):
                    self._pidfd = descriptors.pop()
                case (wire.LISTENING, host_socket):
                    listener = socket.socket(fileno=descriptors.pop())
                    self._relays.append(Relay(self._selector, listener, host_socket))
                case (wire.STUBS, created, directories):
                    self._stubs = created, directories
                case (wire.FAILED, text):
                    self._failure = text
                case (wire.EXITED, code, number):
                    self._exit = code, number
                    self._over = True

    def _release(self, status: socket.socket, ends: list[int]) -> None:
        """Give everything back; a step that still runs, because `on_output` raised, is killed and waited for."""
        if self._pidfd is not None:
            if not self._over:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                select.select([self._pidfd], [], [])
            os.close(self._pidfd)
        for relay in self._relays:
            relay.close()
        self._selector.close()
        status.close()
        for end in ends:
            os.close(end)
        upper = self._step.root.upper
        if upper is not None:
            stubs.remove_stubs(upper, *self._stubs)

    def _finish(self) -> Outcome:
        if self._failure is not None and not self._killed:
            raise SandboxError(self._failure)
        if self._exit is None:
            raise SandboxError("the launcher of steps has died")
        code, number = self._exit
        return Outcome(code, number or None, tuple(reversed(self._stubs[0])), self._killed)
