"""The rules for devices, run as the kernel would run them."""

from __future__ import annotations

import struct

import pytest

from stagewright.sandbox import devices_bpf

MKNOD, READ, WRITE = 1, 2, 4
BLOCK, CHARACTER = 1, 2


def is_allowed(kind: int, access: int, major: int, minor: int) -> bool:
    """What the program answers; it may only jump forward, so that it always ends."""
    code = devices_bpf.assemble()
    context = struct.pack("=III", access << 16 | kind, major, minor)
    registers = [0] * 11
    at = 0
    while True:
        operation, which, offset, value = struct.unpack_from("=BBhi", code, 8 * at)
        target, source = which & 15, which >> 4
        at += 1
        match operation:
            case 0x61:
                (registers[target],) = struct.unpack_from("=I", context, offset)
            case 0xB7:
                registers[target] = value
            case 0xBF:
                registers[target] = registers[source]
            case 0x57:
                registers[target] &= value
            case 0x77:
                registers[target] >>= value
            case 0x55:
                assert offset > 0
                at += offset if registers[target] != value else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"instruction {operation:#x} is not known here")


@pytest.mark.parametrize("minor", [3, 5, 7, 8, 9])
@pytest.mark.parametrize("access", [READ, WRITE, READ | WRITE, MKNOD | READ | WRITE])
def test_memory_devices_of_no_harm_can_be_opened(minor: int, access: int) -> None:
    assert is_allowed(CHARACTER, access, 1, minor)


@pytest.mark.parametrize(("major", "minor"), [(5, 0), (5, 2), (136, 0), (136, 77)])
def test_terminals_can_be_opened(major: int, minor: int) -> None:
    assert is_allowed(CHARACTER, READ | WRITE, major, minor)


@pytest.mark.parametrize(
    ("kind", "major", "minor"),
    [
        (CHARACTER, 1, 1), (CHARACTER, 1, 2), (CHARACTER, 1, 4), (CHARACTER, 1, 11), (CHARACTER, 4, 0),
        (CHARACTER, 5, 1), (CHARACTER, 10, 200), (CHARACTER, 10, 229), (CHARACTER, 3, 1), (CHARACTER, 137, 0),
        (BLOCK, 1, 3), (BLOCK, 8, 0), (BLOCK, 7, 0), (BLOCK, 136, 0), (BLOCK, 5, 2),
    ],
)  # fmt: skip
def test_all_else_can_be_made_but_not_opened(kind: int, major: int, minor: int) -> None:
    assert is_allowed(kind, MKNOD, major, minor)
    for access in (READ, WRITE, READ | WRITE, MKNOD | READ):
        assert not is_allowed(kind, access, major, minor)
