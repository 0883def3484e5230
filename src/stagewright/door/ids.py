"""Which users and groups a user namespace can have: all subordinate ids where there are some, else one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from stagewright import privilege
from stagewright.errors import PrivilegeNeededError
from stagewright.records import dataclass

_SUBORDINATE_UIDS = "/etc/subuid"
_SUBORDINATE_GIDS = "/etc/subgid"
_CAP_SETGID, _CAP_SETUID = 1 << 6, 1 << 7
# What images hold: the ids of 16 bits, "nobody" among them.
_ENOUGH = 65536
_GIVE_IDS = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535"


@dataclass(frozen=True, slots=True)
class Extent:
    """`count` ids that are `inside` and following within a namespace, and `outside` and following without."""

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


@dataclass(frozen=True, slots=True)
class IdMap:
    """The ids of a namespace. `helpers` are the programs that may write the maps, (uid, gid), None to write them here.

    `lack` says why there is one id only and what to do about it, None where there are more.
    """

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]
    helpers: tuple[str, str] | None
    lack: str | None = None


def best_id_map() -> IdMap:
    """The largest map that this process may give to a namespace; its own user is root there."""
    uid, gid = os.geteuid(), os.getegid()
    if privilege.capabilities() & (_CAP_SETUID | _CAP_SETGID) == _CAP_SETUID | _CAP_SETGID:
        return IdMap(_own_ids("uid"), _own_ids("gid"), None)
    one = (Extent(0, uid, 1),), (Extent(0, gid, 1),)
    import shutil

    helpers = shutil.which("newuidmap"), shutil.which("newgidmap")
    if helpers[0] is None or helpers[1] is None:
        return IdMap(*one, None, "newuidmap and newgidmap are not installed (Debian's package uidmap)")
    if not privilege.may_gain_privileges():
        return IdMap(*one, None, "newuidmap cannot work where programs gain no privileges (no_new_privs)")
    names = _own_names(uid)
    uids = list(subordinate_ranges(_SUBORDINATE_UIDS, names))
    gids = list(subordinate_ranges(_SUBORDINATE_GIDS, names))
    for path, found in ((_SUBORDINATE_UIDS, uids), (_SUBORDINATE_GIDS, gids)):
        if not found:
            return IdMap(*one, None, f"{path} gives {names[0]} no ids (as root: {_GIVE_IDS} {names[0]})")
    return IdMap(tuple(lay_out(uid, uids)), tuple(lay_out(gid, gids)), (helpers[0], helpers[1]))


def write(pid: int, ids: IdMap) -> None:
    """Give the user namespace of the process `pid` its ids. Raises PrivilegeNeededError where that is refused."""
    if ids.helpers is not None:
        for helper, extents in zip(ids.helpers, (ids.uids, ids.gids), strict=True):
            _run_helper(helper, pid, extents)
        return
    try:
        if ids.lack is not None:
            _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/gid_map", _text(ids.gids))
        _write(f"/proc/{pid}/uid_map", _text(ids.uids))
    except OSError as error:
        raise PrivilegeNeededError(f"cannot give a user namespace its ids: {error.strerror}") from error


def _run_helper(helper: str, pid: int, extents: tuple[Extent, ...]) -> None:
    import subprocess

    words = [word for extent in extents for word in str(extent).split()]
    done = subprocess.run([helper, str(pid), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise PrivilegeNeededError(f"{helper} failed: {said or f'exit status {done.returncode}'}")


def _own_ids(kind: str) -> tuple[Extent, ...]:
    """All ids that this process knows, each as itself."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        rows = [line.split() for line in file]
    return tuple(Extent(int(row[0]), int(row[0]), int(row[2])) for row in rows)


def _own_names(uid: int) -> tuple[str, ...]:
    """How the lists of subordinate ids may name this user."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name, str(uid)
    except KeyError:
        return (str(uid),)


def subordinate_ranges(path: str, names: Iterable[str]) -> Iterator[tuple[int, int]]:
    """The (first, count) of each range in a list of subordinate ids, subuid(5)."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        owner, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if owner in names and first.isdecimal() and count.isdecimal() and int(count):
            yield int(first), int(count)


def lay_out(own: int, ranges: list[tuple[int, int]]) -> Iterator[Extent]:
    """The own id as 0, then the ranges one after the other."""
    yield Extent(0, own, 1)
    inside = 1
    for first, count in ranges:
        yield Extent(inside, first, count)
        inside += count
        if inside >= _ENOUGH:
            return


def _text(extents: tuple[Extent, ...]) -> str:
    return "".join(f"{extent}\n" for extent in extents)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
