"""A layer's archive becomes a draft's folder, in overlay format.

Where the archive's members land is what containerd's overlay applier does, so that images have the same files here:
- names are taken relative to the layer's own folder, `.` and `..` lexically;
- a parent that is no member of the layer is made, with the owner, mode and time that it has in the layers below; a
  symbolic link of a layer below is not followed, the directory takes its place;
- a parent that is a symbolic link of this same layer is followed as long as it stays inside.
A name that is absolute or climbs out, and a link that would lead out, raise IntegrityError: nothing is ever written
outside of the folder. The one exception: names in `/nix`, which nixpkgs writes into all its images, are taken as `nix`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from stagewright.errors import IntegrityError
from stagewright.snapshots import overlay, syscalls
from stagewright.snapshots.chain import Chain
from stagewright.snapshots.store import Draft
from stagewright.snapshots.streams import Counted, ReadAhead, decompressed
from stagewright.snapshots.tarreader import Readable, TarEntry, TarReader, shown
from stagewright.snapshots.tree import copy_entry
from stagewright.snapshots.treewriter import TreeWriter, bounded_time, clean_name, refusals

_WHITEOUT = b".wh."
_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"


def apply(
    stream: Readable,
    draft: Draft,
    lowers: Callable[[], tuple[str, ...]],
    expected_diff_id: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Unpack a layer (a tar, plain or compressed) into a draft and answer its diff ID.

    `stream` is read from its position to its end, so it may be a download that is still running. `lowers` answers the
    folders below the draft, topmost first, for members that need to know. `progress` is told the bytes of the stream
    read so far. Raises IntegrityError where the archive is broken, hostile, or not the one that `expected_diff_id`
    names; the draft is then of no use.
    """
    root = os.open(draft.fs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        counted = Counted(stream)
        with Chain(lowers) as chain, _LayerWriter(root, chain) as writer, ReadAhead(decompressed(counted)) as source:
            reader = TarReader(source)
            for entry in reader:
                writer.add(entry, reader.body())
                if progress is not None and entry.size:
                    progress(counted.count)
            writer.finish()
            source.drain()
            if progress is not None:
                progress(counted.count)
            diff_id = source.digest()
    finally:
        os.close(root)
    if expected_diff_id is not None and diff_id != expected_diff_id:
        raise IntegrityError(f"layer has diff ID {diff_id}, expected {expected_diff_id}")
    return diff_id


class _LayerWriter(TreeWriter):
    def __init__(self, root: int, chain: Chain) -> None:
        super().__init__(root, resolve=syscalls.RESOLVE_BENEATH)
        self._chain = chain
        self._root_is_opaque = False

    def __enter__(self) -> _LayerWriter:
        return self

    def add(self, entry: TarEntry, body: Iterable[memoryview]) -> None:
        """Write one member of the layer, which may be a whiteout."""
        # Nixpkgs writes the names of all its image layers this way.
        if entry.name.startswith(b"/") and entry.name.split(b"/")[1] != b"nix":
            raise IntegrityError(f"archive member {shown(entry.name)} has an absolute name")
        name = clean_name(entry.name)
        base = name.rpartition(b"/")[2]
        if not name or (name.startswith(_META) and name != _OPAQUE):
            return  # The root is the draft's own; the others are private to AUFS.
        if base.startswith(_WHITEOUT):
            with refusals(entry.name):
                self._hide(name, base, bounded_time(entry.mtime_ns))
        else:
            self.write(name, entry, body)

    def finish(self) -> None:
        if self._root_is_opaque:
            self._hide_root()
        super().finish()

    def make_implied(self, parent: int, base: bytes, name: bytes, mtime_ns: int) -> int:
        found = self._chain.find(name)
        if found is None or not stat.S_ISDIR(found[1].st_mode):
            return super().make_implied(parent, base, name, mtime_ns)
        lower, info = found
        copy_entry(_at(lower, name), _at(parent, base))
        return info.st_mtime_ns

    def write_directory(self, parent: int, base: bytes, entry: TarEntry) -> None:
        covers = self._state(parent, base) == "whiteout"
        super().write_directory(parent, base, entry)
        if covers:
            overlay.make_opaque(_at(parent, base))

    def link_source(self, target: bytes, mtime_ns: int) -> tuple[int, bytes]:
        """As for any archive; what only the layers below have is copied into this one first."""
        try:
            parent, base = super().link_source(target, mtime_ns)
        except FileNotFoundError:
            found = self._chain.find(target) if target else None
            if found is None:
                raise
            lower, info = found
            parent, base = self.parent(target, mtime_ns)
            if not stat.S_ISDIR(info.st_mode):
                copy_entry(_at(lower, target), _at(parent, base))
                return parent, base
            raise
        if self._state(parent, base) == "whiteout":
            raise FileNotFoundError
        return parent, base

    def _hide(self, name: bytes, base: bytes, mtime_ns: int) -> None:
        """Write a whiteout, which speaks of the layers below only, wherever it stands in the archive."""
        directory = name.rpartition(b"/")[0]
        if base == _OPAQUE:
            self._root_is_opaque = self._root_is_opaque or not directory
            if directory:
                overlay.make_opaque(_at(self.directory(directory, mtime_ns), b"."))
            return
        if base.startswith(_META):
            return
        hidden = base[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise IntegrityError(f"archive member {shown(name)} is a whiteout of no file")
        parent = self.directory(directory, mtime_ns)
        state = self._state(parent, hidden)
        if state == "directory":
            overlay.make_opaque(_at(parent, hidden))
        elif state == "none":
            overlay.make_whiteout(_at(self.root, b""), _at(parent, b""), hidden, mtime_ns)

    def _hide_root(self) -> None:
        """Hide all that the layers below have: overlayfs does not look for the opaque mark on a layer's root."""
        for name in self._chain.root_names():
            state = self._state(self.root, name)
            if state == "directory":
                overlay.make_opaque(_at(self.root, name))
            elif state == "none":
                overlay.make_whiteout(_at(self.root, b""), _at(self.root, b""), name, 0)

    def _state(self, parent: int, base: bytes) -> str:
        """What this layer has at a name: "none", "whiteout", "directory" or "file"."""
        try:
            info = os.stat(base, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return "none"
        if overlay.is_whiteout(info, _at(parent, base)):
            return "whiteout"
        return "directory" if stat.S_ISDIR(info.st_mode) else "file"


def _at(directory: int, name: bytes) -> bytes:
    return b"/proc/self/fd/%d/%s" % (directory, name)
