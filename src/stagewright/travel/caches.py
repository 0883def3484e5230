"""The caches of one build: what it imports and exports, set up from its options."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import BinaryIO, TypeVar

from stagewright.content.remote import RemoteBlobs
from stagewright.errors import CanceledError, PrivilegeNeededError, StagewrightError
from stagewright.exporters.manifest import layer_type
from stagewright.image.descriptor import Descriptor
from stagewright.options import BuildOptions, Cache
from stagewright.progress.events import WarningEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.records import dataclass, replace
from stagewright.registry.reference import Reference
from stagewright.snapshots.compress import LayerBlob
from stagewright.snapshots.layers import LayerBlobs
from stagewright.snapshots.lazy import KnownLayer, LazyLayers
from stagewright.snapshots.searches import SecretSearches
from stagewright.solver.nodes import Solved
from stagewright.state import State
from stagewright.travel.exporting import make_record
from stagewright.travel.importing import PATIENCE_S, ImportingKeys, Imports, Source
from stagewright.travel.mounts import MountTransfer, matching, used_by
from stagewright.travel.mounts import descriptors as mount_descriptors
from stagewright.travel.oci import Form
from stagewright.travel.opening import Opener
from stagewright.travel.options import (
    ExportSpec,
    GhaPlace,
    InactiveError,
    InlinePlace,
    LocalPlace,
    RegistryPlace,
    parse_export,
    parse_import,
)
from stagewright.travel.place import CacheStore
from stagewright.travel.record import CacheMount, CacheRecord

_UNCOMPRESSED = "containerd.io/uncompressed"
T = TypeVar("T")
Vertex = Callable[[str], AbstractContextManager[Reporter]]


@dataclass(frozen=True, slots=True)
class Built:
    """What a build leaves for its caches: its vertices, the snapshots of the result's layers, SOURCE_DATE_EPOCH."""

    solved: Sequence[Solved]
    layers: Sequence[int]
    epoch: int | None


class BuildCaches:
    """The caches of one build. Raises UsageError for options that are wrong.

    `repositories` answers the names of images that may have some of the layers. `vertex` opens a vertex of the
    progress, by its name.
    """

    def __init__(
        self,
        options: BuildOptions,
        env: Mapping[str, str],
        state: State,
        opener: Opener,
        remote: RemoteBlobs,
        repositories: Callable[[], Sequence[str]],
        vertex: Vertex,
        emitter: Emitter,
        cancel: threading.Event,
    ) -> None:
        self._emitter = emitter
        self._places = self._active(lambda cache: parse_import(cache, env), options.cache_from)
        self._exports = self._active(lambda cache: parse_export(cache, env), options.cache_to)
        if options.offline:
            for place in self._places:
                if not isinstance(place, LocalPlace):
                    emitter(WarningEvent("", f"the cache {place} is not used: --offline forbids to ask its server"))
            self._places = [place for place in self._places if isinstance(place, LocalPlace)]
        self._state = state
        self._opener = opener
        self._remote = remote
        self._repositories = repositories
        self._vertex = vertex
        self._cancel = cancel
        self._layers = LayerBlobs(state.snapshots, state.blobs, state.db, lambda: remote)
        self._packed: dict[str, CacheMount | None] = {}

    def _active(self, parse: Callable[[Cache], T], caches: Sequence[Cache]) -> list[T]:
        """What options say. Of a cache that only jobs of a CI service have others do without, as with buildx."""
        found = []
        for cache in caches:
            try:
                found.append(parse(cache))
            except InactiveError as error:
                detail = (error.hint,) if error.hint else ()
                self._emitter(WarningEvent("", f"a cache is left out: {error.message}", detail=detail))
        return found

    @cached_property
    def imports(self) -> Imports:
        """The caches that are imported."""
        sources = [
            Source(
                str(place),
                self._opener.open(place),
                place.lasting(),
                place.timeout_s if isinstance(place, GhaPlace) else PATIENCE_S,
            )
            for place in self._places
        ]
        return Imports(sources, self._remote, self._vertex, self._cancel)

    @cached_property
    def mounts(self) -> MountTransfer:
        """The way of cache mounts to and from these caches."""
        return MountTransfer(self._state, self._remote, self.imports.mount, self._vertex, self._cancel)

    def keys(self, lazy: LazyLayers) -> ImportingKeys:
        """The store's keys and those of the imported caches."""
        return ImportingKeys(self._state.db, self.imports, lazy)

    @property
    def mounts_from(self) -> tuple[str, ...]:
        """The names of images in registries that imported layers are in."""
        return tuple(str(place.ref) for place in self._places if isinstance(place, RegistryPlace))

    def sources(self) -> tuple[list[str], list[str]]:
        """What the imported caches are called that have answered, and those that could not be read."""
        return self.imports.sources()

    def inline(self, built: Built) -> Callable[[Sequence[LayerBlob]], bytes] | None:
        """What makes the cache in an image's config of the blobs of its layers; None where none is asked for."""
        if not any(isinstance(spec.place, InlinePlace) for spec in self._exports):
            return None

        def make(blobs: Sequence[LayerBlob]) -> bytes:
            known = dict(zip(built.layers, blobs, strict=True))
            return self._record(built, False, known.__getitem__).to_bytes()

        return make

    def export(self, built: Built) -> Descriptor | None:
        """Export all but what is in an image; what fails is a warning, or raised where that was asked for.

        Answers the manifest or index of the last export that has one.
        """
        last: Descriptor | None = None
        for spec in self._exports:
            if isinstance(spec.place, InlinePlace):
                continue
            with self._vertex(f"exporting cache to {spec.place}") as reporter:
                try:
                    last = self._export(spec, built, reporter) or last
                except (CanceledError, PrivilegeNeededError):
                    raise
                except StagewrightError as error:
                    if not spec.ignores_errors:
                        error.put_before(f"the cache could not be exported to {spec.place}")
                        error.hint = error.hint or "all outputs are made; without ignore-error=false it only warns"
                        raise
                    detail = (error.hint,) if error.hint else ()
                    reason = error.message.removeprefix(f"{spec.place}: ")
                    reporter.warn(f"the cache is not exported to {spec.place}: {reason}", detail=detail)
        return last

    def _export(self, spec: ExportSpec, built: Built, reporter: Reporter) -> Descriptor | None:
        def blob_of(snapshot: int) -> LayerBlob:
            if self._cancel.is_set():
                raise CanceledError
            blob = self._layers.obtain(
                snapshot, spec.compression, force=spec.force_compression, epoch=built.epoch, fetch=False
            )
            return replace(blob, media_type=layer_type(blob, oci=spec.oci_mediatypes))

        with reporter.status("preparing build cache for export"):
            record = self._record(built, spec.is_max, blob_of)
        if spec.used_mounts:
            record = replace(record, mounts=self._pack_mounts(spec, built, reporter))
        return self._publish(spec, record, reporter)

    def _pack_mounts(self, spec: ExportSpec, built: Built, reporter: Reporter) -> tuple[CacheMount, ...]:
        """The cache mounts that an export asks for, in the order of their identities."""
        wanted = set(used_by(built.solved))
        if spec.mounts:
            here = {identity for identity, _, _ in self._state.cache_mounts.rows()}
            found = matching(spec.mounts, {*here, *self.imports.mounts()})
            for id, identities in found.items():
                if not identities:
                    reporter.warn(f"there is no cache mount {id} to export to {spec.place}")
            wanted = {identity for identities in found.values() for identity in identities}
        return self._pack_all(wanted, reporter)

    def export_mounts(self, identities: Collection[str]) -> None:
        """Export these cache mounts and nothing else. Raises StagewrightError."""
        for spec in self._exports:
            with self._vertex(f"exporting cache mounts to {spec.place}") as reporter:
                self._publish(spec, CacheRecord(mounts=self._pack_all(identities, reporter)), reporter)

    def _pack_all(self, identities: Collection[str], reporter: Reporter) -> tuple[CacheMount, ...]:
        packed = []
        for identity in sorted(identities):
            if identity not in self._packed:
                self._packed[identity] = self.mounts.pack(identity, reporter)
            if (mount := self._packed[identity]) is not None:
                packed.append(mount)
        return tuple(packed)

    def _publish(self, spec: ExportSpec, record: CacheRecord, reporter: Reporter) -> Descriptor | None:
        store = self._store(spec)
        descriptors = [*_descriptors(record), *mount_descriptors(record.mounts)]
        self._put(store, descriptors, spec.uploads, reporter)
        with reporter.status("writing cache manifest"):
            return store.publish(record, descriptors, self._cancel)

    def _record(self, built: Built, is_max: bool, blob_of: Callable[[int], LayerBlob]) -> CacheRecord:
        rows = {row.id: row for row in self._state.snapshots.rows()}
        searches = SecretSearches(self._state.db)
        final = set(built.layers)
        leaky: dict[int, bool] = {}

        def chain_of(snapshot: int | None) -> list[int]:
            chain = []
            while snapshot is not None:
                chain.append(snapshot)
                snapshot = rows[snapshot].parent
            return chain[::-1]

        def leaks(snapshot: int) -> bool:
            if snapshot not in leaky:
                known = searches.of(rows[snapshot].dir).values()
                leaky[snapshot] = any(searched.mark is None or searched.places for searched in known)
            return leaky[snapshot]

        def keeps(chain: Sequence[int]) -> bool:
            return (is_max or final.issuperset(chain)) and not any(map(leaks, chain))

        def layer_of(snapshot: int) -> KnownLayer:
            blob = blob_of(snapshot)
            variant = self._layers.variant(snapshot, blob)
            # The history of an image tells when the layers of its base were made.
            created = rows[snapshot].created if variant and built.epoch is None else None
            return KnownLayer(blob, variant, created)

        return make_record(built.solved, chain_of, layer_of, keeps, self._emitter.masked)

    def _put(self, store: CacheStore, blobs: Sequence[Descriptor], at_once: int, reporter: Reporter) -> None:
        from concurrent.futures import ThreadPoolExecutor

        def put(blob: Descriptor) -> None:
            with reporter.status(f"writing layer {blob.digest}", blob.size) as row:
                store.put(blob, lambda: self._open(blob), self._cancel)
                row.update(blob.size)

        with ThreadPoolExecutor(at_once, "cache-export") as pool:
            for done in [pool.submit(put, blob) for blob in blobs]:
                done.result()
        if self._cancel.is_set():
            raise CanceledError

    def _open(self, blob: Descriptor) -> BinaryIO:
        self._remote.fetch(blob, cancel=self._cancel)
        return self._state.blobs.open_verified(blob.digest)

    def _store(self, spec: ExportSpec) -> CacheStore:
        place = spec.place
        assert not isinstance(place, InlinePlace)

        def mount_from() -> list[str]:
            names = map(Reference.parse, (*self.mounts_from, *self._repositories()))
            return [name.path for name in names if isinstance(place, RegistryPlace) and name.domain == place.ref.domain]

        form = Form(as_image=spec.as_image, oci_mediatypes=spec.oci_mediatypes)
        return self._opener.open(place, form, lambda: list(dict.fromkeys(mount_from())))


def _descriptors(record: CacheRecord) -> list[Descriptor]:
    """The blobs of a record, each once, as BuildKit describes layers."""
    blobs = dict.fromkeys(layer.known.blob for layer in record.layers)
    found = {
        blob.digest: Descriptor(blob.media_type, blob.digest, blob.size, annotations={_UNCOMPRESSED: blob.diff_id})
        for blob in blobs
    }
    return list(found.values())
