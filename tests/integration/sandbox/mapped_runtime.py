"""A runtime that lives in a user namespace, as an ordinary user's does, and is used from outside of it.

This file is also the program of the process in there: it takes steps and runs them with the runtime proper.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

USER = 20_000
"""The user outside who is root inside. The ids behind his are his subordinate ones."""
_SUBORDINATES = 40_000
_CLONE_NEWUSER, _PR_SET_DUMPABLE = 0x10000000, 4
_SIZE = struct.Struct("!I")


class MappedRuntime:
    """The client: `kind` is "native" or an OCI runtime's path. `directory` takes a copy of the package."""

    def __init__(self, kind: str, interpreter: str, directory: Path) -> None:
        import stagewright

        packages = directory / "packages"
        source = os.path.dirname(stagewright.__file__)
        shutil.copytree(source, packages / "stagewright", ignore=shutil.ignore_patterns("__pycache__"))
        program = shutil.copy(__file__, packages)
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [interpreter, "-I", program, str(theirs.fileno()), str(packages), kind]
            env = {"PATH": os.environ["PATH"], "TMPDIR": str(directory)}
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], user=USER, group=USER, extra_groups=[], env=env, cwd="/"
            )
        assert _receive(self._control) == "unshared"
        for file in ("gid_map", "uid_map"):
            extents = f"0 {USER} 1\n1 {USER + 1} {_SUBORDINATES}\n"
            Path(f"/proc/{self._process.pid}/{file}").write_text(extents)
        _send(self._control, "mapped")

    def run(self, step: Any, on_output: Callable[[int, bytes], None], cancel: threading.Event) -> Any:
        """See `Runtime.run`; `cancel` is looked at when there is output."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._control, [b"\1"], [theirs.fileno()])
            _send(ours, step)
            while True:
                kind, *values = _receive(ours)
                if kind == "output":
                    on_output(*values)
                    _send(ours, cancel.is_set())
                elif kind == "error":
                    raise values[0]
                else:
                    return values[0]

    def close(self) -> None:
        """See `Runtime.close`."""
        self._control.close()
        self._process.wait()


def find_interpreter() -> tuple[str, str] | None:
    """A Python that every user may run: its real path and its prefix. None where there is none."""
    code = "import os, sys; print(os.path.realpath(sys.executable), sys.base_prefix); assert sys.version_info > (3, 11)"
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [path, "-I", "-S", "-c", code], user=USER, group=USER, extra_groups=[], capture_output=True, cwd="/"
            )
        except OSError:
            continue
        if done.returncode == 0:
            found, prefix = done.stdout.decode().split()
            return found, prefix
    return None


def _send(channel: socket.socket, value: Any) -> None:
    data = pickle.dumps(value)
    channel.sendall(_SIZE.pack(len(data)) + data)


def _receive(channel: socket.socket) -> Any:
    (size,) = _SIZE.unpack(_exactly(channel, _SIZE.size))
    return pickle.loads(_exactly(channel, size))


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = channel.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _serve(control: socket.socket, kind: str) -> None:
    libc = ctypes.CDLL(None)
    # Whoever changes his user loses the files in /proc/self to root, and with them the right to be given ids.
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    assert libc.unshare(_CLONE_NEWUSER) == 0
    _send(control, "unshared")
    assert _receive(control) == "mapped"
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if kind == "native":
        runtime = importlib.import_module("stagewright.sandbox.native").NativeRuntime()
    else:
        runtime = importlib.import_module("stagewright.sandbox.oci").OciRuntime(kind)
    while True:
        data, (*descriptors,), _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            break
        channel = socket.socket(fileno=descriptors[0])
        threading.Thread(target=_run_step, args=(runtime, channel)).start()
    runtime.close()


def _run_step(runtime: Any, channel: socket.socket) -> None:
    cancel = threading.Event()

    def on_output(stream: int, data: bytes) -> None:
        _send(channel, ("output", stream, data))
        if _receive(channel):
            cancel.set()

    with channel:
        step = _receive(channel)
        try:
            _send(channel, ("outcome", runtime.run(step, on_output, cancel)))
        except Exception as error:
            _send(channel, ("error", error))


if __name__ == "__main__":
    sys.path.append(sys.argv[2])
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[3])
