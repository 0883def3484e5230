"""Which devices a step may open, as a BPF program for its control group of version 2: Docker's default rules.

With it the step's file systems need no `nodev`, so that a step can use the device nodes that it makes, as whoever sets
up a distribution does: making any node is allowed, opening one only if it is of no harm.
"""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import c_int, c_long, c_uint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stagewright.sandbox.groups import BuildGroup

_OPEN = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None))
"""Character devices that may be opened: null, zero, full, random, urandom, tty, ptmx, and all pseudo-terminals."""

_BPF = {"aarch64": 280}.get(os.uname().machine, 321)
_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_DEVICE = 15, 6
_ATTRIBUTES_SIZE = 128
_MKNOD, _CHARACTER = 1, 2

# Classes and operations of instructions, as in Linux's instruction set document.
_LOAD_WORD, _MOVE, _MOVE_REGISTER, _AND, _SHIFT_RIGHT = 0x61, 0xB7, 0xBF, 0x57, 0x77
_JUMP_UNLESS_EQUAL, _EXIT = 0x55, 0x95
_RESULT, _CONTEXT, _KIND, _ACCESS, _MAJOR, _MINOR = range(6)

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = c_long


def load_for(groups: list[BuildGroup]) -> int | None:
    """A descriptor of the program; None where no group can have it, as in user namespaces, which lack the privilege."""
    if not any(group.is_v2 for group in groups):
        return None
    try:
        return _load()
    except OSError:
        return None


def _load() -> int:
    code = assemble()
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"Apache-2.0")
    addresses = ctypes.addressof(instructions), ctypes.addressof(licence)
    return _call(_PROG_LOAD, struct.pack("=IIQQ", _TYPE_CGROUP_DEVICE, len(code) // 8, *addresses))


def attach(program: int, group: str) -> bool:
    """Put all processes of the control group at a path, and of those inside it, under the program, if that is allowed.

    A group above may have a program that suffers no other.
    """
    directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _call(_PROG_ATTACH, struct.pack("=IIII", directory, program, _ATTACH_DEVICE, 0))
    except OSError:
        return False
    finally:
        os.close(directory)
    return True


def assemble() -> bytes:
    """The program: its context is struct bpf_cgroup_dev_ctx, its result 1 to allow and 0 to refuse."""
    code = [
        _instruction(_LOAD_WORD, _KIND, _CONTEXT, offset=0),
        _instruction(_MOVE_REGISTER, _ACCESS, _KIND),
        _instruction(_SHIFT_RIGHT, _ACCESS, value=16),
        _instruction(_AND, _KIND, value=0xFFFF),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, offset=4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, offset=8),
        *_allow_if((_ACCESS, _MKNOD)),
    ]
    for major, minor in _OPEN:
        tests = [(_KIND, _CHARACTER), (_MAJOR, major)]
        code += _allow_if(*tests, *([] if minor is None else [(_MINOR, minor)]))
    return b"".join([*code, _instruction(_MOVE, _RESULT, value=0), _instruction(_EXIT)])


def _allow_if(*tests: tuple[int, int]) -> list[bytes]:
    """Allow where all registers have these values, else go on behind."""
    jumps = [
        _instruction(_JUMP_UNLESS_EQUAL, register, offset=len(tests) - number + 1, value=value)
        for number, (register, value) in enumerate(tests)
    ]
    return [*jumps, _instruction(_MOVE, _RESULT, value=1), _instruction(_EXIT)]


def _instruction(code: int, target: int = 0, source: int = 0, *, offset: int = 0, value: int = 0) -> bytes:
    """A struct bpf_insn."""
    return struct.pack("=BBhi", code, source << 4 | target, offset, value)


def _call(command: int, attributes: bytes) -> int:
    data = ctypes.create_string_buffer(attributes, _ATTRIBUTES_SIZE)
    result: int = _syscall(c_long(_BPF), c_int(command), data, c_uint(_ATTRIBUTES_SIZE))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf: {os.strerror(number)}")
    return result
