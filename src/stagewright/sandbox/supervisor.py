"""The helper process of a step that runs in no more than a chroot: starts its program, and ends all that it starts.

It is the reaper of the step's processes: whatever the program leaves behind becomes its child and is killed, also when
the builder dies, as the end of the socket tells.
"""

from __future__ import annotations

import os
import select
from _socket import socket

from stagewright import privilege
from stagewright.sandbox import coredumps, kernel, paths, process, users, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_SIGKILL = 9
_MAX_USER_FILE = 8 << 20
_CHROOT_CAPABILITY = 1 << process.CAPABILITY_NAMES.index("CAP_SYS_CHROOT")
_SETPCAP = 1 << process.CAPABILITY_NAMES.index("CAP_SETPCAP")


def main(status_fd: int) -> NoReturn:
    """Run the step that the socket `status_fd` asks for, with our standard output and error."""
    status = socket(fileno=status_fd)
    os.set_inheritable(status_fd, False)
    os.umask(0)
    coredumps.forgo_core_dumps()
    try:
        request = wire.receive_request(status)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        ready, go = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(go)
            _Step(request, status, ready).run()
        pidfd = os.pidfd_open(pid)
        wire.send(status, (wire.STARTED,), [pidfd])
        os.close(go)
    except EOFError:
        os._exit(1)
    except OSError as error:
        _tell(status, (wire.FAILED, f"cannot start a process: {error}"))
        os._exit(1)
    _wait(pidfd, status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = _kill_all()
    if left:
        _tell(status, (wire.FAILED, "the step left processes of another user, which only CAP_KILL can end"))
    _tell(status, (wire.EXITED, code if code >= 0 else 128 - code, max(0, -code), False))
    os._exit(0)


def _wait(pidfd: int, status: socket) -> None:
    """Come back when the program has ended; kill it when the builder is gone."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(status, select.POLLHUP)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if pidfd in ready:
            return
        poll.unregister(status)
        _kill_all()


def _kill_all() -> bool:
    """Kill our children, and theirs as they become ours; answers whether some are left that we may not kill."""
    refused = False
    while children := _children():
        killed = False
        for pid in children:
            try:
                os.kill(pid, _SIGKILL)
                killed = True
            except ProcessLookupError:
                continue
            except PermissionError:
                refused = True
        if not killed:
            return refused
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    return False


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def _tell(status: socket, message: tuple[object, ...]) -> None:
    try:
        wire.send(status, message)
    except OSError:
        # Nobody waits for this step any more.
        return


class _Step:
    """The child between our fork and the program; `ready` ends when the builder knows about it."""

    def __init__(self, request: dict[str, Any], status: socket, ready: int) -> None:
        self._request = request
        self._status = status
        self._ready = ready
        self._doing = "start"

    def run(self) -> NoReturn:
        try:
            os.read(self._ready, 1)
            self._become_program()
        except process.CannotRunError as error:
            os.write(2, "".join(f"{line}\n" for line in error.args if line).encode(errors="surrogateescape"))
            os._exit(error.exit_code)
        except Exception as error:
            text = f"cannot {self._doing}: {error.strerror}" if isinstance(error, OSError) else str(error)
            _tell(self._status, (wire.FAILED, text))
        os._exit(1)

    def _become_program(self) -> NoReturn:
        request = self._request
        os.setsid()
        root = os.open(request["root"][1], os.O_RDONLY | os.O_DIRECTORY)
        self._doing = "read the image's users"
        texts = [paths.read_text(root, path, _MAX_USER_FILE) for path in ("/etc/passwd", "/etc/group")]
        uid, gid, found, home = users.resolve_user(request["user"], *texts)
        # A namespace that was made without help has given up that call. Behind the chroot there is no /proc to tell.
        groups = None if privilege.has_one_id() else list(found)
        self._doing = f"make the working directory {request['cwd']}"
        os.close(paths.resolve(root, request["cwd"], paths.DIRECTORY, owner=(uid, gid))[0])
        self._doing = "change the root directory"
        program = None if request["insecure"] else kernel.SeccompProgram(request["filter"])
        privileges = process.Privileges(program)
        os.fchdir(root)
        os.chroot(".")
        os.chdir("/")
        self._doing = "set the resource limits"
        process.set_limits(request["limits"])
        status = self._status.fileno()
        os.closerange(3, status)
        os.closerange(status + 1, 1 << 16)
        os.umask(0o022)
        self._doing = f"change to the working directory {request['cwd']}"
        process.enter_directory(request["cwd"])
        self._doing = f"become the user {request['user'] or 'root'}"
        _become(uid, gid, groups, privileges)
        self._doing = "run the program"
        kernel.default_signals()
        environment = dict(entry.partition("=")[::2] for entry in request["env"])
        environment.setdefault("HOME", home)
        process.execute(request["args"], environment)


def _become(uid: int, gid: int, groups: list[int] | None, privileges: process.Privileges) -> None:
    """Take on the identity with what we have of a step's usual capabilities, less the one that leads out of a chroot.

    Without CAP_SYS_ADMIN a filter takes no_new_privs, under which set-user-ID programs work as any other and no
    program gains a capability that is not held now.
    """
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    program = privileges.program
    keep = privileges.capabilities & (process.DEFAULT_CAPABILITIES if program is not None else ~0) & ~_CHROOT_CAPABILITY
    if program is not None:
        try:
            program.install()
        except OSError:
            # Whoever contains us may forbid filters; what it allows is then all that holds the step.
            pass
    if privileges.capabilities & _SETPCAP:
        process.drop_from_bounding(privileges.bounding, keep)
    if (uid, gid, sorted(groups or ())) != (os.getuid(), os.getgid(), sorted(os.getgroups())):
        if groups is not None:
            os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    held = keep if uid == 0 else 0
    kernel.set_capabilities(held, held, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)
