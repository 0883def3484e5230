"""Where a file system puts new folders, and with them the files in them.

Only ext4 without a journal needs care, as virtual machines have it. It gives no freed inode to a new file for minutes,
and finds that out inode by inode at each file it makes: where a large snapshot was just pruned, another one takes
ten to fifty times as long to make.
"""

from __future__ import annotations

import os
import re
import time

# For how long freed inodes are passed over: five minutes until they are written to the disk, and one more.
_REMEMBERED_S = 360
# Fewer freed inodes cost less than to look for another place.
_MANY = 500
# An ext4 of the usual measures has groups of 8,192 inodes, and goes to the next group for a new folder, and so for the
# files in it, where a quarter of a group is taken.
_GROUP = 8192
_FILES_IN_GROUP = _GROUP // 4
# So many groups have to be free of freed inodes: enough for 20,000 files.
_GROUPS_AHEAD = 10
# How many bad places are left for others: where all are bad, to look for long would cost more than it saves.
_LEAVE_AT_MOST = 64
# What is noted: when, the inode number of the folder, and how many files and folders it was.
_LINE = re.compile(rb"^(\d{1,20}) (\d{1,20}) (\d{1,20})$", re.MULTILINE)

# linux/fs.h, for the architectures that number ioctls the common way.
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_TOPDIR_FL = 0x00020000


class Placement:
    """The places of folders that are made in `folder`. The file `record` says where inodes were freed."""

    def __init__(self, folder: str, record: str) -> None:
        self._folder = folder
        self._record = record
        self._avoids: bool | None = None
        self._left = 0

    def spread(self) -> None:
        """Have folders that are made in `folder` placed far apart, where the file system knows how to (ext4)."""
        import fcntl
        import struct

        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = struct.unpack("L", fcntl.ioctl(handle, _FS_IOC_GETFLAGS, bytes(struct.calcsize("L"))))[0]
            fcntl.ioctl(handle, _FS_IOC_SETFLAGS, struct.pack("L", flags | _FS_TOPDIR_FL))
        except OSError:
            # Other file systems have no such flag, and no need of it.
            pass
        finally:
            os.close(handle)

    def freed(self, inode: int, count: int) -> None:
        """Note that a folder with this inode number was removed, with `count` files and folders."""
        if count < _MANY or not self._avoids_freed():
            return
        now = time.time()
        truncate = 0 if self._freed(now) else os.O_TRUNC
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | truncate
        try:
            with os.fdopen(os.open(self._record, flags, 0o644), "wb") as record:
                record.write(b"%d %d %d\n" % (now, inode, count))
        except OSError:
            # On a full disk a prune has to go on all the same: this note saves time, and nothing depends on it.
            pass

    def is_bad(self, path: str) -> bool:
        """Whether many inodes were freed within the last minutes where files of the folder `path` will lie."""
        if not self._avoids_freed():
            return False
        freed = self._freed(time.time())
        if not freed:
            return False
        inode = os.lstat(path).st_ino
        ahead = _GROUPS_AHEAD * _GROUP
        return any(first - ahead < inode < first + (1 + count // _FILES_IN_GROUP) * _GROUP for first, count in freed)

    def is_to_be_left(self, path: str) -> bool:
        """Whether another place than that of the folder `path` shall be looked for: it is bad, and few were so yet."""
        if self._left >= _LEAVE_AT_MOST or not self.is_bad(path):
            return False
        self._left += 1
        return True

    def _freed(self, now: float) -> list[tuple[int, int]]:
        """Inode numbers and counts of what was freed lately; lines that a full disk has cut off are passed over."""
        try:
            with open(self._record, "rb") as record:
                lines = _LINE.findall(record.read())
        except FileNotFoundError:
            return []
        notes = [tuple(map(int, line)) for line in lines]
        return [(inode, count) for then, inode, count in notes if now - _REMEMBERED_S < then <= now]

    def _avoids_freed(self) -> bool:
        if self._avoids is None:
            self._avoids = _passes_over_freed(self._folder)
        return self._avoids


def _passes_over_freed(path: str) -> bool:
    """Whether `path` is on an ext4 without a journal, as far as /sys tells."""
    device = os.stat(path).st_dev
    try:
        disk = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        with open(f"/sys/fs/ext4/{disk}/journal_task", "rb") as task:
            return task.read().strip() == b"<none>"
    except OSError:
        return False
