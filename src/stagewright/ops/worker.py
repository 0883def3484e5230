"""What the ops of one build work with: the stores, the contexts, and all that steps may be given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stagewright.errors import CanceledError
from stagewright.records import dataclass

if TYPE_CHECKING:
    from stagewright.cache.keys import KeyStore
    from stagewright.cache.mounts import CacheMounts
    from stagewright.leaks.guard import LeakGuard
    from stagewright.sandbox.spec import Runtime
    from stagewright.snapshots.store import SnapshotStore
    from stagewright.sources.image import ImageSource
    from stagewright.sources.local import LocalContext
    from stagewright.sources.remote import RemoteSources


@dataclass(slots=True)
class Worker:
    """One per build. Callables stand for what is only made when it is first asked for.

    `context` answers a local context by its name, `ssh_socket` the path of an agent's socket by its ID, None where the
    build was not given one. `secrets` are the bytes of the secrets by their IDs; `leaks` searches what steps with them
    leave, and is None where the build was given none. `note_files` is told the files behind each content digest that is
    made: their paths, and the records of which the digest is one.
    """

    snapshots: SnapshotStore
    keys: KeyStore
    cache_mounts: CacheMounts
    cancel: threading.Event
    images: ImageSource
    remotes: RemoteSources
    runtime: Callable[[], Runtime]
    context: Callable[[str], LocalContext]
    secrets: Mapping[str, bytes]
    ssh_socket: Callable[[str], str | None]
    host_ca: str | None = None
    leaks: LeakGuard | None = None
    note_files: Callable[[str, list[tuple[str, str]]], None] | None = None

    def check_canceled(self) -> None:
        if self.cancel.is_set():
            raise CanceledError
