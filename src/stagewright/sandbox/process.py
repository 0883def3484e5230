"""The last steps of a forked child before the step's program runs: limits, identity, capabilities, seccomp, exec."""

from __future__ import annotations

import errno
import os
import resource
import stat

from stagewright import privilege
from stagewright.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
    SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
    SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITY_NAMES = tuple(f"CAP_{name}" for name in _CAPABILITIES.split())
"""All capabilities by number."""

_DOCKER_DEFAULT = """
    CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE
    SETFCAP
"""


def capabilities(names: str) -> int:
    """Capabilities as bits, from their names less the `CAP_` in one text."""
    return sum(1 << CAPABILITY_NAMES.index(f"CAP_{name}") for name in names.split())


DEFAULT_CAPABILITIES = capabilities(_DOCKER_DEFAULT)
"""What a step has by default, as bits."""

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

NOT_FOUND = 127
NOT_EXECUTABLE = 126


class CannotRunError(Exception):
    """The program cannot be run, the step's own failure: its exit code, and a line for standard error or ""."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def set_limits(limits: list[tuple[int, int, int]]) -> None:
    """Set resource limits given as (resource, soft, hard). Raises OSError where one is refused."""
    for number, soft, hard in limits:
        try:
            resource.setrlimit(number, (soft, hard))
        except ValueError as error:
            raise PermissionError(errno.EPERM, str(error)) from None


class Privileges:
    """What the launcher may do, as capability bits, and the filter that its children get."""

    def __init__(self, program: kernel.SeccompProgram | None) -> None:
        self.program = program
        values = {}
        with open("/proc/self/status", encoding="ascii") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key in ("CapEff", "CapBnd"):
                    values[key] = int(value, 16)
        self.capabilities = values["CapEff"]
        self.bounding = values["CapBnd"]


def become(uid: int, gid: int, groups: list[int], keep: int, program: kernel.SeccompProgram | None) -> None:
    """Take on the identity and keep only the capabilities `keep`; `drop_from_bounding` is for before.

    The filter comes first, since it needs CAP_SYS_ADMIN: no_new_privs stays off so that setuid programs work. A user
    other than root starts without capabilities, as the kernel has it at the exec that follows, unless there is no
    filter: then the capabilities are for any user.
    """
    if program is not None:
        program.install()
    if not privilege.has_one_id():
        # A namespace that was made without help has given up this call.
        os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)
    kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    if program is not None:
        held = keep if uid == 0 else 0
        kernel.set_capabilities(held, held, 0)
        return
    kernel.set_capabilities(keep, keep, keep)
    for number in range(keep.bit_length()):
        if keep >> number & 1:
            kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, number)


def drop_from_bounding(bounding: int, keep: int) -> None:
    """Drop all capabilities but those of `keep` from the bounding set, which is `bounding` now."""
    number = 0
    while bounding >> number:
        if bounding >> number & 1 and not keep >> number & 1:
            kernel.prctl(kernel.PR_CAPBSET_DROP, number)
        number += 1


def enter_directory(path: str) -> None:
    """Change to the working directory, which must be inside the root. Raises OSError."""
    os.chdir(path)
    # Never below a directory of the host that a descriptor or a magic link still reaches.
    if not os.getcwd().startswith("/"):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def execute(arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Replace this process by the program. Raises CannotRunError."""
    name = arguments[0]
    path = name if "/" in name else _look_up(name, environment.get("PATH", _DEFAULT_PATH))
    try:
        _check_executable(path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EISDIR):
            raise CannotRunError(NOT_EXECUTABLE, f'exec: "{name}": permission denied') from None
        raise CannotRunError(NOT_FOUND, f'exec: "{name}": stat {path}: no such file or directory') from None
    try:
        os.execve(path, arguments, environment)  # noqa: S606 -- this is what a step is
    except OSError as error:
        code = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        raise CannotRunError(code, f"exec {path}: {os.strerror(error.errno or 0).lower()}") from None


def _look_up(name: str, search_path: str) -> str:
    refused = False
    for directory in search_path.split(":"):
        path = f"{directory or '.'}/{name}"
        try:
            _check_executable(path)
        except PermissionError:
            refused = True
        except OSError:
            continue
        else:
            return path
    if refused:
        raise CannotRunError(NOT_EXECUTABLE, f'exec: "{name}": permission denied')
    raise CannotRunError(NOT_FOUND, f'exec: "{name}": executable file not found in $PATH')


def _check_executable(path: str) -> None:
    if stat.S_ISDIR(os.stat(path).st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not os.access(path, os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
