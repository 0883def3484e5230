"""The stage of a step: a file system in memory where mounts wait until they are put in their places.

It is mounted over "/", where no path but only our descriptor leads to it, and goes with the old root.
"""

from __future__ import annotations

import os
import stat

from stagewright.sandbox import kernel

LOCKED = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
"""What holds for mounts that no program is run from."""

_EMPTY_DIRECTORY, _EMPTY_FILE = "directory", "file"


class Stage:
    """A stage in the mount namespace of the calling process, over `at`; `fd` is its root."""

    def __init__(self, at: str = "/") -> None:
        self._names = 0
        self.fd = _memory_filesystem()
        kernel.move_mount_to(self.fd, at)
        os.mkdir(_EMPTY_DIRECTORY, 0o755, dir_fd=self.fd)
        os.close(os.open(_EMPTY_FILE, os.O_CREAT | os.O_WRONLY, 0o444, dir_fd=self.fd))
        self.empty_directory = self.path(_EMPTY_DIRECTORY)
        """The path of a directory that stays empty."""

    def name(self) -> str:
        """A name that is free."""
        self._names += 1
        return str(self._names)

    def path(self, name: str) -> str:
        """The path of a name, for this process."""
        return f"/proc/self/fd/{self.fd}/{name}"

    def put(self, mount: int) -> str:
        """Attach a mount where the step does not see it, and give its name there.

        Only what is attached somewhere can be cloned from or mounted upon.
        """
        name = self.name()
        if stat.S_ISDIR(os.fstat(mount).st_mode):
            os.mkdir(name, 0o700, dir_fd=self.fd)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self.fd))
        attach_in(self.fd, os.dup(mount), name)
        return name

    def file(self, data: bytes, mode: int, uid: int, gid: int) -> int:
        """A detached read-only mount of a new file in memory."""
        name = self.name()
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self.fd)
        with open(fd, "wb") as file:
            file.write(data)
        os.chown(name, uid, gid, dir_fd=self.fd)
        os.chmod(name, mode, dir_fd=self.fd)
        mount = kernel.open_tree(self.fd, name)
        kernel.mount_setattr(mount, LOCKED | kernel.MOUNT_ATTR_RDONLY)
        return mount

    def cover(self, target: int) -> None:
        """Mount an empty read-only file or directory, as it is one, upon what the descriptor leads to."""
        is_directory = stat.S_ISDIR(os.fstat(target).st_mode)
        cover = kernel.open_tree(self.fd, _EMPTY_DIRECTORY if is_directory else _EMPTY_FILE)
        kernel.mount_setattr(cover, kernel.MOUNT_ATTR_RDONLY | LOCKED)
        kernel.move_mount(cover, target)
        os.close(cover)


def attach_in(outer: int, mount: int, name: str) -> None:
    """Mount upon a name in the mount `outer`, and close the descriptor of what is mounted."""
    target = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=outer)
    kernel.move_mount(mount, target)
    os.close(target)
    os.close(mount)


def _memory_filesystem() -> int:
    """A file system in memory for secrets, which is not swapped out where the kernel can promise that (6.4)."""
    options: list[tuple[str, str | None]] = [("mode", "700")]
    try:
        return kernel.new_filesystem("tmpfs", [*options, ("noswap", None)], LOCKED)
    except OSError:
        return kernel.new_filesystem("tmpfs", options, LOCKED)
