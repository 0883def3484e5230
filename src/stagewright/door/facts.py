"""What `stagewright info` tells of the machine: how this user comes by privilege, and what there is behind the door."""

from __future__ import annotations

import os
import threading

from stagewright import privilege
from stagewright.door import ids, passage
from stagewright.errors import PrivilegeNeededError
from stagewright.progress.events import Sink
from stagewright.sandbox.probe import Fact, probe


def machine_facts() -> tuple[Fact, ...]:
    """All facts; takes some ten milliseconds a runtime that is installed, and as many for a user namespace."""
    if privilege.is_privileged():
        user = "root of a user namespace" if privilege.in_user_namespace() else "root"
        return (Fact("user", user), *probe())
    user = f"UID {os.geteuid()}"
    try:
        behind: tuple[Fact, ...] = passage.call("stagewright.door.facts:_probe_inside", (), None, threading.Event())
    except PrivilegeNeededError as error:
        lack = "steps run in a chroot only" if privilege.forgone() is not None else "no step can run"
        return (Fact("user", user), Fact("user namespaces", "none", f"{lack}: {error.message}"), *probe())
    found = ids.best_id_map()
    known = Fact("user namespaces", "yes")
    if found.lack is None:
        owners = Fact("subordinate ids", f"{sum(extent.count for extent in found.uids)} users in a namespace")
    else:
        lack = f"steps cannot change owners, nor run as other users than root: {found.lack}"
        owners = Fact("subordinate ids", "none", lack)
    return (Fact("user", f"{user}, root of a user namespace for steps"), known, owners, *behind)


def _probe_inside(sink: Sink | None, cancel: threading.Event) -> tuple[Fact, ...]:
    if not privilege.is_privileged():
        raise PrivilegeNeededError(privilege.forgone() or "this takes a user namespace")
    return probe()
