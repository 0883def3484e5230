"""Commands as root: for an ordinary user, of a user namespace, in which files may have all owners."""

from __future__ import annotations

import os


def as_root(*command: str) -> list[str]:
    """The command as root runs it, or one that makes a user namespace for it first."""
    if os.geteuid() == 0:
        return list(command)
    return ["unshare", "--map-root-user", "--map-auto", "--mount", *command]
