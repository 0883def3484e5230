"""Layers of empty files, which lie below all others of a step's root as places for what is mounted there.

Without them most images have no /etc/resolv.conf to mount upon: it would be made in the step's own layer, with a copy
of /etc, and taken out again after the step.
"""

from __future__ import annotations

import hashlib
import os

from stagewright.snapshots.drafts import Drafts


def make(root: str, drafts: Drafts, files: tuple[str, ...]) -> str:
    """The folder below `root` that holds these files, absolute paths, and nothing else; made if it is not there.

    Raises OSError.
    """
    path = os.path.join(root, hashlib.sha256("\0".join(files).encode()).hexdigest()[:16])
    if os.path.isdir(path):
        return path
    os.makedirs(root, mode=0o755, exist_ok=True)
    draft = drafts.new()
    folders = {draft}
    for file in files:
        *names, last = file.strip("/").split("/")
        folder = draft
        for name in names:
            folder = os.path.join(folder, name)
            if folder not in folders:
                os.mkdir(folder)
                folders.add(folder)
        os.close(os.open(os.path.join(folder, last), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    for folder in folders:
        os.chmod(folder, 0o755)  # noqa: S103 -- steps may see it
        os.utime(folder, (0, 0))
    try:
        os.rename(draft, path)
    except OSError:
        if not os.path.isdir(path):
            raise
        # Another process was quicker.
        drafts.trash.remove(draft)
    return path
