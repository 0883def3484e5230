"""A build context that comes as an archive through a pipe: unpacked as it comes, named by what is in it.

The archive may be anybody's. Nothing is written outside of the snapshot that it becomes, and what it may take up is
bounded by what there is: a stream that never ends is broken off before the disk is full.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import threading
from collections.abc import Callable, Iterable, Iterator

from stagewright import privilege
from stagewright.errors import CanceledError, IntegrityError, StoreError
from stagewright.graph.ops import SourceOp
from stagewright.progress.reporter import Reporter
from stagewright.snapshots import syscalls
from stagewright.snapshots.store import Draft, SnapshotStore
from stagewright.snapshots.streams import Counted, decompressed
from stagewright.snapshots.tarreader import DIRECTORY, REGULAR, Readable, TarEntry, TarReader
from stagewright.snapshots.treewriter import TreeWriter, clean_name

ARCHIVE = "archive"
_LOOK_INTERVAL_MS = 100
_BLOCK = 1 << 20
# Enough to know any archive by.
_HEAD = 1024
_MAX_MEMBERS = 1_000_000
# Of directories the names and times stay in memory until the end.
_MAX_DIRECTORIES = 128 << 20
_DIRECTORY_COST = 200
# What a writer may put behind the end of an archive; who stops reading earlier makes it fail.
_MAX_PADDING = 1 << 20


class StandardInput:
    """What comes by this process's standard input. Reads raise CanceledError once `cancel` is set."""

    def __init__(self, cancel: threading.Event, handle: int = 0) -> None:
        # Whatever is read of it is gone, so that nobody else could begin anew.
        privilege.require()
        self._cancel = cancel
        self._handle = handle
        self._poll = select.poll()
        self._poll.register(handle, select.POLLIN)
        self._ahead = b""

    def head(self) -> bytes:
        """The first bytes, some hundred of them where there are so many; they are read again."""
        while len(self._ahead) < _HEAD and (more := self._next(_BLOCK)):
            self._ahead += more
        return self._ahead

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._next(size)

    def read_all(self, limit: int) -> bytes:
        """All of it, or somewhat more than `limit` bytes."""
        data = bytearray()
        while len(data) <= limit and (block := self.read(_BLOCK)):
            data += block
        return bytes(data)

    def _next(self, size: int) -> bytes:
        # Nothing can wait for a pipe and for an event.
        while not self._cancel.is_set():
            if self._poll.poll(_LOOK_INTERVAL_MS):
                try:
                    return os.read(self._handle, size)
                except OSError as error:
                    raise IntegrityError(f"cannot read standard input: {error.strerror}") from error
        raise CanceledError


class ArchiveSource:
    """The archive of one build, unpacked once. Closed by `close`, which throws away what nobody asked for."""

    def __init__(self, snapshots: SnapshotStore) -> None:
        self._snapshots = snapshots
        self._draft: Draft | None = None
        self._snapshot: int | None = None

    def take(self, stream: Readable, reporter: Reporter) -> SourceOp:
        """Unpack a tar archive, plain or compressed; the op names it by what is in it, whatever its compression.

        Raises IntegrityError for an archive that is broken or hostile, StoreError where it does not fit.
        """
        self._draft = self._snapshots.prepare(None)
        root = os.open(self._draft.fs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            counted = Counted(stream)
            row = reporter.row("transferring context:")
            with TreeWriter(root, resolve=syscalls.RESOLVE_IN_ROOT) as writer:
                reader = TarReader(decompressed(counted))
                digest = _unpack(reader, writer, _Bounds(root), lambda: row.update(counted.count))
        except IntegrityError as error:
            message = f"failed to read the build context from standard input: {error.message}"
            raise IntegrityError(message, hint=error.hint) from error
        finally:
            os.close(root)
        _skip_padding(stream)
        return SourceOp(f"{ARCHIVE}://{digest}")

    def resolve(self, op: SourceOp, reporter: Reporter) -> object:
        """The op says what it is."""
        return op.identifier

    def snapshot(self, op: SourceOp, reporter: Reporter) -> int:
        """The snapshot of its files."""
        if self._snapshot is None:
            assert self._draft is not None
            self._snapshot = self._snapshots.commit(self._draft)
            self._draft = None
        return self._snapshot

    def close(self) -> None:
        """Throw the files away unless they became a snapshot."""
        if self._draft is not None:
            self._snapshots.discard(self._draft)
            self._draft = None


class _Bounds:
    """What an archive may take up, in the file system that the folder `root` lies in."""

    def __init__(self, root: int) -> None:
        room = os.fstatvfs(root)
        self._free = room.f_bavail * room.f_frsize
        self._members = self._bytes = self._directories = 0

    def check(self, entry: TarEntry) -> None:
        """Count a member before it is written. Raises IntegrityError and StoreError."""
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise IntegrityError(f"the archive has more than {_MAX_MEMBERS} members")
        if entry.type == DIRECTORY:
            self._directories += len(entry.name) + _DIRECTORY_COST
            if self._directories > _MAX_DIRECTORIES:
                raise IntegrityError("the archive has too many directories")
        elif entry.type == REGULAR:
            self._bytes += entry.size if entry.regions is None else sum(length for _, length in entry.regions)
            if self._bytes > self._free:
                raise StoreError(
                    f"the build context does not fit: its files have {self._bytes} bytes or more, and"
                    f" {self._free} are free",
                    hint="stagewright prune makes room",
                )


def _unpack(reader: TarReader, writer: TreeWriter, bounds: _Bounds, progress: Callable[[], None]) -> str:
    """Write all members; answers the digest of what they are, which no padding and no compression changes."""
    content = hashlib.sha256()
    for entry in reader:
        bounds.check(entry)
        name = clean_name(entry.name)
        content.update(_described(entry, name))
        # The folder itself stays what it is.
        if name:
            writer.write(name, entry, _hashed(reader.body(), content))
        progress()
    writer.finish()
    return f"sha256:{content.hexdigest()}"


def _described(entry: TarEntry, name: bytes) -> bytes:
    numbers = [entry.mode, entry.uid, entry.gid, entry.size, entry.mtime_ns, *entry.device]
    xattrs = sorted((key, value.hex()) for key, value in entry.xattrs.items())
    fields = [name.hex(), entry.type.hex(), entry.link_name.hex(), numbers, xattrs, entry.regions]
    return json.dumps(fields).encode()


def _hashed(body: Iterable[memoryview], content: hashlib._Hash) -> Iterator[memoryview]:
    for piece in body:
        content.update(piece)
        yield piece


def _skip_padding(stream: Readable) -> None:
    left = _MAX_PADDING
    while left > 0 and (block := stream.read(_BLOCK)):
        left -= len(block)
