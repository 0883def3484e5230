"""Digests of the files of a tree, and the stat index that spares reading a build context's files again.

The index is what git's is: a file whose inode, size and times are those of the last look has the content of the last
look. A file that changed so shortly before it was read that another change might leave the same times is not trusted.
The kernel sets the change time (ctime) at each change of content, attributes or owner, and nobody else can.
"""

from __future__ import annotations

import errno
import hashlib
import marshal
import os
import stat
import struct
import sys
import threading
import time
from binascii import crc32
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from stagewright.content.folders import make_private
from stagewright.errors import StoreError
from stagewright.snapshots.filetable import FileTable
from stagewright.snapshots.holes import next_data
from stagewright.snapshots.overlay import is_overlay_xattr
from stagewright.sources.tree import Entry, Tree

_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)
# Most files are of few sizes.
_SIZES = 1024
# The coarsest clock that a supported kernel stamps files with ticks every 10 ms.
_RACY_NS = 50_000_000
_FORMAT = f"stagewright stat index 6 {sys.version_info[:2]}\n".encode()

# Inode, size, times of the last change of the content and of anything (ns). What the index notes on a file is a stamp
# and a digest.
_STAMP = struct.Struct("<QQqq")
_stamp = _STAMP.pack
_NOTE_BYTES = _STAMP.size + 32


class FileDigests:
    """Digests of files by reading them. The base of the index, and enough for snapshots, which are read once."""

    def digest(self, tree: Tree, entry: Entry) -> bytes:
        """The 32 bytes that stand for a regular file's content and extended attributes."""
        handle, info = tree.open_file(entry.path)
        try:
            return _hash_open_file(handle, info)
        finally:
            os.close(handle)

    def known(self, entries: Sequence[Entry]) -> list[bytes] | None:
        """The digests of files of one folder in the order of a walk; None unless all are known unread."""
        return None

    def save(self) -> None:
        """Keep what was learnt for the next build."""


class StatIndex(FileDigests):
    """Digests of a build context's files, remembered in the file `path`. Thread-safe.

    `on_read` is told the bytes of files that were read so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._files = self._load()
        self._changed = False
        self._bytes_read = 0
        self.on_read: Callable[[int], None] | None = None

    def digest(self, tree: Tree, entry: Entry) -> bytes:
        info = entry.info
        stamp = _stamp(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        known = self._files.get(entry.path)
        if known is not None and known.startswith(stamp):
            return known[_STAMP.size :]
        opened_ns = time.time_ns()
        handle, info = tree.open_file(entry.path)
        try:
            digest = _hash_open_file(handle, info)
            after = os.fstat(handle)
        finally:
            os.close(handle)
        is_same = stamp == _stamp(after.st_ino, after.st_size, after.st_mtime_ns, after.st_ctime_ns)
        # The stamp counts only if it also held at the end, and was old enough at the beginning for any change from
        # then on to leave another one.
        settled = opened_ns - entry.info.st_ctime_ns > _RACY_NS
        with self._lock:
            self._bytes_read += after.st_size
            if settled and is_same:
                self._files.put(entry.path, stamp + digest)
                self._changed = True
            if self.on_read is not None:
                self.on_read(self._bytes_read)
        return digest

    def known(self, entries: Sequence[Entry]) -> list[bytes] | None:
        """See `FileDigests.known`."""
        infos = [entry.info for entry in entries]
        stamps = [_stamp(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns) for info in infos]
        notes = self._files.run([entry.path for entry in entries], stamps)
        return None if notes is None else [note[_STAMP.size :] for note in notes]

    def save(self) -> None:
        """Write the index if it learnt something. Files not looked at this time are kept while they are few.

        Raises StoreError where the disk refuses.
        """
        with self._lock:
            if not self._changed:
                return
            data = marshal.dumps(self._files.pack())
            temporary = f"{self._path}.{os.urandom(6).hex()}"
            try:
                make_private(self._path.parent)
                with open(temporary, "wb") as file:
                    file.write(_FORMAT + crc32(data).to_bytes(4, "big"))
                    file.write(data)
                os.replace(temporary, self._path)
            except OSError as error:
                _unlink(temporary)
                raise StoreError(f"cannot write {self._path}: {error.strerror}") from error
            self._changed = False

    def _load(self) -> FileTable:
        # An index that is damaged or of another version costs reading the files again, nothing else.
        data = _index_data(self._path)
        return FileTable(_NOTE_BYTES, None if data is None else marshal.loads(data))  # noqa: S302 - it is our own


def is_readable(index: Path) -> bool:
    """Whether a file is a stat index of this version, as it was written."""
    return _index_data(index) is not None


def _index_data(path: Path) -> memoryview | None:
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    head, data = content[: len(_FORMAT) + 4], content[len(_FORMAT) + 4 :]
    return data if head == _FORMAT + crc32(data).to_bytes(4, "big") else None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # It was never made.
        return


def _hash_open_file(handle: int, info: os.stat_result) -> bytes:
    size = info.st_size
    whole = hashlib.sha256(_hash_block(handle, size) if size <= _BLOCK else _hash_content(handle, info))
    for name, value in read_xattrs(handle):
        whole.update(b"\0%b\0%d\0%b" % (os.fsencode(name), len(value), value))
    return whole.digest()


def _hash_content(handle: int, info: os.stat_result) -> bytes:
    """The digest of the bytes that the file has now, which is that of an equal file without holes.

    Blocks of zeros count by their places alone: a file of a few bytes may claim exabytes of them.
    """
    has_holes = info.st_blocks * 512 < info.st_size
    content, zeros = hashlib.sha256(), hashlib.sha256(b"%d" % info.st_size)
    # The last block is read in any case, so that only whole blocks are left out.
    last = (info.st_size - 1) // _BLOCK * _BLOCK
    at, zeros_from = 0, -1
    while at < info.st_size:
        start = min(last, next_data(handle, at) // _BLOCK * _BLOCK) if has_holes else at
        block = os.pread(handle, _BLOCK, start)
        while block and len(block) < min(_BLOCK, info.st_size - start):
            more = os.pread(handle, _BLOCK - len(block), start + len(block))
            if not more:
                break
            block += more
        is_zero = start < last and block == _ZEROS
        if zeros_from < 0 and (start > at or is_zero):
            zeros_from = at
        if not is_zero:
            if zeros_from >= 0:
                zeros.update(b" %d-%d" % (zeros_from, start))
            zeros_from = -1
            content.update(block)
        at = start + _BLOCK
    content.update(zeros.digest())
    return content.digest()


def _hash_block(handle: int, size: int) -> bytes:
    """As `_hash_content`, of a file of one block at most, as nearly all are."""
    data = os.pread(handle, size, 0)
    while len(data) < size and (more := os.pread(handle, size - len(data), len(data))):
        data += more
    return hashlib.sha256(data + _hash_of_number(size)).digest()


@lru_cache(_SIZES)
def _hash_of_number(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def read_xattrs(handle: int) -> list[tuple[str, bytes]]:
    """The extended attributes of an open file or folder in the order of their names, but for overlayfs's own."""
    try:
        names = os.listxattr(handle)
        if not names:
            return []
        return [(name, os.getxattr(handle, name)) for name in sorted(names) if not is_overlay_xattr(name)]
    except OSError as error:
        # Some file systems have none.
        if error.errno == errno.ENOTSUP:
            return []
        raise


def describe(tree: Tree, entry: Entry, path: str, digests: FileDigests) -> str:
    """A record that stands for all that a copy of an entry under the name `path` takes over, but its times.

    Always five fields that end in NUL, so that no two rows of entries have one text.
    """
    info = entry.info
    mode = info.st_mode
    uid, gid = tree.owner or (info.st_uid, info.st_gid)
    kind = mode & 0o170000
    if kind == stat.S_IFREG:
        what = digests.digest(tree, entry).hex()
    elif kind == stat.S_IFLNK:
        what = tree.readlink(entry.path)
    elif kind == stat.S_IFDIR:
        what = _folder_xattrs(tree, entry)
    else:
        what = str(info.st_rdev) if kind in (stat.S_IFCHR, stat.S_IFBLK) else ""
    return f"{path}\0{mode:o}\0{uid}\0{gid}\0{what}\0"


def _folder_xattrs(tree: Tree, entry: Entry) -> str:
    handle = tree.open_folder(entry.path)
    try:
        return ",".join(
            f"{name.encode(errors='surrogateescape').hex()}={value.hex()}" for name, value in read_xattrs(handle)
        )
    finally:
        os.close(handle)
