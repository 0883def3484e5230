"""Linux system calls that Python's os module lacks, as functions that raise OSError.

All prototypes are made when the module is imported, so that a forked child needs no more than the call itself.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_uint64, c_ulong, c_void_p

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 1 << 19
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SET_KEEPCAPS = 8

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_CLOEXEC = os.O_CLOEXEC
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
_CAPABILITY_VERSION_3 = 0x20080522

# The calls of the mount API have one number on all machines, these have not.
_PIVOT_ROOT, _KEYCTL, _SECCOMP, _RT_SIGACTION = {"aarch64": (41, 219, 277, 134)}.get(
    os.uname().machine, (155, 250, 317, 13)
)
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442

_libc = ctypes.CDLL(None, use_errno=True)
_mount = _libc.mount
_mount.argtypes = (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = _libc.umount2
_umount2.argtypes = (c_char_p, c_int)
_prctl = _libc.prctl
_prctl.argtypes = (c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_syscall = _libc.syscall
_syscall.restype = c_long


def _fail(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _call(what: str, number: int, *arguments: object) -> int:
    """Make a system call; integers must be given as ctypes values wherever they may need more than an int."""
    result: int = _syscall(c_long(number), *arguments)
    if result < 0:
        raise _fail(what)
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces that the CLONE_NEW* `flags` name for new ones."""
    if _libc.unshare(c_int(flags)) < 0:
        raise _fail("unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace that `fd` refers to, which must be of `kind` (a CLONE_NEW* flag)."""
    if _libc.setns(c_int(fd), c_int(kind)) < 0:
        raise _fail("setns")


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    if _mount(os.fsencode(source), os.fsencode(target), fstype.encode(), flags, os.fsencode(data)) < 0:
        raise _fail(f"mount {fstype or source}")


def unmount(target: str, flags: int) -> None:
    """umount2(2)."""
    if _umount2(os.fsencode(target), flags) < 0:
        raise _fail("umount")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _call("pivot_root", _PIVOT_ROOT, c_char_p(os.fsencode(new_root)), c_char_p(os.fsencode(put_old)))


def open_tree(fd: int, path: str = "") -> int:
    """A detached copy of the mount at `path` below `fd` (of `fd` itself without a path), without those inside it."""
    flags = _OPEN_TREE_CLONE | _CLOEXEC | _AT_EMPTY_PATH
    return _call("open_tree", _OPEN_TREE, c_int(fd), c_char_p(os.fsencode(path)), c_uint(flags))


def open_tree_at(path: str) -> int:
    """A detached copy of the mount at `path`, an absolute path whose symbolic links are followed."""
    return open_tree(_AT_FDCWD, path)


def open_whole_tree_at(path: str) -> int:
    """The same with all mounts inside it, without which a user namespace gets no copy of the machine's mounts."""
    flags = _OPEN_TREE_CLONE | _CLOEXEC | _AT_RECURSIVE
    return _call("open_tree", _OPEN_TREE, c_int(_AT_FDCWD), c_char_p(os.fsencode(path)), c_uint(flags))


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach the mount `mount_fd`, detached or moved from where it is, upon what `target_fd` refers to."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _call("move_mount", _MOVE_MOUNT, c_int(mount_fd), c_char_p(b""), c_int(target_fd), c_char_p(b""), c_uint(flags))


def move_mount_to(mount_fd: int, path: str) -> None:
    """Attach the detached mount `mount_fd` at an absolute path, on top of what is mounted there."""
    encoded = c_char_p(os.fsencode(path))
    flags = c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
    _call("move_mount", _MOVE_MOUNT, c_int(mount_fd), c_char_p(b""), c_int(_AT_FDCWD), encoded, flags)


class _MountAttr(ctypes.Structure):
    _fields_ = (("set", c_uint64), ("clear", c_uint64), ("propagation", c_uint64), ("userns_fd", c_uint64))


def mount_setattr(mount_fd: int, attributes: int, *, whole_tree: bool = False) -> None:
    """Add MOUNT_ATTR_* attributes to a mount, or to all mounts of a tree."""
    attr = _MountAttr(attributes, 0, 0, 0)
    flags = c_uint(_AT_EMPTY_PATH | (_AT_RECURSIVE if whole_tree else 0))
    size = c_size_t(ctypes.sizeof(attr))
    _call("mount_setattr", _MOUNT_SETATTR, c_int(mount_fd), c_char_p(b""), flags, ctypes.byref(attr), size)


def new_filesystem(
    fstype: str, options: list[tuple[str, str | None]], attributes: int = 0, source: str | None = None
) -> int:
    """A detached mount of a new file system; an option with the value None is a flag.

    `source` is what lists of mounts call it, as container runtimes do by default: like its type.
    """
    context = _call("fsopen", _FSOPEN, c_char_p(fstype.encode()), c_uint(1))
    try:
        for key, value in [("source", source or fstype), *options]:
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            text = c_void_p() if value is None else c_char_p(os.fsencode(value))
            name = c_char_p(key.encode())
            _call(f"{fstype} option {key}", _FSCONFIG, c_int(context), c_uint(command), name, text, c_int(0))
        null = c_void_p()
        _call(f"create {fstype}", _FSCONFIG, c_int(context), c_uint(_FSCONFIG_CMD_CREATE), null, null, c_int(0))
        return _call(f"fsmount {fstype}", _FSMOUNT, c_int(context), c_uint(1), c_uint(attributes))
    finally:
        os.close(context)


def prctl(option: int, argument: int, argument2: int = 0) -> None:
    """prctl(2)."""
    if _prctl(option, argument, argument2, 0, 0) < 0:
        raise _fail(f"prctl {option}")


def set_hostname(name: str) -> None:
    """sethostname(2)."""
    encoded = os.fsencode(name)
    if _libc.sethostname(c_char_p(encoded), c_size_t(len(encoded))) < 0:
        raise _fail("sethostname")


def join_session_keyring() -> None:
    """Leave the session keyring for a new, empty one."""
    _call("keyctl", _KEYCTL, c_int(_KEYCTL_JOIN_SESSION_KEYRING), c_void_p())


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) with masks of capability numbers."""
    header = (c_uint * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    data = (c_uint * 6)(
        effective & low, permitted & low, inheritable & low, effective >> high, permitted >> high, inheritable >> high
    )
    if _libc.capset(header, data) < 0:
        raise _fail("capset")


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", c_char_p))


class SeccompProgram:
    """A seccomp filter, ready to be installed: `program` is an array of struct sock_filter."""

    def __init__(self, program: bytes) -> None:
        self._program = program
        self._header = _SockFprog(len(program) // 8, program)

    def install(self) -> None:
        """Put the calling process and its children under the filter. Needs CAP_SYS_ADMIN or no_new_privs."""
        flags = c_uint(_SECCOMP_FILTER_FLAG_SPEC_ALLOW)
        _call("seccomp", _SECCOMP, c_uint(_SECCOMP_SET_MODE_FILTER), flags, ctypes.byref(self._header))


_SIGKILL, _SIGSTOP, _LAST_SIGNAL, _SIGSET_SIZE = 9, 19, 64, 8
_DEFAULT_ACTION = b"\0" * 32


def default_signals() -> None:
    """Give every signal its default disposition; exec does that for handlers but not for what is ignored.

    Not by way of the C library, which keeps two signals for itself and leaves them ignored.
    """
    for number in range(1, _LAST_SIGNAL + 1):
        if number not in (_SIGKILL, _SIGSTOP):
            action = c_char_p(_DEFAULT_ACTION)
            _call("rt_sigaction", _RT_SIGACTION, c_int(number), action, c_void_p(), c_size_t(_SIGSET_SIZE))
