"""Paths inside an image: made absolute and clean, as the graph wants them."""

from __future__ import annotations

import posixpath


def absolute(path: str, folder: str = "/") -> str:
    """A path, relative ones below `folder`, without `.`, `..` and needless slashes."""
    # POSIX lets two slashes at the beginning mean something else; a root file system does not.
    return "/" + posixpath.normpath(posixpath.join("/", folder, path)).lstrip("/")


def destination(path: str, folder: str) -> str:
    """The same for where something is copied to: a path that means a folder ends in a slash."""
    clean = absolute(path, folder)
    means_folder = path in ("", ".") or path.endswith(("/", "/."))
    return f"{clean}/" if means_folder and clean != "/" else clean
