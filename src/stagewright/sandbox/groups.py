"""The control groups of a build's steps, seen from the launcher, which makes them and takes them away again.

A build has one group in each hierarchy that it uses, with one group a step inside. Where no step has limits the
launcher is in such a group itself, and steps are born there: to move a process takes a lock that every fork on the
machine holds, and longer than all else that a step needs.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from stagewright.sandbox.cgroups import Hierarchy, Setting


class BuildGroup:
    """A build's group in one hierarchy, at `path`. `settings` are its steps' limits that hold there."""

    def __init__(self, path: str, settings: list[Setting], is_v2: bool) -> None:
        self.path = path
        self.settings = settings
        self.is_v2 = is_v2

    @property
    def is_common(self) -> bool:
        """Whether steps can do with one group for all of them."""
        return self.is_v2 and not self.settings

    def add_common(self) -> str:
        """Make the group that the launcher and its steps are in, and move there; gives its path. Raises OSError."""
        path = f"{self.path}/common"
        os.mkdir(path)
        self.join(path)
        return path

    def join(self, path: str) -> None:
        """Move the calling process, which has one thread, into a group of this hierarchy. Raises OSError."""
        _join(path, self.is_v2)

    def add_step(self, number: int) -> str:
        """Make a step's group with its limits; gives its path. Raises OSError, which names a limit that is refused."""
        path = f"{self.path}/step{number}"
        os.mkdir(path)
        for _, name, value in self.settings:
            try:
                _write(f"{path}/{name}", value)
            except OSError as error:
                raise OSError(error.errno, f"{name} {value}: {error.strerror}") from None
        return path

    def has_run_out_of_memory(self, number: int) -> bool:
        """Whether the kernel has killed something of a step for want of memory."""
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in self._events(number))

    def _events(self, number: int) -> list[str]:
        try:
            with open(f"{self.path}/step{number}/memory.events", encoding="ascii") as file:
                return file.read().splitlines()
        except OSError:
            return []

    def remove_step(self, number: int) -> None:
        """Take a step's group away, once its processes have ended; what it made inside goes with it."""
        _remove_tree(f"{self.path}/step{number}")

    def remove(self) -> None:
        """Take the whole group away, with what may still run inside."""
        if self.is_v2:
            _write_quietly(f"{self.path}/cgroup.kill", "1")
        _remove_tree(self.path)


def make(name: str, hierarchies: Iterable[Hierarchy]) -> list[BuildGroup]:
    """Make a build's group `name` in each hierarchy that lets us have one with all settings, or some of them."""
    found = []
    for places, settings, is_v2 in hierarchies:
        for place in places:
            try:
                if len(places) == 1:
                    # It is the one that was asked for, or there in any case.
                    os.makedirs(place, exist_ok=True)
                found.append(_make_in(place, name, settings, is_v2))
            except OSError:
                continue
            break
    return found


def _make_in(place: str, name: str, settings: list[Setting], is_v2: bool) -> BuildGroup:
    path = f"{place}/{name}"
    os.mkdir(path)
    try:
        held = settings
        if is_v2:
            wanted = {controller for controller, _, _ in settings}
            held = _hand_down(path, settings)
            if wanted and not held:
                raise PermissionError
        _try_to_move(path, is_v2)
    except OSError:
        _remove_tree(path)
        raise
    return BuildGroup(path, held, is_v2)


def _hand_down(path: str, settings: list[Setting]) -> list[Setting]:
    """Switch the controllers on for the groups inside `path`; gives the settings whose controllers are.

    A group has those that all above it hand down, which only the machine's root may still change.
    """
    above = [path]
    while os.path.exists(f"{os.path.dirname(above[0])}/cgroup.subtree_control"):
        above.insert(0, os.path.dirname(above[0]))
    held = []
    for controller in dict.fromkeys(controller for controller, _, _ in settings):
        for group in above:
            _write_quietly(f"{group}/cgroup.subtree_control", f"+{controller}")
        with open(f"{path}/cgroup.subtree_control", encoding="ascii") as file:
            if controller in file.read().split():
                held.append(controller)
    return [setting for setting in settings if setting[0] in held]


def _try_to_move(path: str, is_v2: bool) -> None:
    """Have a process move there: who may make a group may yet not take processes away from where we are now."""
    place = f"{path}/trial"
    os.mkdir(place)
    pid = os.fork()
    if not pid:
        try:
            _join(place, is_v2)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise PermissionError
    os.rmdir(place)


def _join(path: str, is_v2: bool) -> None:
    # Of the old hierarchies a thread can move alone, without the lock on all forks.
    _write(f"{path}/{'cgroup.procs' if is_v2 else 'tasks'}", "0")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _write_quietly(path: str, text: str) -> None:
    try:
        _write(path, text)
    except OSError:
        # Whether it has worked is read from the kernel afterwards.
        return


def _remove_tree(path: str) -> None:
    for group, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(group)
        except OSError:
            # Gone already, or a process in it is still ending: whoever removes the group above tries again.
            continue
