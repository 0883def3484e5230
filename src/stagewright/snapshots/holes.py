"""Where sparse files have data: a file of a few bytes may claim exabytes, and nothing may read all of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def next_data(handle: int, offset: int) -> int:
    """Where the open file has data next, at or behind an offset; its end where there is no more."""
    try:
        return os.lseek(handle, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return os.lseek(handle, 0, os.SEEK_END)
        if error.errno == errno.EINVAL:
            # This file system does not tell.
            return offset
        raise


def data_ranges(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges of an open file's first `size` bytes that are no holes: where each begins, and where it ends."""
    offset = 0
    while (start := next_data(handle, offset)) < size:
        try:
            end = os.lseek(handle, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.EINVAL):
                raise
            end = size
        offset = min(end, size)
        if offset <= start:
            return
        yield start, offset
