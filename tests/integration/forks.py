"""Runs Stagewright's command line in forks of processes that have imported what each build imports.

To start Python and to import that takes several times as long as what most tests' commands do then. What a build
imports later it still has to, or it is missed. Commands whose start or end is tested, or that get signals, are started
as a user starts them.
"""

from __future__ import annotations

import atexit
import importlib
import itertools
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn

MODULES = (
    *("afterwards", "builder", "cli.build", "cli.main", "cli.signals", "cli.specs", "door.passage", "ops.actions"),
    *("progress.display", "progress.rawjson", "registry.client", "snapshots.selection"),
)
# Commands that follow each other are of several interpreters: nothing may depend on the order that a set has in one.
SERVERS = 2


class Server:
    """A process that forks for each command; it ends with this one."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.pid = self._process.pid

    def stop(self) -> None:
        """End the process, once no command of its runs any more."""
        self._control.close()
        self._process.wait()

    def run(self, arguments: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end with this process's standard input; what it prints is kept."""
        request, theirs = socket.socketpair()
        pipes = [os.pipe() for _ in range(2)]
        with request:
            with theirs:
                socket.send_fds(self._control, [b"."], [theirs.fileno(), 0, *(inner for _, inner in pipes)])
            for _, inner in pipes:
                os.close(inner)
            order = {"arguments": arguments, "env": dict(env), "folder": os.getcwd()}
            request.sendall(json.dumps(order).encode() + b"\n")
            out, err = read_all([outer for outer, _ in pipes])
            status = int(request.recv(16))
        return subprocess.CompletedProcess(arguments, status, text_of(out), text_of(err))


def text_of(data: bytes) -> str:
    """What has been printed, with one end of line for all, as `subprocess` gives it."""
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")


def read_all(files: list[int]) -> list[bytes]:
    """What several files give until their ends, which are closed then."""
    found = {file: bytearray() for file in files}
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                found[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [bytes(data) for data in found.values()]


_servers: list[Server] = []
_turns = itertools.count()


def run(arguments: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with this process's standard input; what it prints is kept."""
    if not _servers:
        _servers.extend(Server() for _ in range(SERVERS))
        for server in _servers:
            atexit.register(server.stop)
    return _servers[next(_turns) % SERVERS].run(arguments, env)


def server_pids() -> set[int]:
    """The children of this process that wait for commands."""
    return {server.pid for server in _servers}


def serve(control: socket.socket) -> None:
    """Fork for each command that comes, until nobody is left who could send one."""
    for module in MODULES:
        importlib.import_module(f"stagewright.{module}")
    running: set[int] = set()
    while True:
        data, files, _, _ = socket.recv_fds(control, 1, 4)
        # Whoever has ended is waited for when the next command comes.
        running -= {pid for pid in running if os.waitpid(pid, os.WNOHANG if data else 0)[0]}
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            attend(socket.socket(fileno=files[0]), files[1:])
        running.add(pid)
        for file in files:
            os.close(file)


def attend(request: socket.socket, files: list[int]) -> NoReturn:
    """Run one command in a fork of this process, and answer its exit status; it ends if nobody waits for that."""
    order = json.loads(request.makefile().readline())
    pid = os.fork()
    if pid == 0:
        request.close()
        become(order, files)
    for file in files:
        os.close(file)
    process = os.pidfd_open(pid)
    ready, _, _ = select.select([process, request], [], [])
    if process not in ready:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        request.sendall(str(status).encode())
    finally:
        os._exit(0)


def become(order: dict[str, object], files: list[int]) -> NoReturn:
    """Be the command line with the arguments, the environment, the folder and the standard files of an order."""
    from stagewright.cli.main import run as run_command_line

    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(order["env"])  # type: ignore[call-overload]
        os.chdir(str(order["folder"]))
        sys.argv = ["stagewright", *order["arguments"]]  # type: ignore[misc]
        run_command_line()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
