"""Looking up names in the merged view of layer folders, without a mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from types import TracebackType

from stagewright.snapshots import overlay


class Chain:
    """The layers below a draft. Used as a context manager.

    `lowers` answers their absolute folders, topmost first, and is asked for them when they are first needed.
    """

    def __init__(self, lowers: Callable[[], tuple[str, ...]]) -> None:
        self._lowers = lowers
        self._roots: list[int] = []
        self._is_open = False

    def __enter__(self) -> Chain:
        return self

    def _opened(self) -> list[int]:
        if not self._is_open:
            for lower in self._lowers():
                self._roots.append(os.open(lower, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            self._is_open = True
        return self._roots

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        while self._roots:
            os.close(self._roots.pop())

    def find(self, name: bytes) -> tuple[int, os.stat_result] | None:
        """Where a cleaned, non-empty name is: the open root of the layer that has it, and its lstat.

        A symbolic link on the way is not followed: what lies behind it has another name.
        """
        ends = [at for at, byte in enumerate(name) if byte == 0x2F] + [len(name)]
        for root in self._opened():
            opaque = False
            for end in ends:
                prefix = name[:end]
                try:
                    info = os.stat(prefix, dir_fd=root, follow_symlinks=False)
                except FileNotFoundError:
                    break
                if overlay.is_whiteout(info, _at(root, prefix)):
                    return None
                if end == len(name):
                    return root, info
                if not stat.S_ISDIR(info.st_mode):
                    return None
                opaque = opaque or overlay.is_opaque(_at(root, prefix))
            if opaque:
                return None
        return None

    def root_names(self) -> set[bytes]:
        """The names in the merged root directory."""
        names = {os.fsencode(name) for root in self._opened() for name in os.listdir(root)}
        return {name for name in names if self.find(name) is not None}


def _at(root: int, name: bytes) -> bytes:
    return b"/proc/self/fd/%d/%s" % (root, name)
