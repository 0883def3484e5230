"""Digests of the files of a tree, and the stat index that spares reading a build context's files again.

The index is what git's is: a file whose inode, size and times are those of the last look has the content of the last
look. A file that changed so shortly before it was read that another change might leave the same times is not trusted.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import stat
import sys
import threading
import time
from pathlib import Path

from stagewright.sources.tree import Entry, Tree

_BLOCK = 1 << 20
# The coarsest clock that a supported kernel stamps files with ticks every 10 ms.
_RACY_NS = 50_000_000
_FORMAT = ("stagewright stat index", 1, sys.version_info[:2])

_Stamp = tuple[int, int, int, int]


class FileDigests:
    """Digests of files by reading them. The base of the index, and enough for snapshots, which are read once."""

    def digest(self, tree: Tree, entry: Entry) -> bytes:
        """The 32 bytes that stand for a regular file's content and extended attributes."""
        handle = tree.open(entry.path)
        try:
            return _hash_open_file(handle)
        finally:
            os.close(handle)

    def save(self) -> None:
        """Keep what was learnt for the next build."""


class StatIndex(FileDigests):
    """Digests of a build context's files, remembered in the file `path`. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, tuple[_Stamp, bytes]] = {}
        self._seen: dict[str, tuple[_Stamp, bytes]] = {}
        self._changed = False
        self._load()

    def digest(self, tree: Tree, entry: Entry) -> bytes:
        info = entry.info
        stamp = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        known = self._known.get(entry.path)
        if known is not None and known[0] == stamp:
            self._seen[entry.path] = known
            return known[1]
        handle = tree.open(entry.path)
        try:
            digest = _hash_open_file(handle)
            after = os.fstat(handle)
        finally:
            os.close(handle)
        # The stamp counts only if it also held at the end, and was old enough then to tell the next change apart.
        settled = time.time_ns() - max(info.st_ctime_ns, info.st_mtime_ns) > _RACY_NS
        if settled and stamp == (after.st_ino, after.st_size, after.st_mtime_ns, after.st_ctime_ns):
            with self._lock:
                self._seen[entry.path] = (stamp, digest)
                self._changed = True
        return digest

    def save(self) -> None:
        """Write the index if it learnt something. Files not looked at this time are kept while they are few."""
        with self._lock:
            if not self._changed:
                return
            merged = self._known | self._seen
            kept = merged if len(merged) <= 2 * len(self._seen) + 1000 else self._seen
            temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(marshal.dumps((_FORMAT, kept)))
            os.replace(temporary, self._path)
            self._changed = False

    def _load(self) -> None:
        try:
            loaded = marshal.loads(self._path.read_bytes())  # noqa: S302 - the state directory is our own
        except (OSError, ValueError, EOFError, TypeError):
            # An index that is missing or cut short costs reading the files again, nothing else.
            return
        if isinstance(loaded, tuple) and len(loaded) == 2 and loaded[0] == _FORMAT:
            self._known = loaded[1]


def _hash_open_file(handle: int) -> bytes:
    content = hashlib.sha256()
    while block := os.read(handle, _BLOCK):
        content.update(block)
    names = os.listxattr(handle)
    for name in sorted(names):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            content.update(b"\0" + os.fsencode(name) + b"\0" + os.getxattr(handle, name))
    return content.digest()


def describe(tree: Tree, entry: Entry, path: str, digests: FileDigests) -> str:
    """One line that stands for all of an entry that a copy of it under the name `path` takes over, but its times."""
    info = entry.info
    uid, gid = tree.owner or (info.st_uid, info.st_gid)
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFREG:
        what = digests.digest(tree, entry).hex()
    elif kind == stat.S_IFLNK:
        what = tree.readlink(entry.path)
    else:
        what = str(info.st_rdev) if kind in (stat.S_IFCHR, stat.S_IFBLK) else ""
    return f"{path}\0{info.st_mode:o}\0{uid}\0{gid}\0{what}\n"
