"""Which way of merging layers this machine gives: the best one that works, or the one that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable

from stagewright import privilege
from stagewright.errors import StoreError, UsageError
from stagewright.records import dataclass
from stagewright.snapshots.snapshotter import OverlaySnapshotter, Snapshotter

NAMES = ("auto", "overlay", "fuse-overlayfs", "copies")
"""What can be asked for; all but `auto`, the best first."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A way of merging layers; `refusals` are the better ones by name, each with the reason why it is not this one."""

    snapshotter: Snapshotter
    refusals: tuple[tuple[str, str], ...] = ()


def choose(
    wanted: str, empty: tuple[str, str], new_folder: Callable[[], str], throw_away: Callable[[str], None]
) -> Choice:
    """The snapshotter of a store whose empty folders are `empty`.

    `new_folder` makes a folder on the store's file system, `throw_away` removes one. Nothing is tried for a way that
    was asked for by name: it works or says why not when it is used. Raises UsageError for a name that does not exist.
    """
    if wanted not in NAMES:
        raise UsageError(f'there is no snapshotter "{wanted}"', hint=f"one of {', '.join(NAMES)}")
    refusals: list[tuple[str, str]] = []
    if wanted == "auto":
        wanted, refusals = _best(empty, new_folder, throw_away)
    if wanted == "overlay":
        return Choice(OverlaySnapshotter(empty))
    if wanted == "fuse-overlayfs":
        from stagewright.snapshots.fuse import FuseSnapshotter

        return Choice(FuseSnapshotter(empty[0]), tuple(refusals))
    from stagewright.snapshots.copies import CopiesSnapshotter

    return Choice(CopiesSnapshotter(new_folder, throw_away), tuple(refusals))


def _best(
    empty: tuple[str, str], new_folder: Callable[[], str], throw_away: Callable[[str], None]
) -> tuple[str, list[tuple[str, str]]]:
    if not privilege.may_administer():
        reason = "mounts are not allowed in this process"
        return "copies", [("overlay", reason), ("fuse-overlayfs", reason)]
    refused = _overlay_refusal(empty, new_folder, throw_away)
    if refused is None:
        return "overlay", []
    from stagewright.snapshots import fuse

    refusals = [("overlay", refused)]
    refused = fuse.refusal()
    if refused is None:
        return "fuse-overlayfs", refusals
    return "copies", [*refusals, ("fuse-overlayfs", refused)]


def _overlay_refusal(
    empty: tuple[str, str], new_folder: Callable[[], str], throw_away: Callable[[str], None]
) -> str | None:
    """Why no overlay can be mounted on the store's file system; None where one can."""
    folder = new_folder()
    try:
        upper, work = os.path.join(folder, "fs"), os.path.join(folder, "work")
        os.mkdir(upper)
        os.mkdir(work)
        with OverlaySnapshotter(empty).mount((), upper, work):
            return None
    except StoreError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)
    finally:
        throw_away(folder)
