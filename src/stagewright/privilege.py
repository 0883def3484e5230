"""Whether this process may do what building takes: mount, make namespaces, own files as any user.

Whoever is about to do such a thing calls `require`; who catches the error it raises knows a way through, see `door`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stagewright.errors import PrivilegeNeededError

_CAP_SYS_ADMIN = 1 << 21


# What a build takes that makes no namespace and no mount, by capability number.
_FOR_CHROOT = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "SETGID": 6, "SETUID": 7, "SYS_CHROOT": 18}
_forgone: list[str] = []


def _once(ask: Callable[[], bool]) -> Callable[[], bool]:
    """Answer what was found out at first; functools takes a fourth of the launcher's time to import."""
    known: list[bool] = []

    def answer() -> bool:
        if not known:
            known.append(ask())
        return known[0]

    answer.__doc__ = ask.__doc__
    return answer


def require() -> None:
    """Raise PrivilegeNeededError where this process is neither root nor root of a user namespace.

    After `forgo`, nothing is raised: the build does without.
    """
    if not is_privileged() and not _forgone:
        # The launcher of steps, which asks other things here, does without what errors import.
        from stagewright.errors import PrivilegeNeededError

        raise PrivilegeNeededError


def forgo(refused: PrivilegeNeededError) -> None:
    """Do without mounts and namespaces from now on, since they are `refused`.

    Raises PrivilegeNeededError where a process that has not even what a chroot takes cannot do without them.
    """
    held = capabilities()
    lacking = [f"CAP_{name}" for name, number in _FOR_CHROOT.items() if not held >> number & 1]
    if os.geteuid() != 0:
        lacking.insert(0, "user ID 0")
    if lacking:
        from stagewright.errors import PrivilegeNeededError

        hint = (
            "allow user namespaces, or run it as root with a container's default capabilities;"
            f" lacking: {', '.join(lacking)}"
        )
        raise PrivilegeNeededError(refused.message, hint=refused.hint if os.geteuid() else hint)
    _forgone.append(refused.message)


def forgone() -> str | None:
    """Why this process does without mounts and namespaces; None where it does not."""
    return _forgone[0] if _forgone else None


@_once
def is_privileged() -> bool:
    """Whether this process is root with the capability to mount, on the machine or in its user namespace."""
    return os.geteuid() == 0 and may_administer()


def may_administer() -> bool:
    """Whether this process has the capability to mount, on the machine or in its user namespace."""
    return bool(capabilities() & _CAP_SYS_ADMIN)


def capabilities() -> int:
    """The effective capabilities of this process as bits, by their numbers."""
    return int(_status("CapEff"), 16)


def may_gain_privileges() -> bool:
    """Whether set-user-ID programs work for this process, as they do not in many containers (no_new_privs)."""
    return _status("NoNewPrivs") == "0"


def _status(key: str) -> str:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return next(line.partition(":")[2].strip() for line in file if line.startswith(f"{key}:"))


@_once
def in_user_namespace() -> bool:
    """Whether this process lives in a user namespace other than the machine's first one."""
    with open("/proc/self/uid_map", encoding="utf-8") as file:
        return file.read().split() != ["0", "0", "4294967295"]


@_once
def has_one_id() -> bool:
    """Whether the user namespace of this process knows no other user than root, so that all files must be root's."""
    with open("/proc/self/uid_map", encoding="utf-8") as file:
        return [line.split()[2] for line in file] == ["1"]
