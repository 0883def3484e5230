"""The compiled filter decides for every system call as the profile says."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from stagewright.errors import SandboxError
from stagewright.sandbox import seccomp, seccomp_profile, syscalls

ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
PROGRAMS = {
    sister: seccomp.default_filter(machine)
    for machine, sisters in (("x86_64", ("x86_64", "i386")), ("aarch64", ("aarch64", "arm")))
    for sister in sisters
}


def decide(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """What the kernel would: run the program on a struct seccomp_data."""
    arguments += (0,) * (6 - len(arguments))
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments)
    instructions = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x05:
            at += operand
        elif code == 0x15:
            at += if_true if accumulator == operand else if_false
        elif code == 0x35:
            at += if_true if accumulator >= operand else if_false
        else:
            assert code == 0x06
            return operand


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_every_number(machine: str) -> None:
    allowed = {number: name for name, number in seccomp_profile.allowed(machine).items()}
    missing = {syscalls.numbers(machine)[name] for name in seccomp_profile.MISSING}
    for number in range(600):
        if number in missing or number > syscalls.LAST_KNOWN:
            expected = {ENOSYS}
        elif number not in allowed:
            expected = {EPERM}
        elif allowed[number] in seccomp_profile.CONDITIONS:
            expected = {ALLOW, EPERM}
        else:
            expected = {ALLOW}
        assert decide(PROGRAMS[machine], ARCH[machine], number) in expected, (number, allowed.get(number))


def test_private_calls_of_arm() -> None:
    numbers = syscalls.numbers("arm")
    for name in ("breakpoint", "cacheflush", "set_tls"):
        assert decide(PROGRAMS["arm"], ARCH["arm"], numbers[name]) == ALLOW
    assert decide(PROGRAMS["arm"], ARCH["arm"], 0xF0003) == ENOSYS


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_foreign_architectures_are_killed(machine: str) -> None:
    for other in {"x86_64": ("aarch64", "arm"), "i386": ("aarch64",)}.get(machine, ("x86_64", "i386")):
        assert decide(PROGRAMS[machine], ARCH[other], 0) == KILL


def test_x32_does_not_exist() -> None:
    for number in (0, 1, 39, 165, 512, 520):
        assert decide(PROGRAMS["x86_64"], ARCH["x86_64"], 0x40000000 | number) == ENOSYS


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_arguments(machine: str) -> None:
    numbers = syscalls.numbers(machine)

    def call(name: str, *arguments: int) -> int:
        return decide(PROGRAMS[machine], ARCH[machine], numbers[name], *arguments)

    for family, expected in ((1, ALLOW), (2, ALLOW), (10, ALLOW), (16, ALLOW), (17, ALLOW), (12, EPERM), (38, EPERM),
                             (40, EPERM), (46, EPERM), (0xFFFFFFFF, EPERM)):  # fmt: skip
        assert call("socket", family) == expected, family
    for persona, expected in ((0, ALLOW), (8, ALLOW), (0x20008, ALLOW), (0xFFFFFFFF, ALLOW), (0x40000, EPERM)):
        assert call("personality", persona) == expected
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert call("clone", flag | 17) == EPERM
    assert call("clone", 0x3D0F00) == ALLOW
    assert call("clone3") == ENOSYS


def test_the_machines_own_numbers_are_right() -> None:
    """The table against what the C library does: some calls of known effect, by number."""
    import ctypes

    libc = ctypes.CDLL(None)
    numbers = syscalls.numbers(os.uname().machine)
    assert libc.syscall(numbers["getpid"]) == os.getpid()
    assert libc.syscall(numbers["getppid"]) == os.getppid()
    assert libc.syscall(numbers["getuid"]) == os.getuid()


def test_the_profile_for_oci_runtimes_is_the_same() -> None:
    profile = seccomp.oci_profile("x86_64")
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    names = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert names == set(seccomp_profile.allowed("x86_64")) | set(seccomp_profile.allowed("i386"))
    (clone,) = [rule for rule in profile["syscalls"] if rule["names"] == ["clone"]]
    argument = {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    assert clone["args"] == [argument]
    assert {"mount", "bpf", "keyctl", "unshare", "reboot"}.isdisjoint(names)


def test_an_unknown_machine() -> None:
    with pytest.raises(SandboxError, match="no seccomp profile"):
        seccomp.default_filter("s390x")
