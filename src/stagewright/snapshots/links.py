"""Hard links between snapshots: a file that an older snapshot has already costs a new one no second copy.

A committed snapshot never changes, so its files may have names in others. Two rules keep that out of sight. A link has
the content, owner, mode, times and attributes that a copy would have. And within the layers of one merged tree no file
has two names for it: a step would take them for two names of one file, and a copy of both for such a pair. So of each
folder it is known in which folders its files were made, and a draft gets no links to what lies below it already.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping

from stagewright.content.db import Database
from stagewright.records import dataclass
from stagewright.snapshots.changes import Below, directories_below
from stagewright.snapshots.filetable import FileTable
from stagewright.snapshots.overlay import is_overlay_xattr
from stagewright.snapshots.tree import copy_entry, copy_metadata, walk

_DIGEST_BYTES = 32
_SOME_PATHS = 1 << 16
# Too many links, somebody else's file, a file system that has none, or the snapshot is being removed.
_REFUSALS = (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOENT)


@dataclass(slots=True)
class Found:
    """A regular file of a snapshot: its absolute path and its lstat."""

    path: bytes
    info: os.stat_result


class SharedFiles:
    """The tables `linked_files` and `context_copies`. Folders go by their names, as in `layer_blobs`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def origins(self, folders: Iterable[str]) -> set[str]:
        """The folders in which the files of these folders were made: these, and those that they have links to."""
        names = set(folders)
        marks = ",".join("?" * len(names))
        rows = self._db.query(f"SELECT origin FROM linked_files WHERE dir IN ({marks})", names)  # noqa: S608
        return names | {origin for (origin,) in rows}

    def record(self, folder: str, origins: Iterable[str]) -> None:
        """Note that a folder has links to files that were made in `origins`."""
        for origin in origins:
            self._db.execute("INSERT OR IGNORE INTO linked_files (dir, origin) VALUES (?, ?)", (folder, origin))

    def record_copy(self, source: str, folder: str, paths: bytearray, digests: bytearray) -> None:
        """Note what the copy `source` has made last: a folder, and the 32-byte digests of its files, joined.

        `paths` are those of the files in the folder, each with a NUL behind it.
        """
        self._db.execute(
            "INSERT OR REPLACE INTO context_copies (source, dir, paths, digests) VALUES (?, ?, ?, ?)",
            (source, folder, memoryview(paths)[:-1], digests),
        )

    def last_copy(self, source: str) -> tuple[str, FileTable] | None:
        """The folder and the digests of files that `record_copy` was told last; None where there is nothing."""
        rows = self._db.query("SELECT dir, paths, digests FROM context_copies WHERE source = ?", (source,))
        if not rows:
            return None
        folder, paths, digests = rows[0]
        files = FileTable(_DIGEST_BYTES)
        start = at = 0
        while start < len(paths):
            # Some paths at a time, since a context may have hundreds of thousands of files.
            end = paths.find(b"\0", start + _SOME_PATHS)
            end = len(paths) if end < 0 else end
            for path in os.fsdecode(paths[start:end]).split("\0"):
                files.put(path, digests[at : at + _DIGEST_BYTES])
                at += _DIGEST_BYTES
            start = end + 1
        return folder, files

    def forget(self, folder: str) -> None:
        """The folder is gone."""
        self._db.execute("DELETE FROM linked_files WHERE dir = ?", (folder,))
        self._db.execute("DELETE FROM context_copies WHERE dir = ?", (folder,))


class Links:
    """The links of one draft. `lowers` are the folders below it."""

    def __init__(self, shared: SharedFiles, lowers: Iterable[str]) -> None:
        self._shared = shared
        self._taken = shared.origins(map(os.path.basename, lowers))
        # Which inodes they are, 64 in one number: there may be hundreds of thousands, mostly behind each other.
        self._files: dict[int, int] = {}
        self.origins: set[str] = set()
        """The folders in which the files were made that the draft has links to."""

    def giver(self, lowers: Iterable[str]) -> Giver:
        """The merged tree of some layers (absolute folders, topmost first), as far as it may be linked to."""
        own: dict[str, set[str]] = {}
        for lower in lowers:
            origins = self._shared.origins([os.path.basename(lower)])
            own[lower] = set() if origins & self._taken else origins
        return Giver(self, own)

    def make(self, found: Found, origins: set[str], folder: int, name: str) -> bool:
        """Make the file `name` in an open folder of the draft; False where it has to be a copy."""
        group, bit = found.info.st_ino >> 6, 1 << (found.info.st_ino & 63)
        known = self._files.get(group, 0)
        if known & bit:
            # As copies they would be files apart.
            return False
        try:
            os.link(found.path, name, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in _REFUSALS:
                return False
            raise
        self._files[group] = known | bit
        self.origins |= origins
        return True


class Giver:
    """Looks up files in layers, mostly one after the other in the order of a walk.

    `origins` are the layers, topmost first, each with the folders in which its files were made; with none where nothing
    may be linked to.
    """

    def __init__(self, links: Links, origins: Mapping[str, set[str]]) -> None:
        self._links = links
        self._origins = {os.fsencode(lower) + b"/": made for lower, made in origins.items()}
        self._useful = any(origins.values())
        # The layer of the file that was linked to last.
        self._last: tuple[bytes, set[str]] = (b"none", set())
        # The folders on the way to the last file, from the root on.
        self._way: list[tuple[bytes, Below]] = [(b"", [os.fsencode(lower) for lower in origins])]

    def find(self, path: bytes) -> Found | None:
        """The regular file at a path without links, relative to the root; None where there is none to be linked to."""
        if not self._useful:
            return None
        folder, _, name = path.rpartition(b"/")
        for layer in self._folder(folder):
            candidate = b"%b/%b" % (layer, name)
            try:
                info = os.stat(candidate, follow_symlinks=False)
            except FileNotFoundError:
                continue
            return Found(candidate, info) if stat.S_ISREG(info.st_mode) else None
        return None

    def link(self, found: Found, folder: int, name: str) -> bool:
        """See `Links.make`."""
        layer, origins = self._last
        if not found.path.startswith(layer):
            self._last = next(item for item in self._origins.items() if found.path.startswith(item[0]))
            origins = self._last[1]
        return bool(origins) and self._links.make(found, origins, folder, name)

    def _folder(self, path: bytes) -> Below:
        known, below = self._way[-1]
        while known and path != known and not path.startswith(known + b"/"):
            self._way.pop()
            known, below = self._way[-1]
        for part in path[len(known) :].strip(b"/").split(b"/") if path != known else ():
            known = b"%b/%b" % (known, part) if known else part
            below = directories_below(below, part)
            self._way.append((known, below))
        return below


def copy_layer(source: str, target: str) -> None:
    """Copy a layer's folder, overlayfs's marks too, into an empty folder; names of one file stay that."""
    names: dict[int, bytes] = {}
    folders: list[tuple[bytes, bytes]] = [(os.fsencode(source), os.fsencode(target))]
    for name, path, info in walk(source):
        copy = os.path.join(os.fsencode(target), name)
        is_folder = stat.S_ISDIR(info.st_mode)
        first = names.setdefault(info.st_ino, copy) if info.st_nlink > 1 and not is_folder else copy
        if first != copy:
            os.link(first, copy, follow_symlinks=False)
            continue
        copy_entry(path, copy)
        for attribute in os.listxattr(path, follow_symlinks=False):
            if is_overlay_xattr(attribute):
                value = os.getxattr(path, attribute, follow_symlinks=False)
                os.setxattr(copy, attribute, value, follow_symlinks=False)
        if is_folder:
            folders.append((path, copy))
    # Filling them has changed their times.
    for path, copy in reversed(folders):
        copy_metadata(path, copy)
