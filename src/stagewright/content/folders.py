"""Folders of the state directory that are their owner's alone, whatever the mode of the state directory is.

They hold private images, other people's setuid programs and what build contexts are made of.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private(folder: Path | str) -> None:
    """Make a folder and its parents, or take the others' rights from one of ours that is there. Raises OSError."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.stat(folder)
    if status.st_mode & _OTHERS and status.st_uid == os.geteuid():
        os.chmod(folder, 0o700)
