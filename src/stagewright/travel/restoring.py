"""A cache mount's folder is made of a list of files and the packs of their contents."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from typing import BinaryIO

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError
from stagewright.image.descriptor import Descriptor
from stagewright.snapshots import owners
from stagewright.travel.files import PACK_TYPE, Entry, FileList, Pack

_BLOCK = 1 << 20
_FETCHES_AT_ONCE = 4


def restore(
    files: FileList,
    folder: str,
    blobs: BlobStore,
    fetch: Callable[[Descriptor], None],
    check: Callable[[], None],
) -> None:
    """Fill a folder, which is empty and nobody else's, with the files of a list, and all that is theirs.

    `fetch` has a blob in the store. `check` is called now and then, and may raise. Each content is checked against its
    digest. The list has been checked to lead nowhere else (see `FileList.from_bytes`). Raises IntegrityError, OSError.
    """
    from concurrent.futures import ThreadPoolExecutor

    writer = _Writer(files, folder)
    writer.make_folders()
    with ThreadPoolExecutor(_FETCHES_AT_ONCE, "mount-download") as pool:
        fetching = [pool.submit(fetch, Descriptor(PACK_TYPE, pack.digest, pack.size)) for pack in files.packs]
        try:
            for pack, fetched in zip(files.packs, fetching, strict=True):
                fetched.result()
                with blobs.open(pack.digest) as stream:
                    writer.write_contents(pack, stream, check)
        finally:
            pool.shutdown(cancel_futures=True)
    writer.finish()


class _Writer:
    def __init__(self, files: FileList, folder: str) -> None:
        self._folder = os.fsencode(folder)
        self._entries = files.entries
        self._by_content: dict[str, list[Entry]] = {}
        for entry in files.entries:
            if entry.kind == "file":
                self._by_content.setdefault(entry.target, []).append(entry)

    def make_folders(self) -> None:
        for entry in self._entries:
            if entry.kind == "dir" and entry.path:
                os.mkdir(self._path(entry.path), 0o700)

    def write_contents(self, pack: Pack, stream: BinaryIO, check: Callable[[], None]) -> None:
        """Write all files that have the contents of a pack."""
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(stream) as source:
                for digest, size in pack.contents:
                    paths = [self._path(entry.path) for entry in self._by_content.pop(digest, [])]
                    _copy(source.read, digest, size, paths[0] if paths else None, check)
                    for path in paths[1:]:
                        shutil.copyfile(paths[0], path)
                if source.read(1):
                    raise IntegrityError(f"pack {pack.digest} of a cache mount is longer than its list says")
        except zstandard.ZstdError as error:
            raise IntegrityError(f"pack {pack.digest} of a cache mount is damaged: {error}") from None

    def finish(self) -> None:
        """Make the links, and give each file what it has beside its content; folders last, which all else changes."""
        for entry in self._entries:
            if entry.kind == "link":
                os.symlink(os.fsencode(entry.target), self._path(entry.path))
            elif entry.kind == "hard":
                os.link(self._path(entry.target), self._path(entry.path), follow_symlinks=False)
        for entry in reversed(self._entries):
            if entry.kind != "hard":
                path = self._path(entry.path)
                owners.change(path, entry.uid, entry.gid)
                if entry.kind != "link":
                    os.chmod(path, entry.mode)
                    # A change of the owner takes capabilities away.
                    _set_xattrs(path, entry)
                os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)

    def _path(self, path: str) -> bytes:
        return os.path.join(self._folder, os.fsencode(path)) if path else self._folder


def _set_xattrs(path: bytes, entry: Entry) -> None:
    for name, value in entry.xattrs:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            # The file system here has none.
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise


def _copy(read: Callable[[int], bytes], digest: str, size: int, path: bytes | None, check: Callable[[], None]) -> None:
    """Take the next content of a pack, and write it to a new file where there is one to write."""
    state = hashlib.new(digest.partition(":")[0])
    with open(os.devnull if path is None else path, "wb" if path is None else "xb") as file:
        while size:
            check()
            block = read(min(size, _BLOCK))
            if not block:
                raise IntegrityError("pack of a cache mount is shorter than its list says")
            size -= len(block)
            state.update(block)
            file.write(block)
    if state.hexdigest() != digest.partition(":")[2]:
        raise IntegrityError(f"a file of a cache mount is not the content {digest}")
