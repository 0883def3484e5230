"""A step between the launcher's fork and the program: namespaces, file system, limits, privileges."""

from __future__ import annotations

import errno
import os

from stagewright import privilege
from stagewright.sandbox import kernel, netlink, process, users, wire
from stagewright.sandbox.kernel_mounts import KernelMounts
from stagewright.sandbox.mounts import FileSystem, ForbiddenTargetError
from stagewright.sandbox.stage import Stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, NoReturn

MAX_USER_FILE = 8 << 20
USER_FILES = ("/etc/passwd", "/etc/group")
_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP


class Child:
    """What the children of both runtimes share.

    It gets ready before it is known which step it will be, and is given that one's request, as `request.build_request`
    makes it, afterwards. `devices_ruled` says whether its control group keeps it off the machine's devices.
    `doing` says at any time what is being attempted, for the message if it fails.
    """

    def __init__(self, privileges: process.Privileges, *, insecure: bool, devices_ruled: bool) -> None:
        self.doing = "unshare the namespaces"
        self._privileges = privileges
        self._insecure = insecure
        self._nodev = 0 if insecure or devices_ruled else kernel.MOUNT_ATTR_NODEV
        self._request: dict[str, Any] = {}
        self._status: socket

    def get_ready(self, network: int | None) -> None:
        """Do what needs no request, in the network namespace of a descriptor, which is closed. Raises OSError."""
        os.setsid()
        if network is not None:
            self.doing = "join the build's network"
            kernel.setns(network, kernel.CLONE_NEWNET)
            os.close(network)

    def take(self, request: dict[str, Any], status: socket) -> None:
        """Become the step of the request, which reports to `status`."""
        self._request = request
        self._status = status

    def run(self) -> NoReturn:
        """Run the step. Raises CannotRunError for a program that cannot be run, and anything else for our failure."""
        raise NotImplementedError

    def explain(self, error: Exception) -> str:
        """What was being done when it failed, and why."""
        if not isinstance(error, OSError):
            return str(error)
        name = f": {error.filename}" if isinstance(error.filename, str) else ""
        why = " (this user has no subordinate ids)" if error.errno == errno.EINVAL and privilege.has_one_id() else ""
        return f"cannot {self.doing}: {error.strerror}{name}{why}"

    def _kept_capabilities(self) -> int:
        held = self._privileges.capabilities
        return held if self._insecure else held & process.DEFAULT_CAPABILITIES

    def _attach_mounts(self, files: FileSystem) -> list[tuple[str, str]]:
        """Mount what the step asks for; gives (path, name on the stage) of what is for an OCI runtime to mount."""
        left = []
        for kind, target, optional, *details in self._request["mounts"]:
            self.doing = f"mount {target}"
            mount = files.make(kind, details, self._status)
            try:
                path = files.attach(mount, target)
            except (OSError, ForbiddenTargetError) as error:
                if not optional or getattr(error, "errno", errno.EROFS) != errno.EROFS:
                    raise
            else:
                if path is not None:
                    left.append((path, files.stage.put(mount)))
            os.close(mount)
        return left

    def _find_user(self, files: FileSystem) -> users.User:
        self.doing = "read the image's users"
        texts = [files.read_text(path, MAX_USER_FILE) for path in USER_FILES]
        return users.resolve_user(self._request["user"], *texts)

    def _environment(self, home: str) -> dict[str, str]:
        environment = dict(entry.partition("=")[::2] for entry in self._request["env"])
        environment.setdefault("HOME", home)
        return environment


class NativeChild(Child):
    """Becomes the step's program itself."""

    def get_ready(self, network: int | None) -> None:
        """See `Child.get_ready`."""
        super().get_ready(network)
        self.doing = "unshare the namespaces"
        kernel.unshare(_NAMESPACES)
        self.doing = "mount /proc, /sys and /dev"
        self._stage = Stage()
        self._kernel_mounts = KernelMounts(self._stage, insecure=self._insecure, nodev=self._nodev)
        if network is not None:
            self._kernel_mounts.make_sys()
        process.drop_from_bounding(self._privileges.bounding, self._kept_capabilities())
        # Nothing is ignored from here on: a builder that has gone ends the step.
        kernel.default_signals()
        self.doing = "unshare the network"

    def run(self) -> NoReturn:
        """See `Child.run`."""
        request = self._request
        if request["private_network"]:
            kernel.unshare(kernel.CLONE_NEWNET)
            self.doing = "bring up the loopback device"
            netlink.set_loopback_up()
        self.doing = "set the hostname"
        kernel.set_hostname(request["hostname"])
        uid, gid, groups, home = self._build_file_system()
        self.doing = "set the resource limits"
        process.set_limits(request["limits"])
        self.doing = "join a session keyring"
        kernel.join_session_keyring()
        self._close_descriptors()
        os.umask(0o022)
        self.doing = f"change to the working directory {request['cwd']}"
        process.enter_directory(request["cwd"])
        self.doing = f"run as the user {uid}:{gid}"
        program = None if self._insecure else self._privileges.program
        process.become(uid, gid, list(groups), self._kept_capabilities(), program)
        self.doing = "run the program"
        process.execute(request["args"], self._environment(home))

    def _build_file_system(self) -> users.User:
        """Mount everything, enter it and come back with who runs the step."""
        request = self._request
        self.doing = "mount the root file system"
        files = FileSystem(request["root"], request["descriptors"], self._stage, nodev=self._nodev)
        try:
            self.doing = "mount /proc, /sys and /dev"
            files.mount_kernel_filesystems(self._kernel_mounts, request["shm_size"])
            self._attach_mounts(files)
            user = self._find_user(files)
            self.doing = f"make the working directory {request['cwd']}"
            files.make_directory(request["cwd"], *user[:2])
        finally:
            wire.send(self._status, (wire.STUBS, *files.stubs.report()))
        self.doing = "enter the root file system"
        files.enter()
        return user

    def _close_descriptors(self) -> None:
        """Close all but the standard ones and our way to report, so that no path through /proc/self/fd leads out."""
        status = self._status.fileno()
        os.closerange(3, status)
        os.closerange(status + 1, 1 << 30)
