"""`--cache-to` and `--cache-from` values, checked before the build, as the places that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stagewright.errors import UsageError
from stagewright.exporters.attrs import Attrs
from stagewright.image.digest import is_digest
from stagewright.options import Cache
from stagewright.records import dataclass, field
from stagewright.registry.reference import Reference
from stagewright.snapshots.compress import Compression

TO, FROM = "--cache-to", "--cache-from"


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """An image of a registry, whose layers are those of the cache."""

    ref: Reference

    def __str__(self) -> str:
        return self.ref.familiar()


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """An OCI image layout in a folder."""

    folder: str
    tag: str
    digest: str | None = None

    def __str__(self) -> str:
        return self.folder


@dataclass(frozen=True, slots=True)
class InlinePlace:
    """The config of the image that is built."""

    def __str__(self) -> str:
        return "the image"


Place = RegistryPlace | LocalPlace | InlinePlace


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """One `--cache-to`.

    `is_max`: of all steps, not just of those whose layers are in the image. `as_image`: as a manifest, not an index.
    With `used_mounts` go the cache mounts that the build used, or with `mounts` those of these IDs.
    """

    place: Place
    is_max: bool = False
    compression: Compression = field(default_factory=Compression)
    force_compression: bool = False
    oci_mediatypes: bool = True
    as_image: bool = True
    ignores_errors: bool = False
    used_mounts: bool = False
    mounts: tuple[str, ...] = ()


def parse_export(cache: Cache, env: Mapping[str, str]) -> ExportSpec:
    """What a `--cache-to` asks for. Raises UsageError for what is unknown or makes no sense."""
    attrs = Attrs(cache.type, cache.attrs, TO)
    makers: dict[str, Callable[[], Place]] = {
        "registry": lambda: _registry(attrs),
        "local": lambda: LocalPlace(attrs.required("dest", "the folder to write to"), attrs.text("tag") or "latest"),
        "inline": InlinePlace,
    }
    place = _make(cache, makers, TO)
    is_max = attrs.choice("mode", "min", "max") == "max"
    ignores_errors = attrs.flag("ignore-error", False)
    used_mounts = attrs.flag("mounts", bool(cache.mounts))
    if cache.mounts and not used_mounts:
        raise UsageError(f"{TO} type={cache.type}: mounts=false and mount=ID exclude each other")
    if isinstance(place, InlinePlace):
        if is_max or used_mounts:
            what = "mode=max" if is_max else "cache mounts"
            raise UsageError(f"{TO} type=inline: an image has no place for {what}", hint="use another type")
        attrs.finish()
        return ExportSpec(place, ignores_errors=ignores_errors)
    compression = Compression(attrs.text("compression") or "gzip", attrs.integer("compression-level"))
    force = attrs.flag("force-compression", False)
    oci, as_image = True, True
    if isinstance(place, RegistryPlace | LocalPlace):
        oci = attrs.flag("oci-mediatypes", True)
        as_image = attrs.flag("image-manifest", oci)
        if as_image and not oci:
            raise UsageError(f"{TO} type={cache.type}: image-manifest=true needs oci-mediatypes=true")
    attrs.finish()
    return ExportSpec(place, is_max, compression, force, oci, as_image, ignores_errors, used_mounts, cache.mounts)


def parse_import(cache: Cache, env: Mapping[str, str]) -> Place:
    """The place that a `--cache-from` names. Raises UsageError for what is unknown or makes no sense."""
    attrs = Attrs(cache.type, cache.attrs, FROM)
    makers: dict[str, Callable[[], Place]] = {
        "registry": lambda: _registry(attrs),
        "local": lambda: _local_source(attrs),
    }
    if cache.mounts:
        raise UsageError(f"{FROM} has no mount=...: all cache mounts of a cache come with it")
    place = _make(cache, makers, FROM)
    attrs.finish()
    return place


def _make(cache: Cache, makers: Mapping[str, Callable[[], Place]], flag: str) -> Place:
    if cache.type not in makers:
        hint = f"one of {', '.join(makers)}"
        if cache.type == "inline":
            hint = "the cache in an image is imported by type=registry,ref=IMAGE"
        raise UsageError(f'{flag}: unknown type "{cache.type}"', hint=hint)
    return makers[cache.type]()


def _registry(attrs: Attrs) -> RegistryPlace:
    return RegistryPlace(Reference.parse(attrs.required("ref", "the name of an image")))


def _local_source(attrs: Attrs) -> LocalPlace:
    folder, digest = attrs.required("src", "the folder to read"), attrs.text("digest")
    if digest is not None and not is_digest(digest):
        raise UsageError(f'{FROM} type=local: digest="{digest}" is not a digest')
    return LocalPlace(folder, attrs.text("tag") or "latest", digest)
