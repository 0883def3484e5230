"""Where the control groups of a build's steps can be, and what is written to them: limits as the kernel takes them.

Limits are those of cgroups v2 (Linux, admin-guide/cgroup-v2). Of the old hierarchies only that of process counts is
used, which contains a fork bomb; the rest of a hybrid or old machine counts as without limits.
"""

from __future__ import annotations

import os
from typing import Any

from stagewright import privilege
from stagewright.options import StepLimits
from stagewright.records import replace
from stagewright.sandbox.spec import Step

DEFAULT_PIDS = 4096
"""Processes and threads that a step may have unless told otherwise: few enough for the machine to live through."""

_DEFAULT_PERIOD_US = 100_000
_MAX = "max"
_MOUNTINFO, _OWN_GROUPS = "/proc/self/mountinfo", "/proc/self/cgroup"

Setting = tuple[str, str, str]
"""A limit: its controller, the file of a control group that takes it, and the text to write."""
Hierarchy = tuple[list[str], list[Setting], bool]
"""The folders that a build's group may be made in, the best one first; its steps' settings; whether it is v2."""


def settings(limits: StepLimits) -> list[Setting]:
    """The limits in the order in which they can be written; the number of processes always has one."""
    found: list[Setting] = []
    if limits.memory:
        found.append(("memory", "memory.max", str(limits.memory)))
        found.append(("memory", "memory.swap.max", _swap(limits.memory, limits.memory_swap)))
    if limits.cpu_shares is not None:
        found.append(("cpu", "cpu.weight", str(1 + (limits.cpu_shares - 2) * 9999 // 262142)))
    if limits.cpu_quota is not None or limits.cpu_period is not None:
        quota = _MAX if limits.cpu_quota in (None, -1) else str(limits.cpu_quota)
        found.append(("cpu", "cpu.max", f"{quota} {limits.cpu_period or _DEFAULT_PERIOD_US}"))
    for name, value in (("cpuset.cpus", limits.cpuset_cpus), ("cpuset.mems", limits.cpuset_mems)):
        if value is not None:
            found.append(("cpuset", name, value))
    pids = DEFAULT_PIDS if limits.pids is None else limits.pids
    found.append(("pids", "pids.max", _MAX if pids == -1 else str(pids)))
    return found


def asked_for(limits: StepLimits) -> frozenset[str]:
    """The controllers of the limits that the user has set, less defaults."""
    asked = {controller for controller, _, _ in settings(limits) if controller != "pids"}
    return frozenset(asked | ({"pids"} if limits.pids is not None else set()))


def complaint(limits: StepLimits, controllers: frozenset[str]) -> str | None:
    """What to tell the user of limits that no group holds; None where all that were asked for are in force."""
    lacking = sorted(asked_for(limits) - controllers)
    if lacking:
        return f"steps run without the limits of {', '.join(lacking)}: no control groups of ours have them here"
    if limits.cgroup_parent is not None and not controllers:
        return f"steps run outside of {limits.cgroup_parent}: no control group can be made there"
    return None


def contained(step: Step, limits: StepLimits, controllers: frozenset[str]) -> Step:
    """The step with a limit for a fork bomb where no group has one.

    The resource limit stands in for it only in a user namespace, which counts processes for itself (Linux 5.14);
    root of the machine has no such limit.
    """
    count = DEFAULT_PIDS if limits.pids is None else limits.pids
    given = any(name == "nproc" for name, _, _ in step.ulimits)
    if count == -1 or given or "pids" in controllers or not privilege.in_user_namespace():
        return step
    return replace(step, ulimits=(*step.ulimits, ("nproc", count, count)))


def oci_resources(limits: StepLimits) -> dict[str, Any]:
    """The limits as `linux.resources` of an OCI runtime's config.json, which knows all kinds of hierarchies."""
    resources: dict[str, Any] = {"pids": {"limit": DEFAULT_PIDS if limits.pids is None else limits.pids}}
    if limits.memory:
        both = limits.memory_swap or 2 * limits.memory
        resources["memory"] = {"limit": limits.memory, "swap": both}
    pairs = {
        "shares": limits.cpu_shares,
        "period": limits.cpu_period,
        "quota": limits.cpu_quota,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    cpu = {name: value for name, value in pairs.items() if value is not None}
    if cpu:
        resources["cpu"] = cpu
    return resources


def plan(limits: StepLimits) -> list[Hierarchy]:
    """Where this process may be able to make groups for limits, as the mounts of this machine are."""
    wanted = settings(limits)
    v2, old_pids = _mounts()
    own = _own_groups()
    hierarchies: list[Hierarchy] = []
    offered: set[str] = set()
    if v2 is not None:
        offered = set(_read(f"{v2}/cgroup.controllers").split())
        places = _places(v2, own.get("", "/"), limits.cgroup_parent)
        hierarchies.append((places, [setting for setting in wanted if setting[0] in offered], True))
    if old_pids is not None and "pids" not in offered:
        places = _places(old_pids, own.get("pids", "/"), limits.cgroup_parent)
        hierarchies.append((places, [setting for setting in wanted if setting[0] == "pids"], False))
    return hierarchies


def _swap(memory: int, both: int | None) -> str:
    if both == -1:
        return _MAX
    return str(both - memory if both else memory)


def _places(mount: str, own: str, parent: str | None) -> list[str]:
    """The group that was asked for, or our own and all above it: whose processes are its own can't have groups too."""
    if parent is not None:
        return [os.path.normpath(f"{mount}/{parent}")]
    names = [name for name in own.split("/") if name not in ("", "..")]
    return [os.path.join(mount, *names[:count]) for count in range(len(names), -1, -1)]


def _mounts() -> tuple[str | None, str | None]:
    """Where the v2 hierarchy is mounted, and the old one of process counts."""
    v2 = pids = None
    with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            kind, _, options = rest.split()[:3]
            target = fields.split()[4]
            if kind == "cgroup2":
                v2 = v2 or target
            elif kind == "cgroup" and "pids" in options.split(","):
                pids = pids or target
    return v2, pids


def _own_groups() -> dict[str, str]:
    """The paths of our own groups by controller; that of v2 has no name."""
    found = {}
    with open(_OWN_GROUPS, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
