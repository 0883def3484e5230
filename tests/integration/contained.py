"""Runs the command line as in a container without privileges: Docker's capabilities and system call filter, or less.

`contained.py [--capabilities HEX | --unfiltered] ARGUMENTS`: as root, with these capabilities (the default: Docker's).
`--unfiltered` leaves the filter out, as Kubernetes does by default, and covers a part of /proc, as all runtimes do.
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
    program: kernel.SeccompProgram | None = kernel.SeccompProgram(seccomp.default_filter(os.uname().machine))
    if arguments[0] == "--unfiltered":
        del arguments[0]
        program = None
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
        kernel.mount("none", "/proc/sysvipc", "tmpfs", 0)
    process.drop_from_bounding(process.Privileges(program).bounding, capabilities)
    process.become(0, 0, [0], capabilities, program)
    os.execv(sys.executable, [sys.executable, "-m", "stagewright", *arguments])


if __name__ == "__main__":
    main()
