"""The helper process that starts steps: a small program of one thread, which can fork safely and quickly.

It is the first process of a PID namespace of its own, in a mount namespace of its own: whatever ends it, the kernel
ends all steps with it and no mount is left. `native` is the side that calls, `wire` says what goes to and fro.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import struct
from _socket import AF_INET, AF_UNIX, SOCK_DGRAM, SOCK_STREAM, socket

from stagewright.sandbox import kernel, process, users, wire
from stagewright.sandbox.mounts import FileSystem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_SIGKILL = 9
_MAX_USER_FILE = 8 << 20
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP


def main(control_fd: int) -> NoReturn:
    """Serve the socket `control_fd` until its other end is closed."""
    control = socket(fileno=control_fd)
    os.set_inheritable(control_fd, False)
    try:
        _enter_pid_namespace()
        launcher = _Launcher(control)
    except (OSError, EOFError) as error:
        wire.send(control, (wire.FAILED, f"cannot start the launcher of steps: {error}"))
        os._exit(1)
    launcher.serve()


def _enter_pid_namespace() -> None:
    """Come back as the first process of a new PID namespace; the old process stays to wait for it."""
    kernel.unshare(kernel.CLONE_NEWPID)
    pid = os.fork()
    if pid:
        os.closerange(0, 1 << 16)
        os.waitpid(pid, 0)
        os._exit(0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)


class _Launcher:
    def __init__(self, control: socket) -> None:
        self._control = control
        self._program = kernel.SeccompProgram(wire.receive_message(control))
        self._capabilities, self._bounding = process.read_capabilities()
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._null = os.open("/dev/null", os.O_RDONLY)
        self._children: dict[int, tuple[int, socket]] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        os.umask(0)
        gc.disable()
        gc.freeze()
        wire.send(control, (wire.READY,))

    def serve(self) -> NoReturn:
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._reap(fd)
                    continue
                data, descriptors = wire.receive(self._control, 1, 3)
                if not data:
                    os._exit(0)
                self._start(*descriptors)

    def _start(self, status_fd: int, stdout: int, stderr: int) -> None:
        status = socket(fileno=status_fd)
        try:
            kernel.unshare(kernel.CLONE_NEWPID)
            pid = os.fork()
            if not pid:
                self._run(status, stdout, stderr)
            kernel.setns(self._pid_namespace, kernel.CLONE_NEWPID)
            pidfd = os.pidfd_open(pid)
            self._children[pidfd] = (pid, status)
            self._poll.register(pidfd, select.POLLIN)
            self._tell(status, (wire.STARTED,), [pidfd])
        except OSError as error:
            self._tell(status, (wire.FAILED, f"cannot start a process: {error}"))
            status.close()
        finally:
            os.close(stdout)
            os.close(stderr)

    def _reap(self, pidfd: int) -> None:
        pid, status = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._tell(status, (wire.EXITED, code if code >= 0 else 128 - code, max(0, -code)))
        status.close()

    def _tell(self, status: socket, message: tuple[object, ...], descriptors: tuple[int, ...] | list[int] = ()) -> None:
        try:
            wire.send(status, message, descriptors)
        except OSError:
            # Nobody waits for this step any more.
            return

    def _run(self, status: socket, stdout: int, stderr: int) -> NoReturn:
        child = _Child(status, self._program, self._capabilities, self._bounding)
        try:
            request = wire.receive_message(status)
            os.dup2(self._null, 0)
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            child.run(request)
        except process.CannotRunError as error:
            os.write(2, f"{error}\n".encode())
            os._exit(error.exit_code)
        except EOFError:
            os._exit(1)
        except Exception as error:
            self._tell(status, (wire.FAILED, child.explain(error)))
        os._exit(1)


class _Child:
    """A step between fork and exec."""

    def __init__(self, status: socket, program: kernel.SeccompProgram, capabilities: int, bounding: int) -> None:
        self._status = status
        self._program = program
        self._capabilities = capabilities
        self._bounding = bounding
        self._files: FileSystem | None = None
        self._doing = "unshare the namespaces"

    def explain(self, error: Exception) -> str:
        """What was being done when it failed, and why."""
        if type(error).__name__ == "SandboxError":
            return str(error)
        doing = self._files.doing if self._files is not None and not self._doing else self._doing
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        name = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return f"cannot {doing}: {text}{name}"

    def run(self, request: dict[str, Any]) -> NoReturn:
        insecure = request["insecure"]
        os.setsid()
        kernel.unshare(_NAMESPACES | (kernel.CLONE_NEWNET if request["private_network"] else 0))
        if request["private_network"]:
            self._doing = "bring up the loopback device"
            _bring_up_loopback()
        self._doing = "set the hostname"
        kernel.set_hostname(request["hostname"])
        self._doing = ""
        uid, gid, groups, home = self._build_file_system(request)
        self._doing = "set the resource limits"
        process.set_limits(request["limits"])
        self._doing = "join a session keyring"
        kernel.join_session_keyring()
        self._doing = "drop privileges"
        keep = self._capabilities if insecure else process.capability_mask(process.DEFAULT_CAPABILITIES)
        keep &= self._capabilities
        self._close_descriptors()
        os.umask(0o022)
        self._doing = f"change to the working directory {request['cwd']}"
        process.enter_directory(request["cwd"], uid, gid)
        self._doing = "drop privileges"
        process.become(uid, gid, list(groups), keep, self._bounding, None if insecure else self._program)
        self._doing = "run the program"
        environment = dict(entry.partition("=")[::2] for entry in request["env"])
        environment.setdefault("HOME", home)
        kernel.default_signals()
        process.execute(request["args"], environment)

    def _build_file_system(self, request: dict[str, Any]) -> users.User:
        """Mount everything, enter it and come back with who runs the step."""
        files = self._files = FileSystem(*request["root"], insecure=request["insecure"])
        try:
            files.mount_kernel_filesystems(request["shm_size"])
            for kind, target, *details in request["mounts"]:
                files.doing = f"mount {target}"
                self._mount(files, kind, target, details)
            files.doing = f"find the user {request['user']}"
            texts = [files.read_text(path, _MAX_USER_FILE) for path in ("/etc/passwd", "/etc/group")]
            user = users.resolve_user(request["user"], *texts)
        finally:
            wire.send(self._status, (wire.STUBS, *files.stubs.report()))
        files.enter()
        return user

    def _mount(self, files: FileSystem, kind: str, target: str, details: list[Any]) -> None:
        if kind == "file":
            *content, optional = details
            try:
                files.attach(files.file(*content), target)
            except OSError as error:
                if not optional or error.errno != errno.EROFS:
                    raise
        elif kind == "bind":
            files.attach(files.bind(*details), target)
        elif kind == "tmpfs":
            files.attach(files.tmpfs(*details), target)
        else:
            self._mount_socket(files, target, *details)

    def _mount_socket(self, files: FileSystem, target: str, host_socket: str, mode: int, uid: int, gid: int) -> None:
        """A socket of our own; whoever called us relays its connections, so the host's one is never in here."""
        name = files.stage_name()
        path = files.stage_path(name)
        listener = socket(AF_UNIX, SOCK_STREAM)
        listener.bind(path)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        listener.listen()
        wire.send(self._status, (wire.LISTENING, host_socket), [listener.fileno()])
        listener.close()
        files.attach(files.staged(name), target)

    def _close_descriptors(self) -> None:
        status = self._status.fileno()
        os.closerange(3, status)
        os.closerange(status + 1, 1 << 30)


def _bring_up_loopback() -> None:
    probe = socket(AF_INET, SOCK_DGRAM)
    request = struct.pack("16sh14x", b"lo", 0)
    _, flags = struct.unpack("16sh14x", fcntl.ioctl(probe.fileno(), _SIOCGIFFLAGS, request))
    fcntl.ioctl(probe.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    probe.close()
