"""The image store as people see it: list, inspect, tag, remove, push, pull, save, load, and the space that it takes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from stagewright import config as settings
from stagewright.cache.leases import BuildLease
from stagewright.content.images import StoredImage
from stagewright.errors import IntegrityError, NotFoundError, PrivilegeNeededError, UsageError
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import is_digest, sha256_digest
from stagewright.image.gojson import loads_object
from stagewright.image.manifest import Manifest, parse_manifest
from stagewright.image.platform import host_platform, parse_platform
from stagewright.options import Cache
from stagewright.patterns import pattern
from stagewright.policy import Policy, parse_filters
from stagewright.progress.events import Sink
from stagewright.progress.reporter import Emitter, Reporter, Status
from stagewright.records import dataclass, replace
from stagewright.registry.reference import Reference
from stagewright.reports import CacheMountRow, ImageInfo, Means, PruneReport, StoreCheck, UsageRow
from stagewright.state import State

if TYPE_CHECKING:
    from stagewright.config import Config
    from stagewright.registry.client import RegistryClient
    from stagewright.registry.documents import BlobProgress
    from stagewright.travel.stored import LeftLayers

_ID = pattern(r"(?:sha256:)?([0-9a-f]{6,64})")


@dataclass(frozen=True, slots=True)
class _Image:
    """An image as it was found: all its names, what they lead to, and its documents."""

    names: tuple[str, ...]
    target: Descriptor
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    config_bytes: bytes

    @property
    def size(self) -> int:
        blobs = {blob.digest: blob.size for blob in (self.descriptor, self.manifest.config, *self.manifest.layers)}
        return sum(blobs.values())


class Store:
    """The images, the build cache and the settings of one state directory.

    `root` is the directory and `config` the configuration file; both have the command line's defaults. An image is
    named by a reference (`app:latest`), or by the digest of its manifest, its index or its config, or by the first six
    or more digits of one. Methods raise NotFoundError for an image that is not here, StoreError where the directory
    cannot be used, and IntegrityError where an image is damaged.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, config: str | os.PathLike[str] | None = None
    ) -> None:
        self._env: Mapping[str, str] = os.environ
        self._config_path = None if config is None else os.fspath(config)
        self._state = State(None if root is None else os.fspath(root), self._env)

    def close(self) -> None:
        """Close the metadata file."""
        self._state.close()

    @cached_property
    def _config(self) -> Config:
        return settings.load(self._config_path, self._env)

    @cached_property
    def _left(self) -> LeftLayers:
        from stagewright.travel.stored import LeftLayers

        return LeftLayers(self._state, lambda: self._config, self._env)

    # --- images ---------------------------------------------------------------------------------------------------

    def images(self) -> list[ImageInfo]:
        """All names, in order."""
        return [self._info(image) for image in self._state.images.list()]

    def inspect(self, image: str) -> dict[str, Any]:
        """Everything about an image as plain data; its `config` is the whole document."""
        found = self._load(*self._find(image))
        config = loads_object(found.config_bytes, "image config")
        return {
            "name": found.names[0] if found.names else None,
            "names": list(found.names),
            "digest": found.target.digest,
            "media_type": found.target.media_type,
            "manifest_digest": found.descriptor.digest,
            "config_digest": found.manifest.config.digest,
            "platform": str(found.config.platform),
            "created": found.config.created,
            "size": found.size,
            "annotations": dict(found.manifest.annotations),
            "layers": [
                {"digest": layer.digest, "size": layer.size, "media_type": layer.media_type, "diff_id": diff_id}
                for layer, diff_id in zip(found.manifest.layers, found.config.diff_ids, strict=True)
            ],
            "config": config,
            "history": config.get("history") or [],
        }

    def layers(self, image: str) -> dict[str, Any]:
        """What each layer of an image brings, what later ones delete or overwrite of it, and the largest folders."""
        from stagewright.anatomy.report import layers_data
        from stagewright.anatomy.tree import read_tree

        with BuildLease(self._state.locks):
            found = self._load(*self._find(image))
            self._left.bring(image, found.descriptor)
            return layers_data(image, read_tree(self._state.blobs, found.manifest, found.config))

    def diff(self, old: str, new: str) -> dict[str, Any]:
        """How the image `new` differs from `old`: config, packages and files, as plain data."""
        from stagewright.anatomy.packages import holds_packages
        from stagewright.anatomy.report import diff_data
        from stagewright.anatomy.tree import read_tree

        blobs = self._state.blobs
        with BuildLease(self._state.locks):
            first, second = (self._load(*self._find(image)) for image in (old, new))
            for image, found in ((old, first), (new, second)):
                self._left.bring(image, found.descriptor)
            trees = (
                read_tree(blobs, first.manifest, first.config, with_digests=True, keeps=holds_packages),
                read_tree(blobs, second.manifest, second.config, with_digests=True, keeps=holds_packages),
            )
        return diff_data((old, new), trees, (first.config_bytes, second.config_bytes))

    def tag(self, image: str, name: str) -> None:
        """Let `name` lead to the image, too, whatever it led to before. Raises UsageError for a name with a digest."""
        reference = Reference.parse(name)
        if reference.digest is not None:
            raise UsageError(f"cannot tag {name}: a name that is given has no digest")
        with BuildLease(self._state.locks):
            target, _ = self._find(image)
            self._state.images.put(str(reference), target)

    def remove(self, image: str) -> list[str]:
        """Remove a name or, where `image` is a digest, all names of an image; answers lines that say what is gone.

        With its last name the image goes, but for what the build cache needs of it.
        """
        from stagewright.collect import Collector

        target, names = self._find(image)
        named = self._exact(image)
        gone = [named] if named is not None else names
        for name in gone:
            self._state.images.remove(name)
        lines = [f"Untagged: {_familiar(name)}" for name in gone]
        if len(gone) == len(names) and target.digest in Collector(self._state).drop_image(target):
            lines.append(f"Deleted: {target.digest}")
        return lines

    def _find(self, image: str) -> tuple[Descriptor, list[str]]:
        """What `image` leads to and all whole names that lead there."""
        stored = self._state.images.list()
        name = self._exact(image)
        if name is not None:
            target = next(entry.descriptor for entry in stored if entry.name == name)
        else:
            target = self._by_digest(image, stored)
        return target, [entry.name for entry in stored if entry.descriptor.digest == target.digest]

    def _exact(self, image: str) -> str | None:
        """The whole name that `image` is, None if it is no name in the store."""
        try:
            name = str(Reference.parse(image))
        except UsageError:
            if _ID.fullmatch(image) or is_digest(image):
                return None
            raise
        return name if self._state.images.get(name) is not None else None

    def _by_digest(self, image: str, stored: Iterable[StoredImage]) -> Descriptor:
        if is_digest(image) and self._state.blobs.has(image):
            unnamed = self._unnamed(image)
            if unnamed is not None:
                return unnamed
        matched = _ID.fullmatch(image)
        repository, at, digest = image.rpartition("@")
        found: dict[str, Descriptor] = {}
        for entry in stored:
            if at and Reference.parse(entry.name).name != Reference.parse(f"{repository}@{digest}").name:
                continue
            for known in self._digests(entry):
                if known in (image, digest) or (matched and known.startswith(f"sha256:{matched.group(1)}")):
                    found[entry.descriptor.digest] = entry.descriptor
        if len(found) > 1:
            raise UsageError(f"{image} is the beginning of several digests: {', '.join(sorted(found))}")
        if not found:
            raise NotFoundError(f"no image {image} in the store", hint="see: stagewright images")
        return next(iter(found.values()))

    def _unnamed(self, digest: str) -> Descriptor | None:
        """The descriptor of a manifest that is in the store, with a name or without; None for another blob."""
        size = self._state.blobs.size(digest)
        try:
            document = parse_manifest(self._state.blobs.read(digest))
        except IntegrityError:
            return None  # It is a config or a layer.
        return Descriptor(document.media_type, digest, size)

    def _digests(self, entry: StoredImage) -> list[str]:
        """By which digests an image is known."""
        from stagewright.reach import image_manifest

        digests = [entry.descriptor.digest]
        try:
            descriptor, manifest = image_manifest(self._state.blobs, entry.descriptor)
        except (NotFoundError, IntegrityError):
            return digests  # What is damaged can be named by what is left.
        return [*digests, descriptor.digest, manifest.config.digest]

    def _load(self, target: Descriptor, names: Sequence[str]) -> _Image:
        from stagewright.reach import image_manifest

        descriptor, manifest = image_manifest(self._state.blobs, target)
        config_bytes = self._state.blobs.read(manifest.config.digest)
        config = ImageConfig.from_bytes(config_bytes)
        if len(config.diff_ids) != len(manifest.layers):
            raise IntegrityError(
                f"image {descriptor.digest} has {len(manifest.layers)} layers, its config {len(config.diff_ids)}"
            )
        return _Image(tuple(map(_familiar, names)), target, descriptor, manifest, config, config_bytes)

    def _info(self, image: StoredImage) -> ImageInfo:
        name, target = _familiar(image.name), image.descriptor
        try:
            found = self._load(target, [image.name])
        except (NotFoundError, IntegrityError):
            # A damaged image must be seen in the list to be removed.
            return ImageInfo(name, target.digest, "", None, target.size, "unknown")
        created = _seconds(found.config.created)
        return ImageInfo(
            name, target.digest, found.manifest.config.digest, created, found.size, str(found.config.platform)
        )

    # --- registries -----------------------------------------------------------------------------------------------

    def push(self, image: str, on_event: Sink | None = None) -> str:
        """Upload an image, which must be given by name, to its registry; answers the digest that the registry has.

        Raises RegistryError and UsageError beside those of the class.
        """
        name = self._exact(image)
        if name is None:
            raise NotFoundError(f"no image {image} in the store", hint="an image is pushed by its name")
        reference = Reference.parse(name)
        with BuildLease(self._state.locks), self._client() as client:
            target = self._find(image)[0]
            with _vertex(on_event, f"pushing {reference.familiar()}") as reporter, _rows(reporter) as progress:
                self._left.push(image, client, reference, target, progress)
        return target.digest

    def pull(self, image: str, platform: str | None = None, on_event: Sink | None = None) -> str:
        """Download the image of one platform, the host's unless given; answers the digest of its manifest.

        Raises RegistryError and UsageError beside those of the class.
        """
        from stagewright.registry.transfer import fetch_layers, pull_image

        reference = Reference.parse(image)
        wanted = parse_platform(platform) if platform else host_platform()
        blobs = self._state.blobs
        with BuildLease(self._state.locks), self._client() as client:
            with _vertex(on_event, f"pulling {reference.familiar()}") as reporter, _rows(reporter) as progress:
                descriptor, manifest, _ = pull_image(client, reference, wanted, blobs, progress=progress)
                fetch_layers(client, reference, manifest, blobs, progress=progress)
            # The manifest and not its index, most of which is not here: what has a name can be pushed.
            self._state.images.put(str(reference), descriptor)
        return descriptor.digest

    @contextmanager
    def _client(self) -> Iterator[RegistryClient]:
        from stagewright.registry.client import RegistryClient

        with closing(RegistryClient(self._config, self._env)) as client:
            yield client

    # --- archives -------------------------------------------------------------------------------------------------

    def save(self, images: Sequence[str], stream: BinaryIO, format: Literal["docker", "oci"] = "docker") -> None:
        """Write images to a stream as one archive: for `docker load`, or an OCI image layout.

        An image that is given by digest has no name there. Raises UsageError for another format.
        """
        from stagewright.exporters.archive import ArchiveImage, write_archive
        from stagewright.reach import image_manifest
        from stagewright.snapshots.sinks import FileSink

        if format not in ("docker", "oci"):
            raise UsageError(f"unknown archive format {format}", hint="use docker or oci")
        blobs = self._state.blobs
        with BuildLease(self._state.locks):
            found: list[ArchiveImage] = []
            for image in images:
                target, _ = self._find(image)
                name = self._exact(image)
                # Docker's format has no place for an index.
                descriptor = image_manifest(blobs, target)[0] if format == "docker" else target
                self._left.bring(image, descriptor)
                found.append(ArchiveImage(descriptor, () if name is None else (Reference.parse(name),)))
            write_archive(found, blobs, FileSink(stream), docker=format == "docker")

    def load(self, stream: BinaryIO) -> list[str]:
        """Read all images of an OCI or Docker archive, plain or compressed, which need not be seekable.

        Answers their names, and the digests of those that have none. Raises IntegrityError, and names nothing, for an
        archive that is damaged or hostile.
        """
        from stagewright.loading import load_images

        names = []
        with BuildLease(self._state.locks):
            images = load_images(stream, self._state.blobs)
            with self._state.db.transaction():
                for image in images:
                    for reference in image.names:
                        self._state.images.put(str(reference), image.descriptor)
                    names += [reference.familiar() for reference in image.names] or [image.descriptor.digest]
        return names

    # --- cache mounts ---------------------------------------------------------------------------------------------

    def cache_mounts(self) -> list[CacheMountRow]:
        """The folders that steps keep between builds by `RUN --mount=type=cache`."""
        rows: list[CacheMountRow] = self._call("stagewright.travel.calls:list_mounts", ())
        return rows

    def remove_cache_mounts(self, ids: Sequence[str]) -> list[str]:
        """Remove cache mounts by their IDs, answers which. Raises StoreError for one that a build uses."""
        gone: list[str] = self._call("stagewright.travel.calls:remove_mounts", (list(ids),))
        return gone

    def export_cache_mounts(self, place: Cache, ids: Sequence[str] = (), on_event: Sink | None = None) -> None:
        """Export cache mounts, all where no IDs are given, to where a cache may be exported to.

        The place then leads to these mounts and to nothing else. Raises as a build's export.
        """
        where = (self._config_path, dict(self._env), place, list(ids))
        self._call("stagewright.travel.calls:export_mounts", where, on_event)

    def import_cache_mounts(self, place: Cache, ids: Sequence[str] = (), on_event: Sink | None = None) -> list[str]:
        """Import the cache mounts of an exported cache, all where no IDs are given; answers which.

        One that is here already stays as it is. Raises as a build's import would warn.
        """
        where = (self._config_path, dict(self._env), place, list(ids))
        imported: list[str] = self._call("stagewright.travel.calls:import_mounts", where, on_event)
        return imported

    # --- space and settings ---------------------------------------------------------------------------------------

    def prune(
        self,
        all: bool = False,
        filters: Sequence[str] = (),
        reserved_space: int = 0,
        max_used_space: int = 0,
        min_free_space: int = 0,
    ) -> PruneReport:
        """Remove what nothing needs; with `all` everything that is not part of a named image.

        With filters (`until=24h`, `type=exec.cachemount`, `id=5`) or limits in bytes also of the build cache what the
        filters choose, what was used longest ago first, until the limits hold: see `stagewright.policy`. While a build
        runs, only what dead processes left is removed, and the report says so. Raises UsageError.
        """
        policy = replace(
            parse_filters(filters, settings.parse_duration),
            reserved=reserved_space,
            max_used=max_used_space,
            min_free=min_free_space,
        )
        chosen = policy != Policy()
        report: PruneReport = (
            self._through_the_door("reclaim", (policy,)) if chosen else self._through_the_door("prune", all)
        )
        return report

    def disk_usage(self, filters: Sequence[str] = ()) -> list[UsageRow]:
        """What takes space, as far as filters let it through, which are those of `prune`. Raises UsageError."""
        policy = parse_filters(filters, settings.parse_duration)
        rows: list[UsageRow] = self._through_the_door("disk_usage")
        now = time.time()
        return [row for row in rows if policy.lets_go(row, now)]

    def check(self, repair: bool = False) -> StoreCheck:
        """Look for what is wrong in the store; with `repair` remove it, so that builds make it anew.

        Nothing is repaired while a build or a transfer uses the store.
        """
        check: StoreCheck = self._through_the_door("check", repair)
        return check

    def _through_the_door(self, task: str, *arguments: Any) -> Any:
        """Run a function of `stagewright.upkeep`, which may have to look into and remove other users' files."""
        return self._call(f"stagewright.upkeep:{task}", arguments)

    def _call(self, function: str, arguments: Sequence[Any], on_event: Sink | None = None) -> Any:
        """Run a function ("module:name") on the state directory where it may touch other users' files."""
        from stagewright.door import passage

        return passage.call(function, (str(self._state.root), *arguments), on_event, threading.Event())

    def info(self) -> dict[str, Any]:
        """The version, the settings in force, what this machine supports and what the store holds, as plain data."""
        from stagewright.door.facts import machine_facts
        from stagewright.version import VERSION

        means = self._means()
        chroot = self._config.chroot or means.forgone is not None
        return {
            "version": VERSION,
            "root": str(self._state.root),
            "config": settings.path_in_force(self._config_path, self._env),
            "platform": str(host_platform()),
            "cpus": os.cpu_count(),
            "snapshotter": means.snapshotter,
            "runtime": "chroot" if chroot else self._config.oci_runtime or "native",
            "missing": {
                **{f"snapshotter {name}": reason for name, reason in means.refusals},
                **({"isolation of steps": means.forgone} if means.forgone is not None else {}),
            },
            "machine": {
                fact.name: f"{fact.value} ({fact.missing})" if fact.missing else fact.value for fact in machine_facts()
            },
            "store": {
                "images": len(self._state.images.list()),
                "blobs": sum(1 for _ in self._state.blobs.digests()),
                "snapshots": len(self._state.snapshots.rows()),
                "cache_mounts": self._state.db.query("SELECT count(*) FROM cache_mounts")[0][0],
            },
        }


    def _means(self) -> Means:
        """How this process builds; where it cannot at all, nothing but why."""
        snapshotter = "copies" if self._config.chroot else self._config.snapshotter
        try:
            found: Means = self._through_the_door("means", snapshotter)
        except PrivilegeNeededError as error:
            return Means("none", tuple((name, error.message) for name in ("overlay", "fuse-overlayfs", "copies")))
        return found


def _familiar(name: str) -> str:
    return Reference.parse(name).familiar()


def _seconds(created: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time."""
    from datetime import datetime

    if created is None:
        return None
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return None  # Its form is right, but there is no such day.


@contextmanager
def _vertex(on_event: Sink | None, name: str) -> Iterator[Reporter]:
    with Emitter(on_event).vertex(sha256_digest(name.encode()), name) as reporter:
        yield reporter


@contextmanager
def _rows(reporter: Reporter) -> Iterator[BlobProgress]:
    """A callback that shows each blob of a transfer as a row of progress."""
    rows: dict[str, Status] = {}
    lock = threading.Lock()

    def report(blob: Descriptor, current: int, total: int) -> None:
        with lock:
            row = rows.setdefault(blob.digest, Status(reporter, blob.digest, total, time.time()))
        row.update(current, total)

    yield report
    for row in rows.values():
        row.done()
