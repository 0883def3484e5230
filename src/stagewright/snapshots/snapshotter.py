"""How layers become one tree of files: what every way of doing it offers, and the kernel's overlayfs, the usual one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from stagewright.snapshots import overlay
from stagewright.snapshots.changes import tidy

Lent = str | int | None
"""A merged tree for another process: an absolute folder, a detached mount's descriptor, or None: mount it there."""


class Snapshotter(Protocol):
    """One way to put layers together. Safe for use by several threads.

    `lowers` are the absolute folders of layers in overlay format, topmost first, of which there may be none; `upper` is
    the folder that a draft's changes go to and `work` a scratch folder beside it. A tree that was put together from the
    same layers holds the same files in every way. Methods raise StoreError where the machine refuses.
    """

    name: str

    def view(self, lowers: tuple[str, ...]) -> AbstractContextManager[int]:
        """The merged tree, to be read only, as a directory descriptor that is valid within the block."""
        ...

    def mount(self, lowers: tuple[str, ...], upper: str, work: str) -> AbstractContextManager[int]:
        """The merged tree of a draft, to be written, as a directory descriptor that is valid within the block."""
        ...

    def lend_view(self, lowers: tuple[str, ...]) -> AbstractContextManager[Lent]:
        """As `view`, for another process, which must not write; a folder that is lent may be that of a layer."""
        ...

    def lend(self, lowers: tuple[str, ...], upper: str, work: str) -> AbstractContextManager[Lent]:
        """As `mount`, for another process, which has let go of the tree by the end of the block."""
        ...

    def settle(self, lowers: tuple[str, ...], upper: str) -> int:
        """Have all changes of a draft that is not in use any more in `upper`, in overlay format.

        Answers the `content_size` of that folder.
        """
        ...

    def committed(self, lowers: tuple[str, ...], upper: str) -> None:
        """What was the draft `upper` is now a layer, the first of `lowers`."""
        ...

    def discarded(self, upper: str) -> None:
        """The draft `upper` is gone."""
        ...

    def close(self) -> None:
        """Give back what is kept between calls."""
        ...


class OverlaySnapshotter:
    """Mounts by the kernel. `empty` are two empty folders, since overlayfs wants lower directories."""

    name = "overlay"

    def __init__(self, empty: tuple[str, str]) -> None:
        self._empty = empty

    @contextmanager
    def view(self, lowers: tuple[str, ...]) -> Iterator[int]:
        """See `Snapshotter.view`."""
        with opened(overlay.mount(lowers + self._empty)) as root:
            yield root

    @contextmanager
    def mount(self, lowers: tuple[str, ...], upper: str, work: str) -> Iterator[int]:
        """See `Snapshotter.mount`."""
        with opened(overlay.mount(lowers or self._empty[:1], upper, work)) as root:
            yield root

    @contextmanager
    def lend_view(self, lowers: tuple[str, ...]) -> Iterator[Lent]:
        """See `Snapshotter.lend_view`: a mount can't be handed on, so whoever needs it makes it."""
        yield None

    @contextmanager
    def lend(self, lowers: tuple[str, ...], upper: str, work: str) -> Iterator[Lent]:
        """See `Snapshotter.lend`."""
        yield None

    def settle(self, lowers: tuple[str, ...], upper: str) -> int:
        """See `Snapshotter.settle`: overlayfs has written there all along."""
        return tidy(upper, lowers)

    def committed(self, lowers: tuple[str, ...], upper: str) -> None:
        """See `Snapshotter.committed`."""

    def discarded(self, upper: str) -> None:
        """See `Snapshotter.discarded`."""

    def close(self) -> None:
        """See `Snapshotter.close`."""


@contextmanager
def opened(mount: int) -> Iterator[int]:
    """The root of a mount, which ends with the block."""
    try:
        with root_of(mount) as root:
            yield root
    finally:
        os.close(mount)


@contextmanager
def root_of(mount: int) -> Iterator[int]:
    """A descriptor of the mount's root that can be listed, beside the one that keeps the mount."""
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    try:
        yield root
    finally:
        os.close(root)
