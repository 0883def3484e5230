"""`--cache-to` and `--cache-from` values, checked before the build, as the places that they name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TypeVar

from stagewright.errors import UsageError
from stagewright.exporters.attrs import Attrs
from stagewright.image.digest import is_digest
from stagewright.options import Cache
from stagewright.patterns import pattern
from stagewright.records import dataclass, field
from stagewright.redaction import credentials_in, without_login
from stagewright.registry.reference import Reference
from stagewright.snapshots.compress import Compression

TO, FROM = "--cache-to", "--cache-from"
_TAG = "latest"
_INSECURE = "registry.insecure"
_UPLOADS = 4
_TOUCH_S = 24 * 3600.0
_TIMEOUT_S = 600.0


class InactiveError(UsageError):
    """A cache is one of a CI service's jobs, and this is none of its jobs."""


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """An image of a registry, whose layers are those of the cache. `insecure`: without TLS that anybody vouches for."""

    ref: Reference
    insecure: bool = False

    def __str__(self) -> str:
        return self.ref.familiar()

    def lasting(self) -> dict[str, str]:
        """The options of a `--cache-from` that leads here from another build, without credentials."""
        options = {"type": "registry", "ref": str(self.ref)}
        return {**options, _INSECURE: "true"} if self.insecure else options


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """An OCI image layout in a folder."""

    folder: str
    tag: str
    digest: str | None = None

    def __str__(self) -> str:
        return self.folder if self.tag == _TAG else f"{self.folder}:{self.tag}"

    def lasting(self) -> dict[str, str]:
        """See `RegistryPlace`."""
        return {"type": "local", "src": os.path.abspath(self.folder)}


@dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket of an S3 server. Without keys they are those of the environment, as boto3 finds them.

    A cache goes by each of `names`; the first is the one that is read. What is there already, and was not written for
    `touch_s` seconds, is made as good as new, for a bucket whose content expires.
    """

    bucket: str
    region: str
    prefix: str = ""
    blobs_prefix: str = "blobs/"
    manifests_prefix: str = "manifests/"
    names: tuple[str, ...] = ("buildkit",)
    touch_s: float = _TOUCH_S
    endpoint_url: str | None = None
    path_style: bool = False
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}{self.manifests_prefix}{self.names[0]}"

    def lasting(self) -> dict[str, str]:
        """See `RegistryPlace`."""
        options = {"type": "s3", "bucket": self.bucket, "region": self.region, "prefix": self.prefix}
        options["blobs_prefix"] = self.blobs_prefix
        if self.endpoint_url is not None:
            options["endpoint_url"] = without_login(self.endpoint_url)
        return {**options, "use_path_style": str(self.path_style).lower()}


@dataclass(frozen=True, slots=True)
class GhaListing:
    """GitHub's API, which lists the caches of a repository (OWNER/NAME)."""

    api: str
    repository: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GhaPlace:
    """The cache service of GitHub Actions, by version 1 or 2 of its interface.

    To read what is there, or an export, may take `timeout_s`. With `listing` taken keys are asked for all at once.
    """

    url: str
    token: str = field(repr=False)
    version: int
    scope: str = "buildkit"
    timeout_s: float = _TIMEOUT_S
    listing: GhaListing | None = None

    def __str__(self) -> str:
        return f"GitHub Actions ({self.scope})"

    def lasting(self) -> dict[str, str]:
        """See `RegistryPlace`. The URL is of one job, as its token is."""
        return {"type": "gha", "scope": self.scope, "version": str(self.version)}


@dataclass(frozen=True, slots=True)
class InlinePlace:
    """The config of the image that is built."""

    def __str__(self) -> str:
        return "the image"


P = TypeVar("P")
_REPOSITORY = pattern(r"[\w.-]+/[\w.-]+")
Place = RegistryPlace | LocalPlace | S3Place | GhaPlace


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """One `--cache-to`.

    `is_max`: of all steps, not just of those whose layers are in the image. `as_image`: as a manifest, not an index.
    `ignores_errors`: what goes wrong is a warning. `uploads` is how many blobs are sent at once. With `used_mounts` go
    the cache mounts that the build used, or with `mounts` those of these IDs.
    """

    place: Place | InlinePlace
    is_max: bool = False
    compression: Compression = field(default_factory=Compression)
    force_compression: bool = False
    oci_mediatypes: bool = True
    as_image: bool = True
    ignores_errors: bool = True
    uploads: int = _UPLOADS
    used_mounts: bool = False
    mounts: tuple[str, ...] = ()


def parse_export(cache: Cache, env: Mapping[str, str]) -> ExportSpec:
    """What a `--cache-to` asks for. Raises UsageError for what is unknown or makes no sense."""
    attrs = Attrs(cache.type, cache.attrs, TO)
    makers: dict[str, Callable[[], Place | InlinePlace]] = {
        "registry": lambda: _registry(attrs),
        "local": lambda: LocalPlace(attrs.required("dest", "the folder to write to"), attrs.text("tag") or _TAG),
        "inline": InlinePlace,
        "s3": lambda: _s3(attrs, env, TO),
        "gha": lambda: _gha(attrs, env, TO),
    }
    place = _make(cache, makers, TO)
    is_max = attrs.choice("mode", "min", "max") == "max"
    # BuildKit's default is false: but outputs were made by then, and whoever waits for them has no use for a failure.
    ignores_errors = attrs.flag("ignore-error", True)
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
    uploads = _UPLOADS
    if isinstance(place, S3Place) and (number := attrs.integer("upload_parallelism")) is not None:
        if number < 1:
            raise UsageError(f"{TO} type=s3: upload_parallelism={number} is less than one")
        uploads = number
    attrs.finish()
    kept = (used_mounts, cache.mounts)
    return ExportSpec(place, is_max, compression, force, oci, as_image, ignores_errors, uploads, *kept)


def parse_import(cache: Cache, env: Mapping[str, str]) -> Place:
    """The place that a `--cache-from` names. Raises UsageError for what is unknown or makes no sense."""
    attrs = Attrs(cache.type, cache.attrs, FROM)
    makers: dict[str, Callable[[], Place]] = {
        "registry": lambda: _registry(attrs),
        "local": lambda: _local_source(attrs),
        "s3": lambda: _s3(attrs, env, FROM),
        "gha": lambda: _gha(attrs, env, FROM),
    }
    if cache.mounts:
        raise UsageError(f"{FROM} has no mount=...: all cache mounts of a cache come with it")
    place = _make(cache, makers, FROM)
    attrs.finish()
    return place


def _make(cache: Cache, makers: Mapping[str, Callable[[], P]], flag: str) -> P:
    if cache.type not in makers:
        hint = f"one of {', '.join(makers)}"
        if cache.type == "inline":
            hint = "the cache in an image is imported by type=registry,ref=IMAGE"
        raise UsageError(f'{flag}: unknown type "{cache.type}"', hint=hint)
    return makers[cache.type]()


def _registry(attrs: Attrs) -> RegistryPlace:
    return RegistryPlace(Reference.parse(attrs.required("ref", "the name of an image")), attrs.flag(_INSECURE, False))


def _local_source(attrs: Attrs) -> LocalPlace:
    folder, digest = attrs.required("src", "the folder to read"), attrs.text("digest")
    if digest is not None and not is_digest(digest):
        raise UsageError(f'{FROM} type=local: digest="{digest}" is not a digest')
    return LocalPlace(folder, attrs.text("tag") or _TAG, digest)


def _s3(attrs: Attrs, env: Mapping[str, str], flag: str) -> S3Place:
    found: dict[str, str] = {}
    for key in ("bucket", "region"):
        variable = f"AWS_{key.upper()}"
        found[key] = attrs.text(key) or env.get(variable, "")
        if not found[key]:
            raise UsageError(f"{flag} type=s3 needs {key}=... or ${variable}")
    key_id, secret = attrs.text("access_key_id"), attrs.text("secret_access_key")
    if (key_id is None) != (secret is None):
        raise UsageError(f"{flag} type=s3: access_key_id and secret_access_key belong together")
    place = S3Place(
        found["bucket"],
        found["region"],
        attrs.text("prefix") or "",
        attrs.text("blobs_prefix") or "blobs/",
        attrs.text("manifests_prefix") or "manifests/",
        tuple(name for name in (attrs.text("name") or "buildkit").split(";") if name) or ("buildkit",),
        attrs.duration("touch_refresh", _TOUCH_S) if flag == TO else _TOUCH_S,
        attrs.text("endpoint_url"),
        attrs.flag("use_path_style", False),
        key_id,
        secret,
        attrs.text("session_token"),
    )
    if find_spec("boto3") is None:
        raise UsageError(f"{flag} type=s3 needs boto3, which is not installed", hint="pip install 'stagewright[s3]'")
    return place


def _gha(attrs: Attrs, env: Mapping[str, str], flag: str) -> GhaPlace:
    first, second = attrs.text("url"), attrs.text("url_v2")
    by_default = "2" if second or env.get("ACTIONS_CACHE_SERVICE_V2", "").lower() in ("1", "t", "true") else "1"
    version = attrs.choice("version", by_default, *({"1", "2"} - {by_default}))
    results = env.get("ACTIONS_RESULTS_URL")
    url = second or results if version == "2" else first or env.get("ACTIONS_CACHE_URL") or results
    token = attrs.text("token") or env.get("ACTIONS_RUNTIME_TOKEN")
    scope = attrs.text("scope") or "buildkit"
    if not url or not token:
        option, variable = ("token", "ACTIONS_RUNTIME_TOKEN") if url else ("url", "ACTIONS_CACHE_URL")
        if version == "2" and not url:
            option, variable = "url_v2", "ACTIONS_RESULTS_URL"
        raise InactiveError(
            f"{flag} type=gha needs {option}=... or ${variable}",
            hint="steps of a workflow have it when an action such as crazy-max/ghaction-github-runtime exports it",
        )
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{flag} type=gha: the URL of the cache service is not one of http or https")
    listing = _gha_listing(attrs, env) if flag == TO else None
    return GhaPlace(url, token, int(version), scope, attrs.duration("timeout", _TIMEOUT_S), listing)


def _gha_listing(attrs: Attrs, env: Mapping[str, str]) -> GhaListing | None:
    token = attrs.text("ghtoken")
    repository = attrs.text("repository") or env.get("GITHUB_REPOSITORY")
    if not token:
        return None
    if not repository or not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"{TO} type=gha: ghtoken needs repository=OWNER/NAME or $GITHUB_REPOSITORY")
    return GhaListing(env.get("GITHUB_API_URL") or "https://api.github.com", repository, token)


# The options, and the variables of the environment, that are credentials.
_SECRET_OPTIONS = ("access_key_id", "secret_access_key", "session_token", "token", "ghtoken")
_SECRET_VARIABLES = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "gha": ("ACTIONS_RUNTIME_TOKEN",),
}


def credentials_of(caches: Iterable[Cache], env: Mapping[str, str]) -> list[str]:
    """What the places of caches are asked with, and nobody else may see."""
    found = []
    for cache in caches:
        found += [cache.attrs[key] for key in _SECRET_OPTIONS if key in cache.attrs]
        found += [env[name] for name in _SECRET_VARIABLES.get(cache.type, ()) if name in env]
        found += credentials_in(cache.attrs.get("endpoint_url", ""))
    return [value for value in dict.fromkeys(found) if value]
