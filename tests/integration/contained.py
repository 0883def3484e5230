"""Runs the command line as in a container without privileges: Docker's capabilities and system call filter, or less.

`contained.py [--capabilities HEX] ARGUMENTS`: as root, with these capabilities (the default: Docker's).
"""

from __future__ import annotations

import os
import sys

from stagewright.sandbox import kernel, process, seccomp


def main() -> None:
    arguments = sys.argv[1:]
    capabilities = process.DEFAULT_CAPABILITIES
    if arguments[0] == "--capabilities":
        capabilities = int(arguments[1], 16)
        del arguments[:2]
    privileges = process.Privileges(kernel.SeccompProgram(seccomp.default_filter(os.uname().machine)))
    process.become(0, 0, [0], capabilities, privileges.bounding, privileges.program)
    os.execv(sys.executable, [sys.executable, "-m", "stagewright", *arguments])


if __name__ == "__main__":
    main()
