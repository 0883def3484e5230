"""The inner side of the door: the process that makes the user namespace and runs calls in it as its root."""

from __future__ import annotations

import os
import signal
import socket
import threading
from importlib import import_module
from typing import NoReturn

from stagewright.door import wire
from stagewright.errors import PrivilegeNeededError, StagewrightError
from stagewright.progress.events import Event
from stagewright.sandbox import kernel

# Settings of the kernel by which machines forbid user namespaces: the file, the value, what to do.
_SETTINGS = (
    ("user/max_user_namespaces", "0", "have some allowed: sysctl user.max_user_namespaces=65536"),
    ("kernel/unprivileged_userns_clone", "0", "have them allowed: sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "give this Python an AppArmor profile with `userns`, or: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def main(fd: int) -> NoReturn:
    """Serve the one call that comes by the socket `fd`."""
    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A terminal signals both sides. The outer one decides, and says so.
        signal.signal(number, signal.SIG_IGN)
    # Who is root already has another way, so it is worth knowing that this one leads nowhere.
    has_other_way = os.geteuid() == 0
    try:
        _become_root(channel)
        function, arguments = wire.receive(channel)[1]
        if has_other_way and not _may_mount_proc():
            text = "a user namespace cannot mount /proc here, parts of which are covered, as in a container"
            wire.send(channel, wire.ERROR, PrivilegeNeededError(text))
            os._exit(1)
    except EOFError:
        os._exit(1)
    _serve(channel, function, arguments)
    for stream in (1, 2):
        os.close(stream)
    os._exit(0)


def _become_root(channel: socket.socket) -> None:
    try:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    except OSError as error:
        refused = PrivilegeNeededError(f"no user namespace can be made: {error.strerror}", hint=_way_to_namespaces())
        wire.send(channel, wire.ERROR, refused)
        os._exit(1)
    wire.send(channel, wire.UNSHARED)
    wire.receive(channel)
    # The user's other groups stay: files and sockets that they open, such as Docker's, are the user's to use.
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _may_mount_proc() -> bool:
    """Whether steps can have a /proc of their own, tried by a process in namespaces like a step's."""
    pid = os.fork()
    if not pid:
        try:
            kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWPID)
            inner = os.fork()
            if not inner:
                kernel.new_filesystem("proc", [])
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) != 0)
        except OSError:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _way_to_namespaces() -> str:
    """What keeps an ordinary user from making a namespace, and so what to change."""
    for setting, refusing, advice in _SETTINGS:
        try:
            with open(f"/proc/sys/{setting}", encoding="ascii") as file:
                value = file.read().strip()
        except FileNotFoundError:
            continue
        if value == refusing:
            return f"run it as root, or {advice}"
    return "run it as root; where this is a container, its seccomp profile may forbid user namespaces"


def _serve(channel: socket.socket, function: str, arguments: tuple[object, ...]) -> None:
    cancel = threading.Event()
    sending = threading.Lock()
    threading.Thread(target=_listen, args=(channel, cancel), name="door", daemon=True).start()

    def sink(event: Event) -> None:
        with sending:
            try:
                wire.send(channel, wire.EVENT, event)
            except OSError:
                cancel.set()  # As where `_listen` finds the outer side dead.

    module, _, name = function.partition(":")
    try:
        result = getattr(import_module(module), name)(*arguments, sink, cancel)
    except BaseException as error:
        _answer(channel, sending, wire.ERROR, _portable(error))
    else:
        _answer(channel, sending, wire.RESULT, result)


def _answer(channel: socket.socket, sending: threading.Lock, kind: str, value: object) -> None:
    with sending:
        try:
            wire.send(channel, kind, value)
        except OSError:
            # Nobody waits for the answer any more.
            return


def _listen(channel: socket.socket, cancel: threading.Event) -> None:
    try:
        wire.receive(channel)
    except (OSError, EOFError):
        pass  # The outer side has died, which cancels as well.
    cancel.set()


def _portable(error: BaseException) -> BaseException:
    """An error that the other side can read, with the traceback that it would lose as a note."""
    import traceback

    if not isinstance(error, StagewrightError):
        copy = RuntimeError(f"{type(error).__name__}: {error}") if not isinstance(error, MemoryError) else MemoryError()
        copy.add_note("".join(traceback.format_exception(error)))
        return copy
    return error
