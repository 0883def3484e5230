"""Which file of an older snapshot a copy may have a link to, instead of another copy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from stagewright.graph.ops import FileOp
from stagewright.graph.vertex import digest_of
from stagewright.ops.result import Result
from stagewright.ops.worker import Worker
from stagewright.snapshots.filetable import FileTable
from stagewright.snapshots.links import Found, Giver
from stagewright.snapshots.store import Draft
from stagewright.sources.digests import FileDigests
from stagewright.sources.snapshot import SnapshotTree
from stagewright.sources.tree import Entry, Tree

# What else could be copied while a file is made.
_FILE_BYTES = 64 << 10
_WORTH_BYTES = 1 << 20


class Sharer(Protocol):
    """Finds, for regular files of one folder that are copied to paths in one folder of the layer, for each one that has
    the same content and attributes, or None.

    Owner, mode and times are for the caller to compare.
    """

    giver: Giver

    def find(self, tree: Tree, entries: Sequence[Entry], paths: Sequence[str]) -> list[Found | None]: ...


class SnapshotSharer:
    """The files of the snapshot that is copied from, as they lie in its layers."""

    def __init__(self, giver: Giver) -> None:
        self.giver = giver

    def find(self, tree: Tree, entries: Sequence[Entry], paths: Sequence[str]) -> list[Found | None]:
        """See `Sharer`."""
        return [self._find(tree, entry) for entry in entries]

    def _find(self, tree: Tree, entry: Entry) -> Found | None:
        known_path = tree.path_in_layer(entry.path) if isinstance(tree, SnapshotTree) else None
        if known_path is not None:
            return Found(known_path, entry.info)
        found = self.giver.find(os.fsencode(entry.path))
        if found is None:
            return None
        info, known = found.info, entry.info
        same = (info.st_size, info.st_mtime_ns, info.st_mode) == (known.st_size, known.st_mtime_ns, known.st_mode)
        return found if same else None


class ContextSharer:
    """The files that the same copy from the same build context has made before, as far as their digests are the same.

    `known` are the digests of what it made then, `digests` those of the context now. `made_paths` and `made_digests`
    gather those of what it makes now, as `SharedFiles.record_copy` wants them.
    """

    def __init__(self, giver: Giver, known: FileTable | None, digests: FileDigests) -> None:
        self.giver = giver
        self._known = known
        self._digests = digests
        # Not as objects, of which a large context would have hundreds of thousands.
        self.made_paths = bytearray()
        self.made_digests = bytearray()
        self._bytes = 0

    @property
    def is_worthwhile(self) -> bool:
        """Whether copying it all again would take longer than remembering it."""
        return self._bytes + len(self.made_digests) // 32 * _FILE_BYTES >= _WORTH_BYTES

    def find(self, tree: Tree, entries: Sequence[Entry], paths: Sequence[str]) -> list[Found | None]:
        """See `Sharer`."""
        digests = self._digests.known(entries)
        if digests is None:
            digests = [self._digests.digest(tree, entry) for entry in entries]
        names = os.fsencode("\0".join(paths))
        self.made_paths += b"%b\0" % names
        self.made_digests += b"".join(digests)
        self._bytes += sum(entry.info.st_size for entry in entries)
        if self._known is None:
            return [None] * len(entries)
        if self._known.run(paths, digests) is not None:
            return [self.giver.find(name) for name in names.split(b"\0")]
        return [
            self.giver.find(name) if self._known.get(path) == digest else None
            for name, path, digest in zip(names.split(b"\0"), paths, digests, strict=True)
        ]


class Sharing:
    """What one draft may have links to, by the inputs that it copies from; what lies in it must not be written to."""

    def __init__(self, worker: Worker, draft: Draft, op: FileOp, inputs: tuple[Result, ...]) -> None:
        self._worker = worker
        self._op = op
        self._inputs = inputs
        self._sharers: dict[int, Sharer] = {}
        self.links = worker.snapshots.links(draft)

    def sharer(self, index: int) -> Sharer | None:
        """What to link to instead of a copy of that input's files."""
        source = self._inputs[index]
        if index not in self._sharers and source.context is not None:
            self._sharers[index] = self._context_sharer(index, source.context)
        elif index not in self._sharers and source.snapshot is not None:
            lowers = self._worker.snapshots.lowers(source.snapshot)
            self._sharers[index] = SnapshotSharer(self.links.giver(lowers))
        return self._sharers.get(index)

    def _context_sharer(self, index: int, context: str) -> ContextSharer:
        snapshots = self._worker.snapshots
        folder, known = snapshots.shared().last_copy(self._name(index, context)) or ("", None)
        giver = self.links.giver([snapshots.folder_named(folder)] if folder else [])
        return ContextSharer(giver, known, self._worker.context(context).digests)

    def note(self, snapshot: int) -> None:
        """Remember what was copied from contexts, for the next copy. There is nothing more to share then."""
        snapshots = self._worker.snapshots
        while self._sharers:
            index, sharer = self._sharers.popitem()
            context = self._inputs[index].context
            if isinstance(sharer, ContextSharer) and context is not None and sharer.is_worthwhile:
                made = sharer.made_paths, sharer.made_digests
                # What it knew of the last copy takes as much memory as it takes to write this one down.
                del sharer
                snapshots.shared().record_copy(self._name(index, context), snapshots.dir(snapshot), *made)

    def _name(self, index: int, context: str) -> str:
        """What the same copy from the same folder has again."""
        folder = self._worker.context(context).folder
        return digest_of([os.fsencode(folder).hex(), index, [action.identity() for action in self._op.actions]])
