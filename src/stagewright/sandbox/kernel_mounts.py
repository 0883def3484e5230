"""/proc, /sys and /dev as a container has them."""

from __future__ import annotations

import os
import stat

from stagewright import privilege
from stagewright.sandbox import kernel
from stagewright.sandbox.stage import LOCKED, Stage, attach_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NOSUID, _NODEV, _NOEXEC = kernel.MOUNT_ATTR_NOSUID, kernel.MOUNT_ATTR_NODEV, kernel.MOUNT_ATTR_NOEXEC
_READONLY = kernel.MOUNT_ATTR_RDONLY

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

DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
"""The nodes in /dev: name, major and minor number."""
DESCRIPTOR_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
"""The links in /dev to a process's open files: name, and where it leads."""
_DEVICE_LINKS = (
    *DESCRIPTOR_LINKS,
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
)
TTY_GROUP = 5
_DEV_SIZE = str(64 << 20)


class KernelMounts:
    """/proc, /dev and /sys on a stage, ready to be attached to a root.

    /sys shows the network that its maker is in: where that is known ahead, `make_sys` may be called ahead. `nodev` is
    the attribute that keeps a step from opening nodes that it makes itself, or 0.
    """

    def __init__(self, stage: Stage, *, insecure: bool, nodev: int) -> None:
        self._stage = stage
        self._insecure = insecure
        self._proc = self._make_proc()
        self._dev = self._make_dev(nodev)
        self._sys: int | None = None

    def attach(self, attach: Callable[[int, str], None], shm_size: int) -> None:
        """Have `attach` put all three in their places, in the network namespace that the step has."""
        attach(self._proc, "/proc")
        sysfs = self.make_sys() if self._sys is None else self._sys
        attach(sysfs, "/sys")
        attach(self._dev, "/dev")
        shm = kernel.new_filesystem("tmpfs", [("mode", "1777"), ("size", str(shm_size))], LOCKED, "shm")
        attach_in(self._dev, shm, "shm")
        for fd in (self._proc, sysfs, self._dev):
            os.close(fd)

    def make_sys(self) -> int:
        """Make /sys; gives its descriptor."""
        attributes = LOCKED if self._insecure else LOCKED | _READONLY
        self._sys, is_new = _sysfs(attributes)
        self._stage.put(self._sys)
        if is_new and is_cgroup2("/sys/fs/cgroup"):
            attach_in(self._sys, kernel.new_filesystem("cgroup2", [], attributes), "fs/cgroup")
        if not self._insecure:
            for name in masked_in_sys():
                self._mask(self._sys, name)
        return self._sys

    def _make_proc(self) -> int:
        proc = kernel.new_filesystem("proc", [], LOCKED)
        self._stage.put(proc)
        if not self._insecure:
            for name in MASKED_IN_PROC:
                self._mask(proc, name)
            for name in READONLY_IN_PROC:
                _make_readonly(proc, name)
        return proc

    def _make_dev(self, nodev: int) -> int:
        dev = kernel.new_filesystem("tmpfs", [("mode", "755"), ("size", _DEV_SIZE)], _NOSUID | nodev)
        self._stage.put(dev)
        # The nodes are made on a file system of their own and bound: a node that the step makes in /dev must not work.
        nodes = kernel.new_filesystem("tmpfs", [("mode", "755"), ("size", "64k")], _NOSUID | _NOEXEC)
        self._stage.put(nodes)
        for name, major, minor in DEVICES:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o666, dir_fd=dev))
            if privilege.in_user_namespace():
                # Nobody makes nodes there. The machine's own have the same numbers.
                node = _machine_device(name)
            else:
                os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=nodes)
                node = kernel.open_tree(nodes, name)
            attach_in(dev, node, name)
        if self._insecure:
            _bind_host_devices(dev)
        for name, link in _DEVICE_LINKS:
            os.symlink(link, name, dir_fd=dev)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=dev)
        options: list[tuple[str, str | None]] = [("ptmxmode", "0666"), ("mode", "0620"), *_tty_group()]
        attach_in(dev, kernel.new_filesystem("devpts", options, _NOSUID | _NOEXEC), "pts")
        attach_in(dev, kernel.new_filesystem("mqueue", [], LOCKED), "mqueue")
        # By way of the machine's own /dev/null, a step could change that one's owner and mode.
        null = os.open("null", os.O_RDONLY, dir_fd=dev)
        os.dup2(null, 0)
        os.close(null)
        os.close(nodes)
        return dev

    def _mask(self, mount: int, name: str) -> None:
        """Cover a file or directory with an empty one, where there is such a path."""
        try:
            target = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=mount)
        except OSError:
            return
        self._stage.cover(target)
        os.close(target)


def _make_readonly(mount: int, name: str) -> None:
    try:
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=mount)
    except OSError:
        return
    cover = kernel.open_tree(target)
    kernel.mount_setattr(cover, _READONLY)
    kernel.move_mount(cover, target)
    os.close(cover)
    os.close(target)


def _bind_host_devices(dev: int) -> None:
    """An insecure step sees the host's device nodes, as with `docker run --privileged`."""
    known = {name for name, _, _ in DEVICES} | {name for name, _ in _DEVICE_LINKS} | {"console"}
    for entry in os.scandir("/dev"):
        mode = entry.stat(follow_symlinks=False).st_mode
        if entry.name not in known and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            os.close(os.open(entry.name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=dev))
            attach_in(dev, kernel.open_tree_at(entry.path), entry.name)


def _tty_group() -> list[tuple[str, str | None]]:
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
    for name, _, _ in DEVICES:
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


def is_cgroup2(path: str) -> bool:
    """Whether the cgroup v2 tree is mounted there: its root directories all have this file."""
    return os.path.exists(f"{path}/cgroup.procs") and os.path.exists(f"{path}/cgroup.controllers")
