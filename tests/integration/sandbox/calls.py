"""System calls that a step must not be able to make, and the Python code with which it tries."""

from __future__ import annotations

import platform

SYSCALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *args)
    return ctypes.get_errno() if result == -1 else 0
"""
NUMBERS = {
    "x86_64": {
        "mount": 165, "umount2": 166, "keyctl": 250, "add_key": 248, "reboot": 169, "unshare": 272, "setns": 308,
        "bpf": 321, "open_by_handle_at": 304, "init_module": 175, "sethostname": 170, "syslog": 103, "clone3": 435,
        "personality": 135, "acct": 163, "swapon": 167, "settimeofday": 164, "kexec_load": 246, "userfaultfd": 323,
        "io_uring_setup": 425, "perf_event_open": 298, "pivot_root": 155, "fsopen": 430, "open_tree": 428,
        "quotactl": 179, "iopl": 172, "clone": 56, "mount_setattr": 442, "move_mount": 429,
        "request_key": 249, "fsmount": 432, "fsconfig": 431, "fspick": 433, "delete_module": 176,
    },
    "aarch64": {
        "mount": 40, "umount2": 39, "keyctl": 219, "add_key": 217, "reboot": 142, "unshare": 97, "setns": 268,
        "bpf": 280, "open_by_handle_at": 265, "init_module": 105, "sethostname": 161, "syslog": 116, "clone3": 435,
        "personality": 92, "acct": 89, "swapon": 224, "settimeofday": 170, "kexec_load": 104, "userfaultfd": 282,
        "io_uring_setup": 425, "perf_event_open": 241, "pivot_root": 41, "fsopen": 430, "open_tree": 428,
        "quotactl": 60, "clone": 220, "mount_setattr": 442, "move_mount": 429,
        "request_key": 218, "fsmount": 432, "fsconfig": 431, "fspick": 433, "delete_module": 106,
    },
}[platform.machine()]  # fmt: skip
