"""What looks into, and removes, the files of all users in a state directory: calls for `door.passage`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing

from stagewright import privilege
from stagewright.policy import Policy
from stagewright.progress.events import Sink
from stagewright.reports import Means, PruneReport, StoreCheck, UsageRow
from stagewright.state import State


def prune(root: str, all: bool, sink: Sink | None, cancel: threading.Event) -> PruneReport:
    """See `Store.prune`; `root` is the state directory."""
    from stagewright.collect import Collector

    privilege.require()
    with closing(State(root, {})) as state:
        return Collector(state).prune(all=all)


def reclaim(root: str, policies: Sequence[Policy], sink: Sink | None, cancel: threading.Event) -> PruneReport:
    """See `Collector.reclaim`; `root` is the state directory."""
    from stagewright.collect import Collector

    privilege.require()
    with closing(State(root, {})) as state:
        return Collector(state).reclaim(policies)


def disk_usage(root: str, sink: Sink | None, cancel: threading.Event) -> list[UsageRow]:
    """See `Store.disk_usage`; `root` is the state directory."""
    from stagewright.usage import disk_usage as measure

    privilege.require()
    with closing(State(root, {})) as state:
        return measure(state)


def check(root: str, repair: bool, sink: Sink | None, cancel: threading.Event) -> StoreCheck:
    """See `Store.check`; `root` is the state directory."""
    from pathlib import Path

    from stagewright.health.checkup import check_store

    privilege.require()
    return check_store(Path(root), repair)


def means(root: str, snapshotter: str, sink: Sink | None, cancel: threading.Event) -> Means:
    """How builds in the state directory `root` merge layers, and what they do without; see `Config.snapshotter`."""
    privilege.require()
    with closing(State(root, {}, snapshotter)) as state:
        choice = state.snapshots.choice()
        return Means(choice.snapshotter.name, choice.refusals, privilege.forgone())
