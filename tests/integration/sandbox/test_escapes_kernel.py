"""Attempts, from public advisories, to reach the kernel's settings, devices and dangerous calls from inside a step."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import pytest
from arena import Arena, refusals
from box import make_node
from calls import NUMBERS

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000


class Attempt(NamedTuple):
    """Code that a step runs, in which every attempt must end with one of the errnos."""

    advisory: str
    what: str
    code: str
    errnos: str


def calls(*names: str) -> str:
    return "".join(f"attempt_call({name!r}, {NUMBERS[name]}, 0, 0, 0, 0, 0)\n" for name in names)


WRITES = """
for name in ("core_pattern", "modprobe", "hotplug", "poweroff_cmd", "sysrq", "shm_rmid_forced", "ns_last_pid"):
    for top in ("/proc", "/proc/self/root/proc", "/proc/1/root/proc", "/proc/thread-self/root/proc"):
        path = f"{top}/sys/kernel/{name}"
        if os.path.exists(path):
            attempt(path, write, path, "|/tmp/evil")
"""
OTHER_WRITES = """
for path in (
    "/proc/sysrq-trigger", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/vm/panic_on_oom",
    "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run",
    "/sys/power/state", "/sys/module/apparmor/parameters/mode",
):
    if os.path.exists(path):
        attempt(path, write, path, "1")
"""
CONTROL_GROUPS = """
for folder, _, files in os.walk("/sys/fs/cgroup"):
    for name in ("release_agent", "notify_on_release", "cgroup.procs", "cgroup.subtree_control", "devices.allow"):
        if name in files:
            attempt(f"{folder}/{name}", write, f"{folder}/{name}", "1")
    attempt(f"group in {folder}", os.mkdir, f"{folder}/evil")
"""
RELEASE_AGENT = f"""
for controllers in (b"rdma", b"misc", b"devices", b"pids"):
    attempt_call(f"mount {{controllers}}", {NUMBERS["mount"]}, b"cgroup", b"/tmp", b"cgroup", 0, controllers)
attempt_call("unshare", {NUMBERS["unshare"]}, ctypes.c_long({CLONE_NEWUSER | CLONE_NEWNS}))
"""
NAMESPACES = "".join(
    f"attempt_call('unshare {flags:x}', {NUMBERS['unshare']}, ctypes.c_long({flags}))\n"
    f"attempt_call('clone {flags:x}', {NUMBERS['clone']}, ctypes.c_ulong({flags} | 17), None, None, None, None)\n"
    for flags in (CLONE_NEWUSER, CLONE_NEWUSER | CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNS, CLONE_NEWNS, CLONE_NEWNET)
)
HIGH_BITS = f"""
attempt_call("personality", {NUMBERS["personality"]}, ctypes.c_ulong(1 << 32 | 0x0400000))
libc.socket.argtypes = [ctypes.c_ulong] * 3
for family in (40, 38):
    ctypes.set_errno(0)
    told(f"socket {{family}}", libc.socket(1 << 32 | family, 1, 0) < 0 and ctypes.get_errno())
attempt_call("clone", {NUMBERS["clone"]}, ctypes.c_ulong(1 << 40 | {CLONE_NEWUSER} | 17), None, None, None, None)
attempt_call("clone", {NUMBERS["clone"]}, ctypes.c_ulong(1 << 63 | {CLONE_NEWNS} | 17), None, None, None, None)
"""
TERMINALS = """
import fcntl
TIOCSTI, TIOCLINUX, TIOCSCTTY = 0x5412, 0x541C, 0x540E
for fd in (0, 1, 2):
    for name, request in (("TIOCSTI", TIOCSTI), ("TIOCLINUX", TIOCLINUX), ("TIOCSCTTY", TIOCSCTTY)):
        attempt(f"{name} on {fd}", fcntl.ioctl, fd, request, b"x")
attempt("the terminal of the builder", os.open, "/dev/tty", os.O_RDWR)
for path in ("/dev/tty0", "/dev/tty1", "/dev/vcs", "/dev/vcsa1", "/dev/console", "/dev/ttyS0", "/dev/pts/0"):
    attempt(path, os.open, path, os.O_RDWR)
"""
PROCESSES = """
ptrace = libc.ptrace
ptrace.argtypes = [ctypes.c_long] * 4
for pid in {pids!r}:
    attempt(f"kill {{pid}}", os.kill, pid, 0)
    for name, request in (("attach", 16), ("seize", 0x4206)):
        ctypes.set_errno(0)
        told(f"{{name}} {{pid}}", ptrace(request, pid, 0, 0) and ctypes.get_errno())
    attempt(f"pidfd {{pid}}", os.pidfd_open, pid)
    for file in ("mem", "environ", "root", "cwd", "ns/mnt", "fd", "maps"):
        attempt(f"{{file}} of {{pid}}", os.stat, f"/proc/{{pid}}/{{file}}")
"""

ATTEMPTS = [
    Attempt("CVE-2022-0811", "set core_pattern, which names a program of the host", WRITES, "EROFS EACCES"),
    Attempt("CVE-2025-52881", "write to others of the kernel's settings", OTHER_WRITES, "EROFS EACCES EPERM"),
    Attempt("CVE-2022-0492", "mount control groups to name a release_agent", RELEASE_AGENT, "EPERM"),
    Attempt("CVE-2023-25809", "write to control groups that are there", CONTROL_GROUPS, "EROFS EACCES EPERM ENOENT"),
    Attempt("CVE-2021-22555", "enter a user namespace, to be root of new networks and mounts", NAMESPACES, "EPERM"),
    Attempt("CVE-2022-0185", "open a file system's context", calls("fsopen", "fsconfig", "fsmount", "fspick"), "EPERM"),
    Attempt(
        "CVE-2021-41133",
        "mount with the calls that a filter may have forgotten",
        calls("mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr", "setns", "clone3"),
        "EPERM ENOSYS",
    ),
    Attempt("CVE-2019-7303", "hide arguments from the filter in their upper halves", HIGH_BITS, "EPERM EINVAL"),
    Attempt("CVE-2016-0728", "use the kernel's keyrings", calls("keyctl", "add_key", "request_key"), "EPERM"),
    Attempt("CVE-2014-3519", "open the host's files by their handles", calls("open_by_handle_at"), "EPERM"),
    Attempt("CVE-2013-2094", "use performance counters", calls("perf_event_open"), "EPERM"),
    Attempt("CVE-2021-3490", "load a BPF program", calls("bpf"), "EPERM"),
    Attempt("CVE-2023-2598", "set up io_uring", calls("io_uring_setup"), "EPERM"),
    Attempt("CVE-2019-8912", "use the kernel's ciphers", 'attempt("AF_ALG", _socket.socket, 38, 5, 0)', "EPERM"),
    Attempt("CVE-2021-26708", "talk to the hypervisor", 'attempt("AF_VSOCK", _socket.socket, 40, 1, 0)', "EPERM"),
    Attempt("CVE-2017-5226", "type into the builder's terminal", TERMINALS, "ENOTTY ENXIO ENOENT EINVAL EPERM"),
    Attempt(
        "CVE-2019-13272",
        "trace, signal or look at processes outside",
        PROCESSES.format(pids=[os.getpid(), os.getppid(), 4_000_000]),
        "ESRCH ENOENT",
    ),
]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.advisory)
@pytest.mark.parametrize("user", ["", "bob"])
def test_refused_by_the_kernel(arena: Arena, attempt: Attempt, user: str) -> None:
    refusals(arena.attempts(attempt.code, user=user), *attempt.errnos.split())


@pytest.mark.parametrize(
    ("advisory", "path"),
    [
        ("CVE-2018-10892", "/proc/acpi"),
        ("CVE-2017-16539", "/proc/scsi"),
        ("CVE-2015-3630", "/proc/asound"),
        ("CVE-2015-3630", "/proc/timer_stats"),
        ("CVE-2015-3630", "/proc/latency_stats"),
        ("CVE-2016-0728", "/proc/keys"),
        ("GHSA-6fw5-f8r9-fgfm", "/proc/interrupts"),
        ("CVE-2020-8694", "/sys/devices/virtual/powercap"),
    ],
)
def test_what_the_kernel_tells_is_masked(arena: Arena, advisory: str, path: str) -> None:
    ran = arena.python(f"""
path = {path!r}
if not os.path.exists(path):
    print("nothing")
elif os.path.isdir(path):
    print(os.listdir(path))
    attempt("make", os.mkdir, f"{{path}}/evil")
elif os.path.samestat(os.stat(path), os.stat("/dev/null")):
    print("nothing")
else:
    print(open(path, "rb").read(1))
    attempt("write", write, path, "evil")
""")
    assert ran.out.split("\n")[0] in ("[]", "b''", "nothing"), advisory
    assert "DONE" not in ran.out, advisory


TUNNELS, TUNSETIFF = 200, 0x400454CA
DEVICES = [
    ("memory", stat.S_IFCHR, 1, 1),
    ("kernel log", stat.S_IFCHR, 1, 11),
    ("FUSE", stat.S_IFCHR, 10, 229),
    ("tunnels", stat.S_IFCHR, 10, TUNNELS),
    ("terminal", stat.S_IFCHR, 4, 1),
    ("loop control", stat.S_IFCHR, 10, 237),
    ("loop", stat.S_IFBLK, 7, 0),
]


def test_device_nodes_do_not_open_devices(arena: Arena) -> None:
    """GHSA-g54h-m393-cpwq: made by the step, brought by the image, or left in a cache by somebody else."""
    layer, cache = arena.folder("layer"), arena.cache()
    (layer / "dev").mkdir()
    devices = [*DEVICES, *disks()]
    for number, (_, kind, major, minor) in enumerate(devices):
        for place in (layer, layer / "dev", Path(str(cache.source))):
            make_node(place / f"node{number}", kind, major, minor)
    # A runtime may let everybody open tunnels' nodes, of which there is no use without a capability.
    code = f"""
import fcntl
def use(path, minor):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if minor == {TUNNELS}:
        fcntl.ioctl(fd, {TUNSETIFF}, b"evil".ljust(16, b"\\0") + b"\\2\\x10".ljust(24, b"\\0"))
for number, (name, kind, major, minor) in enumerate({devices!r}):
    for place in ("", "/dev", "/dev/shm", "/tmp", "/cache"):
        try:
            os.mknod(f"{{place}}/made{{number}}", kind | 0o666, os.makedev(major, minor))
        except OSError as error:
            told(f"make {{name}} in {{place}}", error.errno)
        else:
            attempt(f"open {{name}} in {{place}}", use, f"{{place}}/made{{number}}", minor)
    for place in ("", "/dev", "/cache"):
        attempt(f"open found {{name}} in {{place}}", use, f"{{place}}/node{{number}}", minor)
"""
    attempts = arena.attempts(code, root=arena.fresh_root(layer), mounts=(cache,))
    refusals(attempts, "EPERM", "EACCES", "ENOENT")


def disks() -> list[tuple[str, int, int, int]]:
    """The block devices of this machine."""
    found = []
    for entry in os.scandir("/dev"):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISBLK(status.st_mode):
            found.append((entry.name, stat.S_IFBLK, os.major(status.st_rdev), os.minor(status.st_rdev)))
    return found[:2]
