"""Compiles the seccomp profile to a classic BPF program, and writes it as the OCI runtime specification wants it.

The program loads the architecture, then finds the range of call numbers that the call is in by binary search, so that
a call costs some ten instructions. Every path ends in a return, so pieces of program can be put one after another.
"""

from __future__ import annotations

import struct
from typing import Any

from stagewright.errors import SandboxError
from stagewright.sandbox import seccomp_profile, syscalls
from stagewright.sandbox.seccomp_profile import Condition

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_EPERM, _ENOSYS = 1, 38

_LOAD = 0x20
_AND = 0x54
_JUMP = 0x05
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_AT_LEAST = 0x35
_RETURN = 0x06
_MAX_CONDITIONAL = 255

# Offsets in struct seccomp_data.
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

_AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
_SISTERS = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64", "arm")}
_OCI_ARCH = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
_OCI_OPS = {"lt": "SCMP_CMP_LT", "eq": "SCMP_CMP_EQ", "masked_eq": "SCMP_CMP_MASKED_EQ"}

INSTRUCTION_SIZE = 8
"""Bytes of a struct sock_filter."""

Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, operand."""
Block = list[Instruction]


def default_filter(machine: str) -> bytes:
    """The profile as an array of struct sock_filter, for what `uname -m` says. Raises SandboxError."""
    blocks = [(_AUDIT_ARCH[sister], _search(_ranges(sister))) for sister in _sisters(machine)]
    program: Block = [(_LOAD, 0, 0, _ARCH_AT)]
    for arch, block in blocks:
        program += _branch(_JUMP_IF_EQUAL, arch, [(_LOAD, 0, 0, _NUMBER_AT), *block], [])
    program += _return(_KILL_PROCESS)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def oci_profile(machine: str) -> dict[str, Any]:
    """The profile as `linux.seccomp` of an OCI runtime's config.json. Raises SandboxError."""
    names = sorted({name for sister in _sisters(machine) for name in seccomp_profile.allowed(sister)})
    plain = [name for name in names if name not in seccomp_profile.CONDITIONS]
    rules: list[dict[str, Any]] = [{"names": plain, "action": "SCMP_ACT_ALLOW"}]
    for name, conditions in seccomp_profile.CONDITIONS.items():
        rules += [{"names": [name], "action": "SCMP_ACT_ALLOW", "args": [_oci_argument(test)]} for test in conditions]
    rules.append({"names": list(seccomp_profile.MISSING), "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": _OCI_ARCH[machine],
        "syscalls": rules,
    }


def _oci_argument(test: Condition) -> dict[str, Any]:
    if test.op == "masked_eq":
        return {"index": test.argument, "value": test.mask, "valueTwo": test.value, "op": _OCI_OPS[test.op]}
    return {"index": test.argument, "value": test.value, "op": _OCI_OPS[test.op]}


def _sisters(machine: str) -> tuple[str, str]:
    if machine not in _SISTERS:
        raise SandboxError(f"steps cannot run on {machine}: there is no seccomp profile for it")
    return _SISTERS[machine]


def _ranges(machine: str) -> list[tuple[int, Block]]:
    """Call numbers in order, each with the block that holds from there up to the next."""
    actions: dict[int, Block] = {}
    for name, number in seccomp_profile.allowed(machine).items():
        conditions = seccomp_profile.CONDITIONS.get(name)
        actions[number] = _return(_ALLOW) if conditions is None else _conditional(conditions)
    known = syscalls.numbers(machine)
    for name in seccomp_profile.MISSING:
        actions[known[name]] = _return(_ERRNO | _ENOSYS)
    ranges: list[tuple[int, Block]] = []

    def begin(number: int, block: Block) -> None:
        if not ranges or ranges[-1][1] != block:
            ranges.append((number, block))

    # Calls that are newer than the profile do not exist, so that C libraries fall back to the older ones; that
    # includes x32's, whose numbers have bit 30 set. ARM keeps its private calls far above and below that.
    after_known = _return(_ERRNO | _ENOSYS)
    last = max(syscalls.LAST_KNOWN, *(number for number in actions if number < 0x10000))
    for number in range(last + 1):
        begin(number, actions.get(number, _return(_ERRNO | _EPERM)))
    begin(last + 1, after_known)
    for number in sorted(number for number in actions if number > last):
        begin(number, actions[number])
        if number + 1 not in actions:
            begin(number + 1, after_known)
    return ranges


def _return(action: int) -> Block:
    return [(_RETURN, 0, 0, action)]


def _branch(code: int, operand: int, taken: Block, otherwise: Block) -> Block:
    """`taken` if the test holds, else `otherwise`, or whatever follows if that is empty."""
    if len(taken) <= _MAX_CONDITIONAL:
        return [(code, 0, len(taken), operand), *taken, *otherwise]
    return [(code, 1, 0, operand), (_JUMP, 0, 0, len(taken)), *taken, *otherwise]


def _search(ranges: list[tuple[int, Block]]) -> Block:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    return _branch(_JUMP_IF_AT_LEAST, ranges[middle][0], _search(ranges[middle:]), _search(ranges[:middle]))


def _conditional(conditions: tuple[Condition, ...]) -> Block:
    """Allow if a condition holds. The higher 32 bits of these arguments never count, so they are not looked at."""
    block: Block = []
    for test in conditions:
        block.append((_LOAD, 0, 0, _ARGUMENTS_AT + 8 * test.argument))
        if test.op == "masked_eq":
            block.append((_AND, 0, 0, test.mask))
        if test.op == "lt":
            block += [(_JUMP_IF_AT_LEAST, 1, 0, test.value), *_return(_ALLOW)]
        else:
            block += [(_JUMP_IF_EQUAL, 0, 1, test.value), *_return(_ALLOW)]
    return [*block, *_return(_ERRNO | _EPERM)]
