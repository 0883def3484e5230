"""The merged tree of a snapshot, read where that costs least."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from stagewright.snapshots import overlay
from stagewright.snapshots.changes import directories_below
from stagewright.sources.tree import Entry, TreeAtHand


class SnapshotTree(TreeAtHand):
    """The view `root` of a snapshot with the layers `lowers` (absolute folders, topmost first).

    A folder that one layer alone has needs no merging: what is below it is read in that layer, at half of what the
    same costs in the view.
    """

    def __init__(self, root: int, lowers: Sequence[str]) -> None:
        super().__init__(root)
        self._lowers = lowers
        self._layer = -1
        self._layer_path = b""
        self._inside: str | None = None

    def close(self) -> None:
        """Close what is kept open."""
        self.let_go()
        if self._layer >= 0:
            os.close(self._layer)
        self._layer, self._inside = -1, None

    def runs(self, top: str, enters: Callable[[Entry], bool] | None = None) -> Iterator[list[Entry]]:
        """See `Tree.runs`."""
        self._look_for_layer(top)
        return super().runs(top, enters)

    def path_in_layer(self, path: str) -> bytes | None:
        """The absolute path of a file where it is read in a layer, None where it is read in the view."""
        return self._layer_path + os.fsencode(path) if self._is_inside(path) else None

    def _copied(self) -> TreeAtHand:
        tree = SnapshotTree(self._root, self._lowers)
        tree._layer, tree._layer_path, tree._inside = self._layer, self._layer_path, self._inside
        return tree

    def _look_for_layer(self, top: str) -> None:
        below = [os.fsencode(lower) for lower in self._lowers]
        for part in os.fsencode(top).split(b"/") if top else ():
            below = directories_below(below, part)
        if len(below) != 1:
            return
        layer = next(lower for lower in map(os.fsencode, self._lowers) if (below[0] + b"/").startswith(lower + b"/"))
        self.close()
        self._layer = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._layer_path = layer + b"/"
        self._inside = f"{top}/" if top else ""

    def _is_inside(self, path: str) -> bool:
        return self._inside is not None and f"{path}/".startswith(self._inside)

    def _scan(self, folder: str) -> Iterator[Entry]:
        entries = super()._scan(folder)
        if not self._is_inside(folder):
            return entries
        return (
            entry
            for entry in entries
            if not overlay.may_be_whiteout(entry.info.st_mode) or not self._is_whiteout(entry)
        )

    def _is_whiteout(self, entry: Entry) -> bool:
        return overlay.is_whiteout(entry.info, self._layer_path + os.fsencode(entry.path))

    def _base(self, path: str) -> int:
        return self._layer if self._is_inside(path) else self._root
