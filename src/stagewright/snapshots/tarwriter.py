"""A folder becomes a tar stream: a layer's changes with their whiteouts, or a whole root file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from stagewright.errors import StoreError, system_reason
from stagewright.snapshots import overlay, owners, tarreader
from stagewright.snapshots.sinks import ChunkSink
from stagewright.snapshots.tarheader import END, header, marker
from stagewright.snapshots.tarreader import BLOCK
from stagewright.snapshots.tree import walk

_CAPABILITY = "security.capability"
# Zeros that are only claimed are written out in a layer; beyond this nobody would live to see the end of it.
_MAX_HOLES = 256 << 30
_TYPES = {
    stat.S_IFREG: tarreader.REGULAR,
    stat.S_IFDIR: tarreader.DIRECTORY,
    stat.S_IFLNK: tarreader.SYMLINK,
    stat.S_IFCHR: tarreader.CHARACTER_DEVICE,
    stat.S_IFBLK: tarreader.BLOCK_DEVICE,
    stat.S_IFIFO: tarreader.FIFO,
}


def write_tree(
    folder: str | bytes, sink: ChunkSink, *, epoch: int | None = None, progress: Callable[[int], None] | None = None
) -> None:
    """Write all that is in `folder` to the sink, as containerd writes layers, and the archive's end.

    Each directory's members come in byte order behind it. Overlay whiteouts become `.wh.` files, opaque directories get
    `.wh..wh..opq`; sockets are left out; files with several names in the folder are hard links to the first. Times are
    whole seconds, those later than `epoch` (Unix seconds) become `epoch`. Owners are numeric. `progress` is told the
    bytes of files written so far. Raises StoreError where a file cannot be read.
    """
    first_names: dict[tuple[int, int], bytes] = {}
    written = 0
    try:
        for name, path, info in walk(folder):
            mtime_s = info.st_mtime_ns // 1_000_000_000
            if epoch is not None:
                mtime_s = min(mtime_s, epoch)
            if overlay.is_whiteout(info, path):
                parent, _, base = name.rpartition(b"/")
                sink.write(marker((parent + b"/" if parent else b"") + b".wh." + base, mtime_s))
                continue
            if stat.S_ISSOCK(info.st_mode):
                continue
            written += _write_member(sink, name, path, info, mtime_s, first_names)
            if progress is not None and info.st_size:
                progress(written)
        sink.write(END)
    except OSError as error:
        raise StoreError(f"cannot read a file of a layer: {system_reason(error)}") from error


def _write_member(
    sink: ChunkSink,
    name: bytes,
    path: bytes,
    info: os.stat_result,
    mtime_s: int,
    first_names: dict[tuple[int, int], bytes],
) -> int:
    """Write one member and answer the bytes of its content."""
    kind = _TYPES[stat.S_IFMT(info.st_mode)]
    link_name, size = b"", 0
    if kind == tarreader.SYMLINK:
        link_name = os.readlink(path)
    elif kind == tarreader.REGULAR:
        size = info.st_size
        if size - info.st_blocks * 512 > _MAX_HOLES:
            raise StoreError(
                f"/{os.fsdecode(name)} claims {size} bytes, most of them holes, which a layer would hold as zeros",
                hint="remove it in the step that makes it, or leave it out of the copy",
            )
    if info.st_nlink > 1 and kind != tarreader.DIRECTORY:
        first = first_names.setdefault((info.st_dev, info.st_ino), name)
        if first != name:
            kind, link_name, size = tarreader.HARD_LINK, first, 0
    is_device = kind in (tarreader.CHARACTER_DEVICE, tarreader.BLOCK_DEVICE)
    uid, gid = owners.read(info, path)
    sink.write(
        header(
            name + b"/" if kind == tarreader.DIRECTORY else name,
            kind,
            mode=stat.S_IMODE(info.st_mode),
            uid=uid,
            gid=gid,
            size=size,
            mtime_s=mtime_s,
            link_name=link_name,
            device=(os.major(info.st_rdev), os.minor(info.st_rdev)) if is_device else (0, 0),
            xattrs={} if kind == tarreader.HARD_LINK else _xattrs(path),
        )
    )
    if kind == tarreader.DIRECTORY and overlay.is_opaque(path):
        sink.write(marker(name + b"/.wh..wh..opq", mtime_s))
    if size:
        _write_content(sink, path, size)
    return size


def _write_content(sink: ChunkSink, path: bytes, size: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        left = size
        while left:
            count = os.readv(fd, [sink.space()[:left]])
            if not count:
                raise StoreError(f"{os.fsdecode(path)} became shorter while it was read")
            sink.filled(count)
            left -= count
    finally:
        os.close(fd)
    if size % BLOCK:
        sink.write(bytes(-size % BLOCK))


def _xattrs(path: bytes) -> dict[str, bytes]:
    """The extended attributes that a layer carries: capabilities alone, as in the images of other builders.

    Labels of security modules and `user.` notes of a checkout are the machine's, and would make equal inputs differ.
    """
    if _CAPABILITY not in os.listxattr(path, follow_symlinks=False):
        return {}
    return {_CAPABILITY: os.getxattr(path, _CAPABILITY, follow_symlinks=False)}
