"""The mark that overlayfs leaves in the working directory of a volatile mount, which syncs nothing to the disk.

Without it each unmount, and each fsync of a step, would sync the whole disk for a draft that would not survive.
"""

from __future__ import annotations

import os

# Where the mark is in a working directory.
_MARK = ("work", "incompat", "volatile")


def forget(work: str) -> None:
    """Remove the mark, by which the kernel refuses a second mount of the upper directory.

    It stands for "the machine may have crashed since"; a draft does not outlive its process, let alone a crash.
    """
    mark = os.path.join(work, *_MARK)
    try:
        os.unlink(os.path.join(mark, "dirty"))
        os.rmdir(mark)
    except FileNotFoundError:
        pass


def clear(work: str) -> None:
    """Remove all that overlayfs leaves in a working directory, if there is nothing else; it is mounted no more."""
    try:
        forget(work)
        for depth in (2, 1):
            os.rmdir(os.path.join(work, *_MARK[:depth]))
    except OSError:
        # What is left is for those who look at what there is.
        return
