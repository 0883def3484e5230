"""What the machine is found to have."""

from __future__ import annotations

import os

from harness import control_groups

from stagewright.sandbox.probe import cgroup_version, probe


def test_the_facts_of_this_machine() -> None:
    facts = {fact.name: fact for fact in probe()}
    assert facts["kernel"].value.startswith(os.uname().release)
    assert facts["cgroups"].value == cgroup_version()
    assert facts["seccomp"].missing is None
    assert "mnt" in facts["namespaces"].value.split()


def test_limits_are_tried_and_leave_nothing() -> None:
    (limits,) = [fact for fact in probe() if fact.name == "limits of steps"]
    lacking = (limits.missing or "").partition(":")[0].replace(",", "").split()
    for controller in ("cpu", "cpuset", "memory", "pids"):
        assert (controller in limits.value.split(", ")) != (controller in lacking)
    assert control_groups(f"stagewright-probe-{os.getpid()}") == []


def test_the_network_of_steps_is_told() -> None:
    (network,) = [fact for fact in probe() if fact.name == "network of steps"]
    assert (network.value == "the host's") == (network.missing is not None)


def test_overlayfs_is_tried_and_leaves_nothing() -> None:
    (overlay,) = [fact for fact in probe() if fact.name == "overlayfs"]
    assert overlay.missing is None
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        assert "stagewright-probe" not in file.read()
