"""Content-addressed blobs on disk, laid out as in an OCI image layout: `blobs/<algorithm>/<hex>`.

A blob is written aside, in `ingest/`, and renamed into place once its digest is known to be right, so that what lies
under `blobs/` is always whole. A file in `ingest/` is locked by its writer: one that nobody holds a lock on was left
by a process that died.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, cast

from stagewright.content.folders import make_private
from stagewright.errors import DamagedBlobError, IntegrityError, LostBlobError, NotFoundError, StoreError
from stagewright.image.digest import is_digest, sha256_digest, split_digest, verify_digest

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK = 1 << 20


class BlobWriter:
    """One blob on its way into the store. Leaving the `with` block without a commit discards it.

    `offset` is the number of bytes written so far: a broken download goes on behind them. Not for use by several
    threads at once, but that others may `follow`.
    """

    def __init__(self, store: BlobStore, expected: str | None, size: int | None) -> None:
        self._store = store
        self._expected = expected
        self._size = size
        self._algorithm = "sha256" if expected is None else split_digest(expected)[0]
        self._hash = hashlib.new(self._algorithm)
        self._path, self._file = store._create_ingest()
        self.offset = 0
        self._grown = threading.Condition()
        self._is_whole: bool | None = None
        if expected is not None:
            store._arriving[expected] = self

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.discard()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append `data` and return its length in bytes.

        Raises IntegrityError as soon as there is more than the expected size, StoreError where the disk refuses.
        """
        length = len(data)
        if self._size is not None and self.offset + length > self._size:
            raise IntegrityError(f"blob {self._name()} is longer than its {self._size} bytes")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise StoreError(f"cannot write blob {self._name()}: {error.strerror}") from error
        self._hash.update(data)
        with self._grown:
            self.offset += length
            self._grown.notify_all()
        return length

    def commit(self) -> str:
        """Put the blob into the store and return its digest.

        Raises IntegrityError, and puts nothing anywhere, where size or digest are not the expected ones; StoreError
        where the disk refuses.
        """
        if self._size is not None and self.offset != self._size:
            raise IntegrityError(f"blob {self._name()} has {self.offset} bytes, expected {self._size}")
        digest = f"{self._algorithm}:{self._hash.hexdigest()}"
        if self._expected is not None and digest != self._expected:
            raise IntegrityError(f"blob has digest {digest}, expected {self._expected}")
        target = self._store.path(digest)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._path, target)
            self._end(is_whole=True)
        except OSError as error:
            raise StoreError(f"cannot write blob {digest}: {error.strerror}") from error
        self._store.on_new(digest)
        return digest

    def discard(self) -> None:
        """Throw the blob away. Does nothing after a commit."""
        if self._file.closed:
            return
        self._path.unlink(missing_ok=True)
        try:
            self._end(is_whole=False)
        except OSError:  # What could not be written was not wanted, either.
            return

    def follow(self) -> BlobTail | None:
        """The blob as it is written, from its start; None once it is committed or discarded."""
        with self._grown:
            if self._is_whole is not None:
                return None
            # Not by its name, which it may be about to lose.
            return BlobTail(self, open(f"/proc/self/fd/{self._file.fileno()}", "rb", buffering=0))

    def wait_beyond(self, offset: int) -> int:
        """Wait until there is more than `offset` bytes, or until the end; answers how many more.

        None are the end of a blob that is in the store. Raises NotFoundError for one that was discarded.
        """
        with self._grown:
            while self.offset == offset and self._is_whole is None:
                self._grown.wait()
            if self.offset == offset and not self._is_whole:
                raise NotFoundError(f"blob {self._name()} did not come whole")
            return self.offset - offset

    def _end(self, *, is_whole: bool) -> None:
        if self._expected is not None and self._store._arriving.get(self._expected) is self:
            del self._store._arriving[self._expected]
        with self._grown:
            self._is_whole = is_whole
            self._grown.notify_all()
            self._file.close()

    def _name(self) -> str:
        return self._expected or "(not yet named)"


class BlobTail:
    """A blob that is read while another thread writes it. Used as a context manager.

    Its end comes once the blob is in the store, so with the right digest; until then its bytes are not verified.
    """

    def __init__(self, writer: BlobWriter, file: io.FileIO) -> None:
        self._writer = writer
        self._file = file
        self._offset = 0

    def __enter__(self) -> BlobTail:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def read(self, size: int, /) -> bytes:
        """The next bytes, waiting for them; raises NotFoundError where the writer has given up."""
        count = self._writer.wait_beyond(self._offset)
        data = self._file.read(min(size, count)) if count else b""
        self._offset += len(data)
        return data


class _VerifiedFile(io.RawIOBase):
    """A blob as it is read from its start: its end is an IntegrityError where the bytes were not those of its digest.

    So whoever copies it notices before the copy is whole.
    """

    def __init__(self, store: BlobStore, digest: str) -> None:
        super().__init__()
        self._store = store
        self._digest = digest
        self._file = store.open(digest)
        self._left = os.fstat(self._file.fileno()).st_size
        self._hash = hashlib.new(split_digest(digest)[0])
        if not self._left:
            # Who knows that there is nothing to read would never come to the end.
            self._check()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        count: int = self._file.readinto(view)  # type: ignore[attr-defined]
        self._hash.update(view[:count])
        self._left -= count
        if self._left <= 0 or not count:
            self._check()
        return count

    def _check(self) -> None:
        if self._hash.hexdigest() != split_digest(self._digest)[1]:
            self._store.discard_damaged(self._digest)
            raise DamagedBlobError(
                f"blob {self._digest} was damaged on the disk, and has been removed",
                hint="build again: it is made or fetched anew; stagewright check looks for more damage",
            )

    def close(self) -> None:
        self._file.close()
        super().close()


class BlobStore:
    """The blobs below `root`. Safe for use by several threads and several processes at once."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._ingest = root / "ingest"
        # The newest writer of this process for each blob that is on its way here.
        self._arriving: dict[str, BlobWriter] = {}
        # Is told each blob that was put here.
        self.on_new: Callable[[str], None] = lambda digest: None

    def path(self, digest: str) -> Path:
        """Where the blob lies or would lie. Raises IntegrityError where `digest` is not one."""
        algorithm, encoded = split_digest(digest)
        return self._blobs / algorithm / encoded

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is here, and has `size` bytes where that is known (power may have failed on a new one)."""
        try:
            found = self.path(digest).stat().st_size
        except FileNotFoundError:
            return False
        return size is None or found == size

    def size(self, digest: str) -> int:
        """The blob's size in bytes. Raises LostBlobError."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise LostBlobError(f"blob {digest} is not in the store") from None

    def open(self, digest: str) -> BinaryIO:
        """The blob, open for reading. Raises LostBlobError."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise LostBlobError(f"blob {digest} is not in the store") from None

    def open_verified(self, digest: str) -> BinaryIO:
        """As `open`, for what leaves the store: the read of the last bytes raises DamagedBlobError where it is damaged.

        A damaged blob is removed then, since the next build makes or fetches what is not there.
        """
        return cast(BinaryIO, io.BufferedReader(_VerifiedFile(self, digest), _BLOCK))

    def is_whole(self, digest: str) -> bool:
        """Whether the blob's bytes are what its digest says; False where it is not there."""
        try:
            with self.open(digest) as file:
                algorithm, encoded = split_digest(digest)
                return hashlib.file_digest(file, algorithm).hexdigest() == encoded  # type: ignore[arg-type]
        except (NotFoundError, OSError):
            return False

    def discard_damaged(self, digest: str) -> bool:
        """Remove the blob if its bytes are not what its digest says; whether it is gone."""
        if self.is_whole(digest):
            return False
        self.delete(digest)
        return True

    def read(self, digest: str, limit: int = 8 << 20) -> bytes:
        """The bytes of a small blob, verified.

        Raises NotFoundError, and IntegrityError above `limit` bytes or where the blob is damaged.
        """
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise IntegrityError(f"blob {digest} is larger than {limit} bytes")
        verify_digest(data, digest)
        return data

    def write(self, data: bytes) -> str:
        """Store `data` and return its sha256 digest; what is there already is left as it is."""
        digest = sha256_digest(data)
        try:
            if self.path(digest).read_bytes() == data:
                return digest
        except OSError:
            # It is not there, or something is wrong that writing it will tell.
            pass
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def writer(self, *, expected: str | None = None, size: int | None = None) -> BlobWriter:
        """A writer for a new blob, which must turn out to have the digest `expected` and `size` bytes where given."""
        return BlobWriter(self, expected, size)

    def follow(self, digest: str) -> BlobTail | None:
        """A blob to be read while this process writes it; None where it does not."""
        writer = self._arriving.get(digest)
        return None if writer is None else writer.follow()

    def delete(self, digest: str) -> None:
        """Remove the blob; one that is not there is fine."""
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[tuple[str, int]]:
        """All blobs: digest and size in bytes, in no order."""
        for algorithm in ("sha256", "sha512"):
            try:
                entries = os.scandir(self._blobs / algorithm)
            except FileNotFoundError:
                continue
            with entries:
                for entry in entries:
                    digest = f"{algorithm}:{entry.name}"
                    if not is_digest(digest):
                        continue
                    try:
                        yield digest, entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue

    def clean(self) -> int:
        """Remove what dead processes left in `ingest/`, and return how many bytes that were."""
        freed = 0
        try:
            names = os.listdir(self._ingest)
        except FileNotFoundError:
            return 0
        for name in names:
            path = self._ingest / name
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                size = os.fstat(descriptor).st_size
                path.unlink(missing_ok=True)
                freed += size
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)
        return freed

    def _create_ingest(self) -> tuple[Path, io.FileIO]:
        try:
            while True:
                path = self._ingest / os.urandom(16).hex()
                try:
                    # Without a buffer: what was written can be read.
                    file = path.open("xb", buffering=0)
                except FileNotFoundError:
                    make_private(self._ingest.parent)
                    self._ingest.mkdir(exist_ok=True)
                    continue
                fcntl.flock(file, fcntl.LOCK_EX)
                # A clean() that came between creation and lock took the file for a dead one.
                if os.fstat(file.fileno()).st_nlink:
                    return path, file
                file.close()
        except OSError as error:
            raise StoreError(f"cannot write to {self._ingest}: {error.strerror}") from error
