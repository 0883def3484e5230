"""Puts a step's file system together inside its own mount namespace: root, /proc, /sys, /dev and the step's mounts.

Everything is mounted by descriptor: targets are resolved with `paths`, so no name is looked up twice. The root and
what is only a source of other mounts wait on the stage, a file system in memory that is mounted over "/", where no
path but only our descriptor leads to it; it goes with the old root.
"""

from __future__ import annotations

import errno
import os
import stat
from _socket import AF_UNIX, SOCK_STREAM, socket

from stagewright import privilege
from stagewright.sandbox import kernel, paths, wire
from stagewright.sandbox.stubs import StubRecorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NOSUID, _NODEV, _NOEXEC = kernel.MOUNT_ATTR_NOSUID, kernel.MOUNT_ATTR_NODEV, kernel.MOUNT_ATTR_NOEXEC
_READONLY = kernel.MOUNT_ATTR_RDONLY
_LOCKED = _NOSUID | _NODEV | _NOEXEC

MASKED_IN_PROC = (
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
)
_MASKED_IN_SYS = ("devices/virtual/powercap", "firmware")
_CPUS, _THROTTLE = "devices/system/cpu", "thermal_throttle"
READONLY_IN_PROC = ("bus", "fs", "irq", "sys", "sysrq-trigger")

_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
)
TTY_GROUP = 5
_DEV_SIZE = str(64 << 20)

# Layers are packed from the upper directory, which must hold whole files and no references to lower layers.
_OVERLAY_OPTIONS = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"))
_FSCONFIG_MAX = 255

_EMPTY_DIRECTORY, _EMPTY_FILE = "directory", "file"


Layers = tuple[list[str], str | None, str | None, int | None]
"""What a request says of a root: lower directories, upper and work directory, and the place of a descriptor."""


class ForbiddenTargetError(Exception):
    """A mount is asked for where it would take the place of what keeps a step contained."""


class FileSystem:
    """The file system of one step while it is being built, in the mount namespace of the calling process.

    `root` is what the request says of it. `descriptors` are those that came with the request. `nodev` says that the
    mounts have to keep the step from opening device nodes, as nothing else does.
    """

    def __init__(
        self, root: Layers, descriptors: list[int], *, insecure: bool, nodev: bool = True, stage_at: str = "/"
    ) -> None:
        self._descriptors = descriptors
        self._insecure = insecure
        self._nodev = _NODEV if nodev and not insecure else 0
        self._files = 0
        self._stage = _memory_filesystem()
        kernel.move_mount_to(self._stage, stage_at)
        os.mkdir(_EMPTY_DIRECTORY, 0o755, dir_fd=self._stage)
        os.close(os.open(_EMPTY_FILE, os.O_CREAT | os.O_WRONLY, 0o444, dir_fd=self._stage))
        self.root_fd = self._merged(*root)
        kernel.mount_setattr(self.root_fd, self._nodev)
        self.root_name = self.put_on_stage(self.root_fd)
        self.stubs = StubRecorder(self.root_fd, root[1])
        # Where /proc, /sys and /dev are, and those of them that an OCI runtime is still to mount.
        self._kernel_places: dict[str, list[str]] = {}
        self._reserved: list[list[str]] = []

    def _merged(self, lowers: list[str], upper: str | None, work: str | None, known: int | None) -> int:
        """A detached mount of the layers, of which there may be none, or the one that came with the request."""
        if known is not None:
            return self._descriptors[known]
        empty = f"/proc/self/fd/{self._stage}/{_EMPTY_DIRECTORY}"
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
                rest += [("upperdir", _short(upper, held)), ("workdir", _short(work, held))]
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

    def put_on_stage(self, mount: int) -> str:
        """Attach a mount where the step does not see it, and give its name there.

        Only what is attached somewhere can be cloned from or mounted upon.
        """
        name = self.stage_name()
        if stat.S_ISDIR(os.fstat(mount).st_mode):
            os.mkdir(name, 0o700, dir_fd=self._stage)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self._stage))
        self._attach_in(self._stage, os.dup(mount), name)
        return name

    def _overlay_by_links(self, lowers: list[str], options: list[tuple[str, str | None]]) -> int:
        """For kernels before 6.8, which take all lower directories in one page: give them names of few characters."""
        links, target = self.stage_name(), self.stage_name()
        stage = f"/proc/self/fd/{self._stage}"
        os.mkdir(links, dir_fd=self._stage)
        os.mkdir(target, dir_fd=self._stage)
        for number, lower in enumerate(lowers):
            os.symlink(lower, f"{stage}/{links}/{number}")
        data = ",".join(key if value is None else f"{key}={_escaped(value)}" for key, value in options)
        os.chdir(f"{stage}/{links}")
        lowerdir = ":".join(str(number) for number in range(len(lowers)))
        kernel.mount("overlay", f"{stage}/{target}", "overlay", 0, f"lowerdir={lowerdir},{data}")
        os.chdir("/")
        return kernel.open_tree(self._stage, target)

    def mount_kernel_filesystems(self, shm_size: int) -> None:
        """/proc, /sys and /dev as a container has them."""
        proc = kernel.new_filesystem("proc", [], _LOCKED)
        self._attach_kernels(proc, "/proc")
        sys_attributes = _LOCKED if self._insecure else _LOCKED | _READONLY
        sysfs, is_new = _sysfs(sys_attributes)
        self._attach_kernels(sysfs, "/sys")
        if is_new and is_cgroup2("/sys/fs/cgroup"):
            cgroup = kernel.new_filesystem("cgroup2", [], sys_attributes)
            self._attach_in(sysfs, cgroup, "fs/cgroup")
        self._mount_dev(shm_size)
        if not self._insecure:
            for mount, names in ((proc, MASKED_IN_PROC), (sysfs, masked_in_sys())):
                for name in names:
                    self._mask(mount, name)
            for name in READONLY_IN_PROC:
                self._make_readonly(proc, name)
        for fd in (proc, sysfs):
            os.close(fd)

    def _mount_dev(self, shm_size: int) -> None:
        dev = kernel.new_filesystem("tmpfs", [("mode", "755"), ("size", _DEV_SIZE)], _NOSUID | self._nodev)
        self._attach_kernels(dev, "/dev")
        # The nodes are made on a file system of their own and bound: a node that the step makes in /dev must not work.
        nodes = kernel.new_filesystem("tmpfs", [("mode", "755"), ("size", "64k")], _NOSUID | _NOEXEC)
        self.put_on_stage(nodes)
        for name, major, minor in _DEVICES:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o666, dir_fd=dev))
            if privilege.in_user_namespace():
                # Nobody makes nodes there. The machine's own have the same numbers.
                node = _machine_device(name)
            else:
                os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=nodes)
                node = kernel.open_tree(nodes, name)
            self._attach_in(dev, node, name)
        if self._insecure:
            self._bind_host_devices(dev)
        for name, link in _DEVICE_LINKS:
            os.symlink(link, name, dir_fd=dev)
        for name, fstype, options, attributes in (
            ("pts", "devpts", [("ptmxmode", "0666"), ("mode", "0620"), *_tty_group()], _NOSUID | _NOEXEC),
            ("shm", "tmpfs", [("mode", "1777"), ("size", str(shm_size))], _LOCKED),
            ("mqueue", "mqueue", [], _LOCKED),
        ):
            os.mkdir(name, 0o755, dir_fd=dev)
            source = name if name == "shm" else fstype
            self._attach_in(dev, kernel.new_filesystem(fstype, list(options), attributes, source), name)
        # By way of the machine's own /dev/null, a step could change that one's owner and mode.
        null = os.open("null", os.O_RDONLY, dir_fd=dev)
        os.dup2(null, 0)
        os.close(null)
        os.close(nodes)
        os.close(dev)

    def _bind_host_devices(self, dev: int) -> None:
        """An insecure step sees the host's device nodes, as with `docker run --privileged`."""
        known = {name for name, _, _ in _DEVICES} | {name for name, _ in _DEVICE_LINKS} | {"console"}
        for entry in os.scandir("/dev"):
            mode = entry.stat(follow_symlinks=False).st_mode
            if entry.name not in known and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
                os.close(os.open(entry.name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=dev))
                self._attach_in(dev, kernel.open_tree_at(entry.path), entry.name)

    def _mask(self, mount: int, name: str) -> None:
        """Cover a file or directory with an empty one, where there is such a path."""
        try:
            target = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=mount)
        except OSError:
            return
        is_directory = stat.S_ISDIR(os.fstat(target).st_mode)
        cover = kernel.open_tree(self._stage, _EMPTY_DIRECTORY if is_directory else _EMPTY_FILE)
        kernel.mount_setattr(cover, _READONLY | _LOCKED)
        kernel.move_mount(cover, target)
        os.close(cover)
        os.close(target)

    def _make_readonly(self, mount: int, name: str) -> None:
        try:
            target = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=mount)
        except OSError:
            return
        cover = kernel.open_tree(target)
        kernel.mount_setattr(cover, _READONLY)
        kernel.move_mount(cover, target)
        os.close(cover)
        os.close(target)

    def _file(self, data: bytes, mode: int, uid: int, gid: int) -> int:
        """A detached read-only mount of a new file in memory."""
        name = self.stage_name()
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self._stage)
        with open(fd, "wb") as file:
            file.write(data)
        os.chown(name, uid, gid, dir_fd=self._stage)
        os.chmod(name, mode, dir_fd=self._stage)
        mount = kernel.open_tree(self._stage, name)
        kernel.mount_setattr(mount, _LOCKED | _READONLY)
        return mount

    def stage_name(self) -> str:
        """A name that is free in the file system in memory."""
        self._files += 1
        return str(self._files)

    def _relayed_socket(self, status: socket, host_socket: str, mode: int, uid: int, gid: int) -> int:
        """A socket of our own; whoever called us relays its connections, so the host's one is never in the step."""
        name = self.stage_name()
        path = f"/proc/self/fd/{self._stage}/{name}"
        listener = socket(AF_UNIX, SOCK_STREAM)
        listener.bind(path)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        listener.listen()
        wire.send(status, (wire.LISTENING, host_socket), [listener.fileno()])
        listener.close()
        mount = kernel.open_tree(self._stage, name)
        kernel.mount_setattr(mount, _LOCKED)
        return mount

    def _bind(self, source: str | Layers, subpath: str, readonly: bool) -> int:
        """A detached mount of `subpath` inside a host path or inside an overlay of its own."""
        if isinstance(source, str):
            base = os.open(source, os.O_PATH)
        else:
            base = self._merged(*source)
            self.put_on_stage(base)
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
        return kernel.new_filesystem("tmpfs", options, _NOSUID | self._nodev)

    def make(self, kind: str, details: list[Any], status: socket) -> int:
        """A detached mount of what a request asks for; a listening socket goes up by `status`."""
        if kind == "file":
            return self._file(*details)
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
        is_device = names[:-1] == dev and names[-1] in {name for name, _, _ in _DEVICES}
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

    def _attach_in(self, outer: int, mount: int, name: str) -> None:
        """Mount upon a name in the mount `outer`, and close the descriptor of what is mounted."""
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=outer)
        kernel.move_mount(mount, target)
        os.close(target)
        os.close(mount)

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


def _tty_group() -> list[tuple[str, str]]:
    return [] if privilege.has_one_id() else [("gid", str(TTY_GROUP))]


def masked_in_sys(top: str = "/sys") -> tuple[str, ...]:
    """What steps do not see below /sys: the firmware, and by what the CPUs' heat tells of others' work."""
    try:
        names = os.listdir(f"{top}/{_CPUS}")
    except FileNotFoundError:
        names = []
    found = (f"{_CPUS}/{name}/{_THROTTLE}" for name in sorted(names) if name.startswith("cpu"))
    return (*_MASKED_IN_SYS, *(path for path in found if os.path.exists(f"{top}/{path}")))


def protect_devices() -> None:
    """Cover the machine's devices, of which an OCI runtime in a user namespace gives its steps the nodes themselves."""
    for name, _, _ in _DEVICES:
        node = _machine_device(name)
        kernel.move_mount_to(node, f"/dev/{name}")
        os.close(node)


def _machine_device(name: str) -> int:
    """A detached mount of a device node by which it can be written to, but not given another mode or owner."""
    node = kernel.open_tree_at(f"/dev/{name}")
    kernel.mount_setattr(node, _NOSUID | _NOEXEC | _READONLY)
    return node


def _sysfs(attributes: int) -> tuple[int, bool]:
    """A detached mount of /sys, and whether it is a new one.

    A new one shows the network namespace that the step is in, and takes privilege over it. A user namespace on the
    machine's network has none: it gets the machine's own, with what is mounted inside.
    """
    try:
        return kernel.new_filesystem("sysfs", [], attributes), True
    except PermissionError:
        machine = kernel.open_whole_tree_at("/sys")
        kernel.mount_setattr(machine, attributes, whole_tree=True)
        return machine, False


def _memory_filesystem() -> int:
    """A file system in memory for secrets, which is not swapped out where the kernel can promise that (6.4)."""
    options: list[tuple[str, str | None]] = [("mode", "700")]
    try:
        return kernel.new_filesystem("tmpfs", [*options, ("noswap", None)], _LOCKED)
    except OSError:
        return kernel.new_filesystem("tmpfs", options, _LOCKED)


def _short(path: str, held: list[int]) -> str:
    """A name for `path` that fsconfig takes; it may need a descriptor, which is added to `held`."""
    if len(os.fsencode(path)) < _FSCONFIG_MAX:
        return path
    held.append(os.open(path, os.O_PATH | os.O_DIRECTORY))
    return f"/proc/self/fd/{held[-1]}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def is_cgroup2(path: str) -> bool:
    """Whether the cgroup v2 tree is mounted there: its root directories all have this file."""
    return os.path.exists(f"{path}/cgroup.procs") and os.path.exists(f"{path}/cgroup.controllers")
