"""Files that commands write: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from stagewright.errors import StoreError


@contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """A file that is at `path` when the block has ended, and nowhere if it has failed.

    What is no ordinary file (a pipe, a device) is written to as it is. Raises StoreError if it cannot be written.
    """
    special = os.path.exists(path) and not os.path.isfile(path)
    partial = path if special else f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            yield file
        if not special:
            os.replace(partial, path)
    except BaseException as error:
        if not special and os.path.exists(partial):
            os.remove(partial)
        if isinstance(error, OSError):
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
        raise
