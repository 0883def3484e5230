"""The secrets of a build, each read once: what steps mount, what logs must not show, what no image may hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from stagewright.errors import NotFoundError, UsageError
from stagewright.options import SecretSource

_MAX_SIZE = 500 << 10


def read_secrets(sources: Sequence[SecretSource], env: Mapping[str, str]) -> dict[str, bytes]:
    """The values by ID, of several sources of one the last; a variable that is not set gives none.

    Raises NotFoundError for a file that is not there, and UsageError for what is no file, cannot be read, or is larger
    than BuildKit takes (500 KiB).
    """
    values: dict[str, bytes] = {}
    for source in {source.id: source for source in sources}.values():
        value = _value(source, env)
        if value is None:
            continue
        if len(value) > _MAX_SIZE:
            raise UsageError(f"secret {source.id} is larger than {_MAX_SIZE >> 10} KiB")
        values[source.id] = value
    return values


def _value(source: SecretSource, env: Mapping[str, str]) -> bytes | None:
    if source.data is not None:
        return source.data
    if source.path is not None:
        return _read(source.id, source.path)
    value = env.get(source.env or source.id)
    return None if value is None else value.encode(errors="surrogateescape")


def _read(id: str, path: str) -> bytes:
    try:
        # What waits for a writer is no file, but would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_kind(id, path, os.fstat(fd).st_mode)
            with open(fd, "rb", closefd=False) as file:
                return file.read(_MAX_SIZE + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise NotFoundError(f"secret {id}: the file {path} does not exist") from None
    except OSError as error:
        raise UsageError(f"secret {id}: the file {path} cannot be read: {error.strerror}") from None


def _check_kind(id: str, path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UsageError(f"secret {id}: {path} is a folder", hint="a secret is one file; give each an id of its own")
    if not stat.S_ISREG(mode):
        raise UsageError(f"secret {id}: {path} is not a file", hint="give a value of a program as env=VARIABLE")
