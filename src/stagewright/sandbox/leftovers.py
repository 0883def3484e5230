"""Removes what an OCI runtime leaves when it is killed together with the builder: control groups and a directory."""

from __future__ import annotations

import os

_CGROUP_MOUNTS = "/sys/fs/cgroup"


def remove(directory: str, cgroup: str) -> None:
    """Remove the empty `directory` and, in every hierarchy, the group `cgroup` with those inside it.

    It is below our own unless its path is absolute. All their processes must have ended.
    """
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        entries = [line.rstrip("\n").split(":", 2) for line in file]
    for _, controllers, path in entries:
        hierarchy = controllers.removeprefix("name=")
        for mount in (hierarchy,) if hierarchy else ("", "unified"):
            own = "" if cgroup.startswith("/") else path.lstrip("/")
            top = os.path.join(_CGROUP_MOUNTS, mount, own, cgroup.lstrip("/"))
            for group, _, _ in os.walk(top, topdown=False):
                _remove_directory(group)
    _remove_directory(directory)


def _remove_directory(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        # Gone already, or not ours alone: nothing that a step could still use.
        return
