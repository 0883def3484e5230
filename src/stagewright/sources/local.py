"""Local build contexts: folders of the host, read where they lie."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from stagewright.dockerfile.ignore import Matcher
from stagewright.errors import NotFoundError, StoreError
from stagewright.sources.digests import StatIndex
from stagewright.sources.tree import Tree


class LocalContext:
    """A folder with what .dockerignore hides of it and its stat index (below `indexes`). Closed by `close`.

    Raises NotFoundError where the folder does not exist or is none.
    """

    def __init__(self, folder: str, indexes: Path, exclusion: Matcher | None) -> None:
        self.folder = os.path.realpath(folder)
        try:
            self._root = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"the build context {folder} does not exist") from None
        except NotADirectoryError:
            raise NotFoundError(f"the build context {folder} is not a folder") from None
        except PermissionError:
            raise NotFoundError(f"the build context {folder} may not be read") from None
        self.tree = Tree(self._root, exclusion=exclusion, owner=(0, 0), label=self.folder)
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:32]
        self.digests = StatIndex(indexes / name)

    def close(self) -> None:
        """Keep the index and give the folder back."""
        with suppress(StoreError):
            # A disk that refuses costs reading the files again, and is the business of those who need it.
            self.digests.save()
        os.close(self._root)


class LocalContexts:
    """The folders that one build reads in place, by the names that the graph has for them. Thread-safe.

    Each is opened when it is first asked for, and closed by `close`. `indexes` is where their stat indexes lie.
    """

    def __init__(self, indexes: Path) -> None:
        self._indexes = indexes
        self._folders: dict[str, tuple[str, Callable[[], Matcher | None]]] = {}
        self._opened: dict[str, LocalContext] = {}
        self._lock = threading.Lock()

    def add(self, name: str, folder: str, exclusion: Callable[[], Matcher | None]) -> None:
        """Name a folder; `exclusion` answers what its ignore file hides, and is asked when the folder is opened."""
        self._folders[name] = folder, exclusion

    def get(self, name: str) -> LocalContext:
        """The folder of that name. Raises NotFoundError where it does not exist, and what `exclusion` raises."""
        with self._lock:
            if name not in self._opened:
                folder, exclusion = self._folders[name]
                self._opened[name] = LocalContext(folder, self._indexes, exclusion())
            return self._opened[name]

    def close(self) -> None:
        """Keep the indexes and give the folders back."""
        with ExitStack() as stack:
            for context in self._opened.values():
                stack.callback(context.close)
