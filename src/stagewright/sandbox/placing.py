"""A step's mounts where nothing can be mounted: put into its root for as long as it runs, and taken out again.

What a step is given takes the place of what is there, which waits aside: folders that outlive the step by being moved
there and back, what it must not change as copies, the rest made anew. Nothing of it is left in the root afterwards,
however the step ended, and the folders around it have the times that they would have without.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any

from stagewright.errors import SandboxError
from stagewright.records import dataclass
from stagewright.sandbox import paths, stubs
from stagewright.sandbox.kernel_mounts import DESCRIPTOR_LINKS, DEVICES
from stagewright.snapshots import owners
from stagewright.snapshots.tree import copy_entry, copy_metadata, remove_tree, times_kept, walk

_RANDOM_BYTES = 1 << 16
# What programs ask of /proc that is the same for all processes.
_PROC_FILES = (
    *("cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"),
    *("sys/fs/file-max", "sys/kernel/osrelease", "sys/kernel/ostype", "sys/kernel/pid_max", "sys/kernel/version"),
    *("sys/net/core/somaxconn", "sys/vm/overcommit_memory"),
)
_RESERVED = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True)
class _Placed:
    """One thing in place: its name in the open folder `parent`; `handle` is a descriptor of it.

    `original` is where that waits which it hides, `home` where it goes when the step has ended (None: nowhere).
    """

    target: str
    parent: int
    name: str
    handle: int
    original: str
    home: str | None


class Placement:
    """The mounts of one step in the tree of files at `root`; `aside` is a folder beside it, which is made.

    `lend(folder, path)` is told before a folder that outlives the step is moved to a path, `returned(folder)` when it
    is back. `listen(listener, host_socket)` gets each socket that is to be relayed.
    """

    def __init__(
        self,
        root: str,
        aside: str,
        lend: Callable[[str, str], None],
        returned: Callable[[str], None],
        listen: Callable[[socket, str], None],
    ) -> None:
        self._root = root
        self._aside = aside
        self._lend = lend
        self._returned = returned
        self._listen = listen
        self._numbers = 0
        self._placed: list[_Placed] = []
        self._at: dict[str, str] = {}
        os.makedirs(aside, mode=0o700, exist_ok=True)
        self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stubs = stubs.StubRecorder(self._root_fd, root)
        self._report: tuple[tuple[str, ...], dict[str, stubs.DirectoryState]] = ((), {})

    @contextmanager
    def held(self, mounts: list[tuple[Any, ...]], kept: set[str]) -> Iterator[None]:
        """Have the mounts of a request in place within the block; the sources in `kept` outlive the step."""
        try:
            # As elsewhere, those of these folders that the root lacks stay in it.
            for target in _RESERVED:
                os.close(paths.resolve(self._root_fd, target, paths.DIRECTORY)[0])
            self._place(self._make_devices(), "/dev")
            self._place(self._make_proc(), "/proc")
            for kind, target, _, *details in mounts:
                try:
                    self._mount(kind, target, details, kept)
                except OSError as error:
                    raise SandboxError(f"cannot put {target} in place: {error.strerror}") from error
            self._report = self._stubs.report()
            yield
        finally:
            self._take_out()

    def _mount(self, kind: str, target: str, details: list[Any], kept: set[str]) -> None:
        self._check(target)
        if kind == "file":
            data, mode, uid, gid = details
            self._place(self._make_file(data, mode, uid, gid), target)
        elif kind == "tmpfs":
            self._place(self._make_folder(details[1]), target)
        elif kind == "ssh":
            host_socket, mode, uid, gid = details
            self._place(self._make_socket(host_socket, mode, uid, gid), target)
        else:
            self._bind(target, *details, is_kept=isinstance(details[0], str) and details[0] in kept)

    def _bind(self, target: str, source: Any, subpath: str, readonly: bool, *, is_kept: bool) -> None:
        if not isinstance(source, str):
            # A scratch root: a folder of its own, which nobody needs afterwards.
            source = source[1]
        if is_kept:
            if source in self._at:
                # Moved to its first place already.
                self._place(self._make_link(self._at[source]), target)
                return
            self._place(source, target, home=source)
            return
        copy = self._aside_name()
        base = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            inner, _ = paths.resolve(base, subpath)
            try:
                _copy(b"/proc/self/fd/%d" % inner, os.fsencode(copy))
            finally:
                os.close(inner)
        finally:
            os.close(base)
        self._place(copy, target)

    def _check(self, target: str) -> None:
        names, _ = paths.find(self._root_fd, target)
        path = "/" + "/".join(names)
        if not names or path in _RESERVED or path.startswith("/proc/"):
            raise SandboxError(f"nothing can be mounted at {target}, which is the kernel's or the root directory")

    def _place(self, source: str, target: str, home: str | None = None) -> None:
        """Move `source` to a path of the root."""
        is_folder = stat.S_ISDIR(os.lstat(source).st_mode)
        kind = paths.DIRECTORY if is_folder else paths.FILE
        fd, names = paths.resolve(self._root_fd, target, kind, self._stubs.before_create)
        os.close(fd)
        folder = os.path.join(self._root, *names[:-1])
        path = os.path.join(folder, names[-1])
        original = self._aside_name()
        if home is not None:
            self._at[home] = "/" + "/".join(names)
            self._lend(home, path)
        with times_kept(folder):
            os.rename(path, original)
            os.rename(source, path)
        parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._placed.append(_Placed(target, parent, names[-1], handle, original, home))
        self._stubs.mounted(names)

    # --- what is made for a step ----------------------------------------------------------------------------------

    def _make_file(self, data: bytes, mode: int, uid: int, gid: int) -> str:
        name = self._aside_name()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        with open(fd, "wb") as file:
            file.write(data)
        owners.change(name, uid, gid)
        os.chmod(name, mode)
        return name

    def _make_folder(self, mode: int) -> str:
        name = self._aside_name()
        os.mkdir(name)
        os.chmod(name, mode)
        return name

    def _make_link(self, target: str) -> str:
        name = self._aside_name()
        os.symlink(target, name)
        return name

    def _make_socket(self, host_socket: str, mode: int, uid: int, gid: int) -> str:
        name = self._aside_name()
        listener = socket(AF_UNIX, SOCK_STREAM)
        folder = os.open(self._aside, os.O_PATH | os.O_CLOEXEC)
        try:
            # The name of a socket is short.
            listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(name)}")
        finally:
            os.close(folder)
        os.chown(name, uid, gid)
        os.chmod(name, mode)
        listener.listen()
        self._listen(listener, host_socket)
        return name

    def _make_devices(self) -> str:
        folder = self._make_folder(0o755)
        for name, major, minor in DEVICES:
            path = os.path.join(folder, name)
            if not _make_device(path, os.makedev(major, minor)) and name in ("null", "random", "urandom"):
                with open(path, "wb") as file:
                    file.write(b"" if name == "null" else os.urandom(_RANDOM_BYTES))
                os.chmod(path, 0o666)  # noqa: S103 -- as the device has it
        for name, target in DESCRIPTOR_LINKS:
            os.symlink(target, os.path.join(folder, name))
        shm = os.path.join(folder, "shm")
        os.mkdir(shm)
        os.chmod(shm, 0o1777)  # noqa: S103 -- as /tmp
        return folder

    def _make_proc(self) -> str:
        folder = self._make_folder(0o555)
        for name in _PROC_FILES:
            try:
                with open(f"/proc/{name}", "rb") as source:
                    data = source.read()
            except OSError:
                continue
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
            os.chmod(path, 0o444)
        return folder

    def _aside_name(self) -> str:
        self._numbers += 1
        return os.path.join(self._aside, str(self._numbers))

    # --- the end --------------------------------------------------------------------------------------------------

    def _take_out(self) -> None:
        lost = []
        for placed in reversed(self._placed):
            if not self._restore(placed):
                lost.append(placed.target)
        self._placed.clear()
        os.close(self._root_fd)
        stubs.remove_stubs(self._root, *self._report)
        remove_tree(self._aside)
        if lost:
            raise SandboxError(
                f"the step moved the cache mount {lost[0]} to another place",
                hint="copy what is to stay out of it; without namespaces a mount can be moved",
            )

    def _restore(self, placed: _Placed) -> bool:
        """Take one thing out and put back what it hid; False where a folder that outlives the step had been moved."""
        was_moved = False
        try:
            with times_kept(b"/proc/self/fd/%d/." % placed.parent):
                here = _status(placed)
                if placed.home is not None:
                    was_moved = self._bring_home(placed, here)
                elif stat.S_ISREG(os.fstat(placed.handle).st_mode):
                    # Wherever the step has put other names of it: what it was given is nowhere.
                    os.truncate(f"/proc/self/fd/{placed.handle}", 0)
                with suppress(FileNotFoundError):
                    os.rename(placed.name, self._aside_name(), src_dir_fd=placed.parent)
                # Where the step has removed the whole folder, there is nothing to put back into.
                with suppress(FileNotFoundError):
                    os.rename(placed.original, placed.name, dst_dir_fd=placed.parent)
        finally:
            os.close(placed.handle)
            os.close(placed.parent)
        return not was_moved

    def _bring_home(self, placed: _Placed, here: os.stat_result | None) -> bool:
        """Move a folder back to where it came from, or make it anew, and answer whether the step had moved it."""
        assert placed.home is not None
        info = os.fstat(placed.handle)
        was_moved = False
        if here is not None and os.path.samestat(here, info):
            os.rename(placed.name, placed.home, src_dir_fd=placed.parent)
        elif info.st_nlink:
            os.rename(os.readlink(f"/proc/self/fd/{placed.handle}"), placed.home)
            was_moved = True
        else:
            os.mkdir(placed.home)
            copy_metadata(b"/proc/self/fd/%d/." % placed.handle, placed.home)
        self._returned(placed.home)
        return was_moved


def _status(placed: _Placed) -> os.stat_result | None:
    try:
        return os.stat(placed.name, dir_fd=placed.parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _make_device(path: str, number: int) -> bool:
    """Make a character device that can be opened; False where that is not allowed."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, number)
    except PermissionError:
        return False
    os.chmod(path, 0o666)  # noqa: S103 -- as the machine has it
    if number == os.makedev(5, 0):
        return True  # Who has no terminal cannot open it either.
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        os.unlink(path)
        return False
    return True


def _copy(source: bytes, target: bytes) -> None:
    """Copy a file or a folder with all in it."""
    real = os.readlink(source)
    if not stat.S_ISDIR(os.stat(source).st_mode):
        copy_entry(real, target)
        return
    folders = [(real, target)]
    os.mkdir(target, 0o700)
    for name, path, info in walk(real):
        copy = os.path.join(target, name)
        if stat.S_ISDIR(info.st_mode):
            os.mkdir(copy, 0o700)
            folders.append((path, copy))
        else:
            copy_entry(path, copy)
    for path, copy in reversed(folders):
        copy_metadata(path, copy)
