"""The local build context: a folder of the host, read where it lies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from stagewright.dockerfile.ignore import Matcher
from stagewright.errors import NotFoundError
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
        self.digests.save()
        os.close(self._root)
