"""A cache mount's folder becomes a list of files and packs of their contents; what another cache has is left there."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from typing import BinaryIO

from stagewright import privilege
from stagewright.content.blobs import BlobStore
from stagewright.errors import StoreError
from stagewright.snapshots import owners
from stagewright.snapshots.tree import walk
from stagewright.travel.files import Entry, FileList, Pack, has_place

_BLOCK = 1 << 20
_LEVEL = 3
# A pack ends with a content that makes it this large, or with one whose digest says so: what comes between two that
# say so changes the packs between them and no other.
_MOST = 8 << 20
_LEAST = 512 << 10
_ENDING = 32
# A file of this size and more that has less than half of it on disk would grow on its way.
_SPARSE = 1 << 30


def pack_folder(
    folder: str,
    blobs: BlobStore,
    known: Sequence[Pack],
    check: Callable[[], None],
    left_out: Callable[[str], None],
) -> FileList:
    """The list of a folder, which nobody changes meanwhile, and its new packs in the blob store.

    `known` are packs that need not be made, of which those are used that the folder still has half of. `check` is
    called now and then, and may raise. `left_out` is told the paths of what can't travel: sparse files of gigabytes.
    Sockets, pipes and devices are left out without a word. Equal folders give equal lists. Raises StoreError.
    """
    privilege.require()
    try:
        entries, sources = _scan(os.fsencode(folder), check, left_out)
        kept = _still_used(known, {digest: size for digest, (_, size) in sources.items()})
        there = {digest for pack in kept for digest, _ in pack.contents}
        new = _group([(digest, size) for digest, (_, size) in sources.items() if digest not in there])
        made = [_make_pack(group, sources, blobs, check) for group in new]
    except OSError as error:
        raise StoreError(f"cannot read the cache mount in {folder}: {error}") from error
    packs = sorted([*kept, *made], key=lambda pack: pack.digest)
    return FileList(tuple(entries), tuple(packs))


def _scan(
    folder: bytes, check: Callable[[], None], left_out: Callable[[str], None]
) -> tuple[list[Entry], dict[str, tuple[bytes, int]]]:
    """The entries below a folder, and for each content by its digest a path that has it and its size."""
    entries = [_entry("", os.lstat(folder), folder, "dir")]
    sources: dict[str, tuple[bytes, int]] = {}
    first_names: dict[tuple[int, int], str] = {}
    for path, whole, info in walk(folder):
        check()
        name = os.fsdecode(path)
        is_file, is_link = stat.S_ISREG(info.st_mode), stat.S_ISLNK(info.st_mode)
        if not (is_file or is_link or stat.S_ISDIR(info.st_mode)):
            continue
        if is_file and info.st_size >= _SPARSE and info.st_blocks * 512 < info.st_size // 2:
            left_out(name)
            continue
        if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
            first = first_names.setdefault((info.st_dev, info.st_ino), name)
            if first != name:
                entries.append(Entry(name, "hard", target=first))
                continue
        if is_file:
            digest = _digest(whole, check)
            sources.setdefault(digest, (whole, info.st_size))
            entries.append(_entry(name, info, whole, "file", digest))
        elif is_link:
            entries.append(_entry(name, info, whole, "link", os.fsdecode(os.readlink(whole))))
        else:
            entries.append(_entry(name, info, whole, "dir"))
    return entries, sources


def _entry(name: str, info: os.stat_result, path: bytes, kind: str, target: str = "") -> Entry:
    uid, gid = owners.read(info, path)
    mode = 0o777 if kind == "link" else stat.S_IMODE(info.st_mode)
    xattrs = () if kind == "link" else _xattrs(path)
    return Entry(name, kind, mode, uid, gid, info.st_mtime_ns, target, xattrs)  # type: ignore[arg-type]


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    try:
        names = sorted(filter(has_place, os.listxattr(path, follow_symlinks=False)))
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    except OSError as error:
        # Some file systems have none.
        if error.errno == errno.ENOTSUP:
            return ()
        raise


def _open(path: bytes) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb")


def _digest(path: bytes, check: Callable[[], None]) -> str:
    state = hashlib.sha256()
    with _open(path) as file:
        while block := file.read(_BLOCK):
            check()
            state.update(block)
    return f"sha256:{state.hexdigest()}"


def _still_used(known: Sequence[Pack], sizes: dict[str, int]) -> list[Pack]:
    """The packs that are worth to be kept, with no content twice."""
    kept: list[Pack] = []
    there: set[str] = set()
    for pack in sorted(known, key=lambda pack: pack.digest):
        new = {digest: size for digest, size in pack.contents if digest in sizes and digest not in there}
        if new and sum(new.values()) * 2 >= sum(size for _, size in pack.contents):
            kept.append(pack)
            there.update(new)
    return kept


def _group(contents: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    groups: list[list[tuple[str, int]]] = []
    group: list[tuple[str, int]] = []
    total = 0
    for digest, size in contents:
        group.append((digest, size))
        total += size
        if total >= _MOST or (total >= _LEAST and int(digest[-2:], 16) < _ENDING):
            groups.append(group)
            group, total = [], 0
    return [*groups, group] if group else groups


def _make_pack(
    group: Sequence[tuple[str, int]],
    sources: dict[str, tuple[bytes, int]],
    blobs: BlobStore,
    check: Callable[[], None],
) -> Pack:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
    with blobs.writer() as writer:
        for digest, _ in group:
            state = hashlib.sha256()
            with _open(sources[digest][0]) as file:
                while block := file.read(_BLOCK):
                    check()
                    state.update(block)
                    writer.write(compressor.compress(block))
            if f"sha256:{state.hexdigest()}" != digest:
                raise StoreError(f"{os.fsdecode(sources[digest][0])} changes while it is exported")
        writer.write(compressor.flush())
        return Pack(writer.commit(), writer.offset, tuple(group))
