"""Where escapes are attempted: a step's surroundings in one of the modes that claim isolation, and a host to harm."""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from box import Box, Ran
from calls import SYSCALL

from stagewright.privilege import in_user_namespace
from stagewright.records import dataclass
from stagewright.sandbox.spec import BindMount

# Behind the door, the first two are in a user namespace already.
MODES = ("native", "oci", "native in a user namespace", "oci in a user namespace")[: 2 if in_user_namespace() else 4]

_HOST_SETTINGS = ("core_pattern", "modprobe", "hostname", "hotplug", "poweroff_cmd", "sysrq", "randomize_va_space")

PRELUDE = (
    SYSCALL
    + """
import errno, stat, sys, _socket
def told(name, failed, result=""):
    print(name, errno.errorcode[failed] if failed else f"DONE {result}", sep="\\t")
def attempt(name, action, *arguments):
    try:
        result = action(*arguments)
    except OSError as error:
        told(name, error.errno)
    else:
        told(name, 0, result)
def attempt_call(name, number, *arguments):
    told(name, call(number, *arguments))
def write(path, text, flags=0):
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
"""
)


@dataclass
class Arena(Box):
    """A box whose surroundings belong to the user who builds, so that only isolation protects them."""

    mode: str = "native"
    interpreter: tuple[str, str] = ("", "")
    owner: int = 0

    def make_host(self) -> None:
        """Make something to harm."""
        self.host.mkdir()
        (self.host / "empty").touch()
        (self.host / "secret").write_text("secret of the host")
        (self.host / "folder").mkdir()
        (self.host / "folder/empty").touch()

    @property
    def host(self) -> Path:
        """A folder of the host that no step is given."""
        return self.directory / "host"

    @property
    def is_mapped(self) -> bool:
        return self.owner != 0

    def look(self) -> dict[str, object]:
        """All that an escape would change: the host's folder, its devices and its kernel's settings."""
        seen: dict[str, object] = {}
        for path in (self.host, *self.host.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            seen[str(path)] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
        for device in ("null", "zero", "full", "random", "urandom", "tty"):
            status = os.stat(f"/dev/{device}")
            seen[device] = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns == 10**9)
        for name in _HOST_SETTINGS:
            setting = Path("/proc/sys/kernel", name)
            seen[name] = setting.read_text() if setting.exists() else None
        return seen

    def folder(self, name: str) -> Path:
        """A new folder, for a layer of the image or a cache."""
        path = self.directory / name
        path.mkdir()
        return path

    def give(self) -> None:
        """Let the mode's user own what the test has made."""
        give(self.directory, self.owner)

    def run(self, *args: str, **fields: Any) -> Ran:
        fields.setdefault("root", self.fresh_root())
        self.give()
        return Box.run(self, *args, **fields)

    def cache(self, name: str = "cache", target: str = "") -> BindMount:
        """A mount of a new folder that other steps may have as well, at /<name> unless told otherwise."""
        return BindMount(target or f"/{name}", str(self.folder(name)))

    def python(self, code: str, **fields: Any) -> Ran:
        """Run Python code in the step, after the prelude."""
        path, prefix = self.interpreter
        wanted = dict.fromkeys(["/lib", "/lib64", "/usr/lib", prefix])
        mounts = [BindMount(name, os.path.realpath(name), readonly=True) for name in wanted if os.path.exists(name)]
        fields["mounts"] = (*mounts, *fields.get("mounts", ()))
        return self.run(path, "-I", "-S", "-c", PRELUDE + code, **fields)

    def attempts(self, code: str, **fields: Any) -> dict[str, str]:
        """What became of each attempt of the code: the name of the errno, or what was DONE."""
        ran = self.python(code, **fields)
        assert ran.code == 0, ran.err
        return dict(line.split("\t", 1) for line in ran.out.splitlines())


def give(directory: Path, owner: int) -> None:
    """Give what belongs to root in a directory, and itself, to the user of that number."""
    if not owner:
        return
    for folder, folders, files in os.walk(directory):
        for path in (folder, *(os.path.join(folder, name) for name in itertools.chain(folders, files))):
            # Steps that still run may have moved it.
            with suppress(FileNotFoundError):
                if os.lstat(path).st_uid == 0:
                    os.lchown(path, owner, owner)


def refusals(attempts: dict[str, str], *errnos: str) -> None:
    """Assert that there were attempts, and that each failed with one of these errnos."""
    assert attempts
    others = {name: result for name, result in attempts.items() if result not in errnos}
    assert others == {}, others
