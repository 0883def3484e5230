"""The mark that overlayfs leaves in the working directory of a volatile mount, which syncs nothing to the disk.

Without it each unmount, and each fsync of a step, would sync the whole disk for a draft that would not survive.
"""

from __future__ import annotations

import os


def forget(work: str) -> None:
    """Remove the mark, by which the kernel refuses a second mount of the upper directory.

    It stands for "the machine may have crashed since"; a draft does not outlive its process, let alone a crash.
    """
    mark = os.path.join(work, "work", "incompat", "volatile")
    try:
        os.unlink(os.path.join(mark, "dirty"))
        os.rmdir(mark)
    except FileNotFoundError:
        pass
