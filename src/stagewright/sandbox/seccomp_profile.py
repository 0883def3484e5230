"""Docker's default seccomp profile for the default capabilities, as rules over system call names.

What no rule allows fails with EPERM. The rules are those of moby/profiles: all calls of `syscalls` are allowed, those
below only with certain arguments, and clone3, whose arguments a filter cannot see, does not exist, so that C libraries
fall back to clone.
"""

from __future__ import annotations

from typing import NamedTuple

from stagewright.sandbox import syscalls

_NAMESPACE_FLAGS = 0x7E020000
_AF_BELOW = 12
_AF_OTHERS = (13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45)
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

MISSING = ("clone3",)
"""Calls that fail with ENOSYS."""


class Condition(NamedTuple):
    """A test of the call's argument number `argument` (from 0).

    `op` is "lt", "eq", or "masked_eq", where the bits of `mask` must equal `value`.
    """

    argument: int
    op: str
    value: int
    mask: int = 0


CONDITIONS: dict[str, tuple[Condition, ...]] = {
    "clone": (Condition(0, "masked_eq", 0, _NAMESPACE_FLAGS),),
    "personality": tuple(Condition(0, "eq", persona) for persona in _PERSONALITIES),
    "socket": (Condition(0, "lt", _AF_BELOW), *(Condition(0, "eq", family) for family in _AF_OTHERS)),
}
"""Calls that are allowed if one of their conditions holds."""

_ONLY_ON = {"arch_prctl": ("x86_64",), "modify_ldt": ("x86_64", "i386")}


def allowed(machine: str) -> dict[str, int]:
    """The numbers of the calls that are allowed on `machine` without or with conditions."""
    return {
        name: number
        for name, number in syscalls.numbers(machine).items()
        if name not in MISSING and machine in _ONLY_ON.get(name, (machine,))
    }
