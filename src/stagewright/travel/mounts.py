"""Cache mounts on their way to and from other machines."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from stagewright.content.remote import RemoteBlobs
from stagewright.errors import CanceledError, IntegrityError, StagewrightError
from stagewright.graph.ops import ExecOp
from stagewright.image.descriptor import Descriptor
from stagewright.ops.exec import HOME_ONLY, cache_identity
from stagewright.progress.reporter import Reporter
from stagewright.snapshots.tree import remove_tree
from stagewright.solver.nodes import Solved
from stagewright.state import State
from stagewright.travel.files import LIST_TYPE, PACK_TYPE, FileList
from stagewright.travel.packing import pack_folder
from stagewright.travel.record import CacheMount
from stagewright.travel.restoring import restore

_MAX_LIST = 64 << 20
_HOME_ONLY = re.compile(rf"{HOME_ONLY}[0-9a-f]{{16}}")
_MARK = re.compile(r"@[0-9a-f]{16}")
Vertex = Callable[[str], AbstractContextManager[Reporter]]


def travels(identity: str) -> bool:
    """Whether a cache mount means the same elsewhere: one that starts with a stage's files is of this store alone."""
    return _HOME_ONLY.search(identity[-18:]) is None


def used_by(solved: Iterable[Solved]) -> list[str]:
    """The identities of the cache mounts of a build's steps, whether they ran or not."""
    found = {
        cache_identity(mount, None).encode(errors="backslashreplace").decode()
        for done in solved
        if isinstance(done.vertex.op, ExecOp)
        for mount in done.vertex.op.mounts
        if mount.kind == "cache" and mount.input is None
    }
    return sorted(found)


def matching(ids: Sequence[str], identities: Iterable[str]) -> dict[str, list[str]]:
    """For each ID, as Dockerfiles have it, the identities that go by it: those of other modes and owners, too."""
    known = [identity for identity in identities if travels(identity)]
    return {id: [name for name in known if name == id or _is_kind_of(name, id)] for id in ids}


def _is_kind_of(identity: str, id: str) -> bool:
    return identity.startswith(id) and _MARK.fullmatch(identity[len(id) :]) is not None


class MountTransfer:
    """Packs cache mounts and brings them back. `known` answers what an imported cache has of an identity."""

    def __init__(
        self,
        state: State,
        remote: RemoteBlobs,
        known: Callable[[str], CacheMount | None],
        vertex: Vertex,
        cancel: threading.Event,
    ) -> None:
        self._state = state
        self._remote = remote
        self._known = known
        self.vertex = vertex
        self._cancel = cancel

    def pack(self, identity: str, reporter: Reporter) -> CacheMount | None:
        """A cache mount with its list and new packs in the blob store; None where there is none.

        One that is not here, but in an imported cache, is passed on as it is.
        """
        known = self._known(identity)
        with self._state.cache_mounts.alone(identity, self._cancel) as folder:
            if folder is None:
                return known
            packs = self._list_of(known).packs if known is not None else ()
            with reporter.status(f"packing cache mount {identity}"):
                files = pack_folder(
                    folder,
                    self._state.blobs,
                    packs,
                    self._check,
                    lambda path: reporter.warn(f"cache mount {identity}: the sparse file {path} is left out"),
                )
        data = files.to_bytes()
        digest = self._state.blobs.write(data)
        return CacheMount(identity, (digest, len(data)), tuple((pack.digest, pack.size) for pack in files.packs))

    def seed(self, identity: str, folder: str) -> None:
        """Bring back into a new folder what an imported cache has for it; what goes wrong is a warning."""
        known = self._known(identity) if travels(identity) else None
        if known is None:
            return
        with self.vertex(f"importing cache mount {identity}") as reporter:
            try:
                self.restore(known, folder, reporter)
            except CanceledError:
                raise
            except (StagewrightError, OSError) as error:
                reason = error.message if isinstance(error, StagewrightError) else os.strerror(error.errno or 0)
                reporter.warn(f"the cache mount {identity} begins empty: {reason}")
                _empty(folder)

    def restore(self, mount: CacheMount, folder: str, reporter: Reporter) -> None:
        """Fill a new folder with an imported cache mount. Raises StagewrightError and OSError."""
        files = self._list_of(mount)
        if [(pack.digest, pack.size) for pack in files.packs] != list(mount.packs):
            raise IntegrityError(f"cache mount {mount.id}: its list names other packs than its cache")
        _empty(folder)

        def fetch(pack: Descriptor) -> None:
            with reporter.status(pack.digest, pack.size) as row:
                self._remote.fetch(pack, row.update, self._cancel)

        restore(files, folder, self._state.blobs, fetch, self._check)

    def _list_of(self, mount: CacheMount) -> FileList:
        digest, size = mount.files
        if size > _MAX_LIST:
            raise IntegrityError(f"cache mount {mount.id}: its list has {size} bytes, more than {_MAX_LIST}")
        self._remote.fetch(Descriptor(LIST_TYPE, digest, size), cancel=self._cancel)
        return FileList.from_bytes(self._state.blobs.read(digest, _MAX_LIST))

    def _check(self) -> None:
        if self._cancel.is_set():
            raise CanceledError


def descriptors(mounts: Iterable[CacheMount]) -> list[Descriptor]:
    """The blobs that cache mounts are made of."""
    found: dict[str, Descriptor] = {}
    for mount in mounts:
        found[mount.files[0]] = Descriptor(LIST_TYPE, *mount.files)
        found |= {digest: Descriptor(PACK_TYPE, digest, size) for digest, size in mount.packs}
    return list(found.values())


def _empty(folder: str) -> None:
    """Remove what is in a folder."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            remove_tree(path)
        else:
            os.unlink(path)
