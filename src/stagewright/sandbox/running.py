"""One run of one step, seen from the thread that waits for it: output, cancellation, relayed sockets, the end."""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Callable
from typing import Any, Protocol

from stagewright.errors import SandboxError
from stagewright.sandbox import stubs, wire
from stagewright.sandbox.relay import Relay
from stagewright.sandbox.spec import Cancellation, Outcome, OutputSink, Step

_CHUNK = 1 << 16
_CANCEL_CHECK_S = 0.05


class Starter(Protocol):
    """What starts the process of a step: the launcher, or a helper of its own."""

    def start(self, kind: bytes, status: int, stdout: int, stderr: int, network: int | None) -> None:
        """See `LauncherProcess.start`."""
        ...


class StepRun:
    """A step and what is known of its run so far; `request` is what the launcher's child shall do."""

    def __init__(self, step: Step, request: dict[str, Any], on_output: OutputSink, cancel: Cancellation) -> None:
        self._step = step
        self._request = request
        self._on_output = on_output
        self._cancel = cancel
        self._selector = selectors.DefaultSelector()
        self._inbox = wire.Inbox()
        self._pidfd: int | None = None
        self._killed = False
        self._failure: str | None = None
        self._exit: tuple[int, int, bool] | None = None
        self._over = False
        self._stubs: tuple[tuple[str, ...], dict[str, stubs.DirectoryState]] = ((), {})
        self._relays: list[Relay] = []

    def run(self, launcher: Starter, network: int | None = None) -> Outcome:
        """Run the step to its end, in the network namespace `network`. Raises SandboxError where it could not start."""
        status, theirs = socket.socketpair()
        pipes = {1: os.pipe(), 2: os.pipe()}
        try:
            try:
                kind = wire.OTHER if self._request["insecure"] else wire.STEP
                launcher.start(kind, theirs.fileno(), pipes[1][1], pipes[2][1], network)
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
                if self._cancel.is_set():
                    self._kill()
            for stream, (end, _) in pipes.items():
                while self._read(end, stream):
                    pass
        finally:
            self._release(status, [end for end, _ in pipes.values()])
        return self._finish()

    def relay(self, listener: socket.socket, host_socket: str) -> None:
        """Relay the connections that a socket of the step takes to one of the host."""
        self._relays.append(Relay(self._selector, listener, host_socket))

    def _kill(self) -> None:
        """Kill the step's first process, and with it all others, once it is known."""
        if self._pidfd is not None and not self._killed:
            self._killed = True
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                # It has ended by itself just now, which the launcher tells us.
                return

    def _send_request(self, status: socket.socket) -> None:
        try:
            wire.send_request(status, self._request)
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
        try:
            data, descriptors = wire.receive(status, _CHUNK, 1)
        except ConnectionResetError:
            # The launcher died before it had read all of the request.
            data, descriptors = b"", []
        if not data:
            self._over = True
        for message in self._inbox.feed(data):
            match message:
                case (wire.STARTED,):
                    self._pidfd = descriptors.pop()
                case (wire.LISTENING, host_socket):
                    self.relay(socket.socket(fileno=descriptors.pop()), host_socket)
                case (wire.STUBS, created, directories):
                    self._stubs = created, directories
                case (wire.FAILED, text):
                    self._failure = text
                case (wire.EXITED, code, number, out_of_memory):
                    self._exit = code, number, out_of_memory
                    self._over = True

    def _release(self, status: socket.socket, ends: list[int]) -> None:
        """Give everything back; a step that still runs, because `on_output` raised, is killed and waited for."""
        while not self._over:
            self._kill()
            self._receive(status)
        if self._pidfd is not None:
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
        if self._failure is not None:
            raise SandboxError(self._failure)
        if self._exit is None:
            raise SandboxError("the launcher of steps has died")
        code, number, out_of_memory = self._exit
        canceled = self._killed and number == signal.SIGKILL
        return Outcome(code, number or None, tuple(reversed(self._stubs[0])), canceled, out_of_memory)
