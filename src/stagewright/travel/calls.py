"""Cache mounts outside of builds: calls for `door.passage`, since the files of mounts have all kinds of owners.

`root` is the state directory, `config` the path of the configuration file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from stagewright import privilege
from stagewright.cache.leases import BuildLease
from stagewright.config import load as load_config
from stagewright.content.remote import RemoteBlobs
from stagewright.errors import NotFoundError, StoreError
from stagewright.image.digest import sha256_digest
from stagewright.options import BuildOptions, Cache
from stagewright.progress.events import Sink
from stagewright.progress.masking import mask_error
from stagewright.progress.reporter import Emitter
from stagewright.records import replace
from stagewright.reports import CacheMountRow
from stagewright.secrecy.masks import Masks
from stagewright.snapshots.tree import remove_tree, tree_size
from stagewright.state import State
from stagewright.travel.caches import BuildCaches
from stagewright.travel.mounts import matching, travels
from stagewright.travel.opening import opener
from stagewright.travel.options import credentials_of, parse_export, parse_import


def list_mounts(root: str, sink: Sink | None, cancel: threading.Event) -> list[CacheMountRow]:
    """All cache mounts, by their identities; folders of one identity count together."""
    privilege.require()
    with _state(root) as state:
        found: dict[str, CacheMountRow] = {}
        for identity, folder, last_used in state.cache_mounts.rows():
            size = tree_size(folder) if os.path.isdir(folder) else 0
            known = found.get(identity, CacheMountRow(identity, 0, 0.0))
            found[identity] = CacheMountRow(identity, known.size + size, max(known.last_used, last_used))
    return [found[identity] for identity in sorted(found)]


def remove_mounts(root: str, ids: Sequence[str], sink: Sink | None, cancel: threading.Event) -> list[str]:
    """Remove cache mounts; answers their identities. Raises NotFoundError, and StoreError for one that is in use."""
    privilege.require()
    with _state(root) as state:
        known = {identity for identity, _, _ in state.cache_mounts.rows()}
        found = {id: [id] if id in known else matching([id], known)[id] for id in ids}
        _check_found(found)
        gone = []
        for identity in dict.fromkeys(identity for identities in found.values() for identity in identities):
            if not state.cache_mounts.forget(identity, remove_tree):
                raise StoreError(f"cache mount {identity} is in use by a build")
            gone.append(identity)
    return gone


def export_mounts(
    root: str,
    config: str | None,
    env: Mapping[str, str],
    place: Cache,
    ids: Sequence[str],
    sink: Sink | None,
    cancel: threading.Event,
) -> None:
    """Export cache mounts, all that can travel where no IDs are given, as a cache that has nothing else."""
    privilege.require()
    whole = replace(place, attrs={**place.attrs, "mounts": "true"})
    with _state(root) as state, _caches(state, config, env, sink, cancel, cache_to=[whole]) as caches:
        known = {identity for identity, _, _ in state.cache_mounts.rows()}
        found = matching(ids, known)
        _check_found(found)
        wanted = {name for names in found.values() for name in names}
        caches.export_mounts(wanted or {identity for identity in known if travels(identity)})


def import_mounts(
    root: str,
    config: str | None,
    env: Mapping[str, str],
    place: Cache,
    ids: Sequence[str],
    sink: Sink | None,
    cancel: threading.Event,
) -> list[str]:
    """Import cache mounts, all of a cache where no IDs are given, but those that are here; answers their identities."""
    privilege.require()
    with _state(root) as state, _caches(state, config, env, sink, cancel, cache_from=[place]) as caches:
        offered = caches.imports.load_mounts()
        found = matching(ids, offered) if ids else {"": sorted(offered)}
        _check_found({id: names for id, names in found.items() if id})
        imported = []
        for identity in dict.fromkeys(name for names in found.values() for name in names):
            with caches.mounts.vertex(f"importing cache mount {identity}") as reporter:

                def fill(folder: str, identity: str = identity) -> None:
                    caches.mounts.restore(offered[identity], folder, reporter)

                if state.cache_mounts.ensure(identity, fill, cancel):
                    imported.append(identity)
                else:
                    reporter.warn(f"cache mount {identity} is here already and stays as it is")
    return imported


def _check_found(found: Mapping[str, Sequence[str]]) -> None:
    for id, identities in found.items():
        if not identities:
            raise NotFoundError(f"there is no cache mount {id}", hint="see: stagewright cache mounts ls")


@contextmanager
def _state(root: str) -> Iterator[State]:
    state = State(root, {})
    try:
        with BuildLease(state.locks):
            state.cache_mounts.forget_lost()
            yield state
    finally:
        state.close()


@contextmanager
def _caches(
    state: State,
    config: str | None,
    env: Mapping[str, str],
    sink: Sink | None,
    cancel: threading.Event,
    *,
    cache_from: Sequence[Cache] = (),
    cache_to: Sequence[Cache] = (),
) -> Iterator[BuildCaches]:
    options = BuildOptions(".", cache_from=tuple(cache_from), cache_to=tuple(cache_to))
    credentials = credentials_of([*cache_from, *cache_to], env)
    masks = Masks([text.encode(errors="surrogateescape") for text in credentials]) if credentials else None
    emitter = Emitter(sink, masks)
    for place in cache_from:
        parse_import(place, env)
    for place in cache_to:
        parse_export(place, env)
    with opener(lambda: load_config(config, env), env, state.blobs) as opened:
        caches = BuildCaches(
            options,
            env,
            state,
            opened,
            RemoteBlobs(state.blobs),
            tuple,
            lambda name: emitter.vertex(sha256_digest(name.encode()), name),
            emitter,
            cancel,
        )
        try:
            yield caches
        except BaseException as error:
            if masks is not None:
                mask_error(error, masks)
            raise
