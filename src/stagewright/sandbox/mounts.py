"""Puts a step's file system together inside its own mount namespace: root, /proc, /sys, /dev and the step's mounts.

Everything is mounted by descriptor: targets are resolved with `paths`, so no name is looked up twice. The root and
what is only a source of other mounts wait on the stage.
"""

from __future__ import annotations

import errno
import os
import stat
from _socket import AF_UNIX, SOCK_STREAM, socket

from stagewright import privilege
from stagewright.sandbox import kernel, paths, wire
from stagewright.sandbox.kernel_mounts import DEVICES, KernelMounts
from stagewright.sandbox.stage import LOCKED, Stage
from stagewright.sandbox.stubs import StubRecorder
from stagewright.snapshots import volatile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_READONLY = kernel.MOUNT_ATTR_RDONLY

# Layers are packed from the upper directory, which must hold whole files and no references to lower layers.
_OVERLAY_OPTIONS = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"))
_FSCONFIG_MAX = 255

Layers = tuple[list[str], str | None, str | None, int | None]
"""What a request says of a root: lower directories, upper and work directory, and the place of a descriptor."""


class ForbiddenTargetError(Exception):
    """A mount is asked for where it would take the place of what keeps a step contained."""


class FileSystem:
    """The file system of one step while it is being built, in the mount namespace of the calling process.

    `root` is what the request says of it. `descriptors` are those that came with the request. `nodev` is the mount
    attribute that keeps the step from opening device nodes, or 0 where something else does.
    """

    def __init__(self, root: Layers, descriptors: list[int], stage: Stage, *, nodev: int) -> None:
        self._descriptors = descriptors
        self._nodev = nodev
        self.stage = stage
        self.root_fd = self._merged(*root)
        kernel.mount_setattr(self.root_fd, nodev)
        self.root_name = stage.put(self.root_fd)
        self.stubs = StubRecorder(self.root_fd, root[1])
        # Where /proc, /sys and /dev are, and those of them that an OCI runtime is still to mount.
        self._kernel_places: dict[str, list[str]] = {}
        self._reserved: list[list[str]] = []

    def _merged(self, lowers: list[str], upper: str | None, work: str | None, known: int | None) -> int:
        """A detached mount of the layers, of which there may be none, or the one that came with the request."""
        if known is not None:
            return self._descriptors[known]
        empty = self.stage.empty_directory
        if not lowers:
            # Without anything below, a layer's directory is its whole file system.
            if upper is not None:
                return kernel.open_tree_at(upper)
            fd = kernel.open_tree_at(empty)
            kernel.mount_setattr(fd, _READONLY)
            return fd
        if upper is None and len(lowers) == 1:
            lowers = [*lowers, empty]
        rest: list[tuple[str, str | None]] = list(_OVERLAY_OPTIONS)
        if privilege.in_user_namespace():
            rest.append(("userxattr", None))
        held: list[int] = []
        try:
            if upper is not None and work is not None:
                volatile.forget(work)
                rest += [("volatile", None), ("upperdir", _short(upper, held)), ("workdir", _short(work, held))]
            short_lowers = [_short(lower, held) for lower in lowers]
            try:
                return kernel.new_filesystem("overlay", [*(("lowerdir+", path) for path in short_lowers), *rest])
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            return self._overlay_by_links(lowers, rest)
        finally:
            for fd in held:
                os.close(fd)

    def _overlay_by_links(self, lowers: list[str], options: list[tuple[str, str | None]]) -> int:
        """For kernels before 6.8, which take all lower directories in one page: give them names of few characters."""
        links, target = (self.stage.path(self.stage.name()) for _ in range(2))
        os.mkdir(links)
        os.mkdir(target)
        for number, lower in enumerate(lowers):
            os.symlink(lower, f"{links}/{number}")
        data = ",".join(key if value is None else f"{key}={_escaped(value)}" for key, value in options)
        os.chdir(links)
        lowerdir = ":".join(str(number) for number in range(len(lowers)))
        kernel.mount("overlay", target, "overlay", 0, f"lowerdir={lowerdir},{data}")
        os.chdir("/")
        return kernel.open_tree_at(target)

    def mount_kernel_filesystems(self, mounts: KernelMounts, shm_size: int) -> None:
        """/proc, /sys and /dev as a container has them."""
        mounts.attach(self._attach_kernels, shm_size)

    def _relayed_socket(self, status: socket, host_socket: str, mode: int, uid: int, gid: int) -> int:
        """A socket of our own; whoever called us relays its connections, so the host's one is never in the step."""
        path = self.stage.path(self.stage.name())
        listener = socket(AF_UNIX, SOCK_STREAM)
        listener.bind(path)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        listener.listen()
        wire.send(status, (wire.LISTENING, host_socket), [listener.fileno()])
        listener.close()
        mount = kernel.open_tree_at(path)
        kernel.mount_setattr(mount, LOCKED)
        return mount

    def _bind(self, source: str | Layers, subpath: str, readonly: bool) -> int:
        """A detached mount of `subpath` inside a host path or inside an overlay of its own."""
        if isinstance(source, str):
            base = os.open(source, os.O_PATH)
        else:
            base = self._merged(*source)
            self.stage.put(base)
        inner, _ = paths.resolve(base, subpath) if subpath.strip("/") else (os.dup(base), [])
        mount = kernel.open_tree(inner)
        kernel.mount_setattr(mount, self._nodev | (_READONLY if readonly else 0))
        os.close(inner)
        os.close(base)
        return mount

    def _tmpfs(self, size: int | None, mode: int) -> int:
        """A detached mount of an empty file system in memory."""
        options: list[tuple[str, str | None]] = [("mode", f"{mode:o}")]
        if size is not None:
            options.append(("size", str(size)))
        return kernel.new_filesystem("tmpfs", options, kernel.MOUNT_ATTR_NOSUID | self._nodev)

    def make(self, kind: str, details: list[Any], status: socket) -> int:
        """A detached mount of what a request asks for; a listening socket goes up by `status`."""
        if kind == "file":
            return self.stage.file(*details)
        if kind == "bind":
            return self._bind(*details)
        if kind == "tmpfs":
            return self._tmpfs(*details)
        return self._relayed_socket(status, *details)

    def attach(self, mount: int, target: str) -> str | None:
        """Mount at a path of the step's root, which is made if it is missing.

        Where an OCI runtime is to mount something of its own over it first, nothing is done but to give the real path.
        Raises ForbiddenTargetError for the root directory, /proc and all in it, /sys, /dev and the devices in it.
        """
        is_directory = stat.S_ISDIR(os.fstat(mount).st_mode)
        fd, names = self._open_target(target, paths.DIRECTORY if is_directory else paths.FILE)
        try:
            self._check_target(target, names)
            if self._is_reserved(names):
                return "/" + "/".join(names)
            kernel.move_mount(mount, fd)
        finally:
            os.close(fd)
        self.stubs.mounted(names)
        return None

    def _is_reserved(self, names: list[str]) -> bool:
        return any(names[: len(place)] == place for place in self._reserved)

    def _open_target(self, target: str, kind: str) -> tuple[int, list[str]]:
        return paths.resolve(self.root_fd, target, kind, self.stubs.before_create)

    def _check_target(self, target: str, names: list[str]) -> None:
        """Links of an image may lead a target anywhere, so it is the real path that counts."""
        if not names:
            raise ForbiddenTargetError(f"a mount cannot take the place of the root directory, where {target} leads")
        proc, dev = self._kernel_places["/proc"], self._kernel_places["/dev"]
        is_device = names[:-1] == dev and names[-1] in {name for name, _, _ in DEVICES}
        if is_device or names[: len(proc)] == proc or names in self._kernel_places.values():
            raise ForbiddenTargetError(f"nothing can be mounted at {target}, which is the kernel's")

    def _attach_kernels(self, mount: int, target: str) -> None:
        fd = self._open_kernels_place(target)
        kernel.move_mount(mount, fd)
        os.close(fd)
        self.stubs.mounted(self._kernel_places[target])

    def _open_kernels_place(self, target: str) -> int:
        # Where an image has none, the folder stays in the step's layer, as with BuildKit, whose runtime makes it.
        fd, names = paths.resolve(self.root_fd, target, paths.DIRECTORY)
        if not names:
            os.close(fd)
            raise ForbiddenTargetError(f"{target} of the image leads to its root directory")
        self._kernel_places[target] = names
        return fd

    def reserve(self, target: str) -> None:
        """Make /proc, /sys or /dev in the step's root, for an OCI runtime to mount there.

        Raises ForbiddenTargetError for a link, through which runtimes make files outside of the root.
        """
        os.close(self._open_kernels_place(target))
        if self._kernel_places[target] != [target.strip("/")]:
            raise ForbiddenTargetError(f"{target} of the image is a link, through which an OCI runtime may leave it")
        self._reserved.append(self._kernel_places[target])

    def make_directory(self, path: str, uid: int, gid: int) -> None:
        """Make a directory of the step's root and its parents, where they are missing, for a user."""
        fd, _ = paths.resolve(self.root_fd, path, paths.DIRECTORY, owner=(uid, gid))
        os.close(fd)

    def is_plain(self, path: str, limit: int) -> bool:
        """Whether a path is missing in the step's root or a regular file of up to `limit` bytes.

        That has to hold as well once an OCI runtime has mounted its own.
        """
        names, status = paths.find(self.root_fd, path)
        is_small = status is None or (stat.S_ISREG(status.st_mode) and status.st_size <= limit)
        return is_small and not self._is_reserved(names)

    def read_text(self, path: str, limit: int) -> str:
        """The text of a file in the step's root, "" where there is none."""
        return paths.read_text(self.root_fd, path, limit)

    def enter(self) -> None:
        """Make this the root of the calling process and let go of everything that is not in it."""
        os.fchdir(self.root_fd)
        kernel.pivot_root(".", ".")
        # The old root lies on ours now, with the stage upon it, and whatever else the host has mounted over "/".
        while not os.path.samestat(os.stat("/.."), os.fstat(self.root_fd)):
            kernel.unmount(".", kernel.MNT_DETACH)
        os.chdir("/")


def _short(path: str, held: list[int]) -> str:
    """A name for `path` that fsconfig takes; it may need a descriptor, which is added to `held`."""
    if len(os.fsencode(path)) < _FSCONFIG_MAX:
        return path
    held.append(os.open(path, os.O_PATH | os.O_DIRECTORY))
    return f"/proc/self/fd/{held[-1]}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")
