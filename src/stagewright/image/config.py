"""The image config: what a container made from an image runs, and how the image came to be.

The OCI image-spec's image configuration with Docker's extensions (HEALTHCHECK, ONBUILD, SHELL).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stagewright.errors import IntegrityError
from stagewright.image.digest import validate_digest
from stagewright.image.gojson import Fields, dumps, loads_object
from stagewright.image.platform import Platform
from stagewright.patterns import pattern
from stagewright.records import dataclass, field

MAX_CONFIG_SIZE = 8 << 20
# The key under which BuildKit keeps the cache that comes with an image.
INLINE_CACHE = "moby.buildkit.cache.v0"

_TIME = pattern(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How to find out whether a container is well. Durations are nanoseconds; 0 means Docker's default.

    `test` is empty (inherit), ("NONE",), ("CMD", arguments...) or ("CMD-SHELL", command).
    """

    test: tuple[str, ...] = ()
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0

    @staticmethod
    def from_fields(fields: Fields) -> HealthCheck:
        """Read the object `Healthcheck`. Raises IntegrityError for values of another type."""
        return HealthCheck(
            test=fields.strings("Test"),
            interval_ns=fields.integer("Interval"),
            timeout_ns=fields.integer("Timeout"),
            start_period_ns=fields.integer("StartPeriod"),
            start_interval_ns=fields.integer("StartInterval"),
            retries=fields.integer("Retries"),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object in Go's field order, zero values left out."""
        return _present(
            Test=list(self.test),
            Interval=self.interval_ns,
            Timeout=self.timeout_ns,
            StartPeriod=self.start_period_ns,
            StartInterval=self.start_interval_ns,
            Retries=self.retries,
        )


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """The object `config` of an image config: the defaults of a container that runs the image.

    `env` holds `NAME=value` strings; `exposed_ports` holds `8080/tcp` strings; `volumes` holds paths.
    """

    user: str = ""
    exposed_ports: frozenset[str] = frozenset()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: frozenset[str] = frozenset()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: HealthCheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()

    @staticmethod
    def from_fields(fields: Fields) -> ContainerConfig:
        """Read the object `config`. Raises IntegrityError for values of another type; unknown keys are dropped."""
        healthcheck = fields.object("Healthcheck")
        return ContainerConfig(
            user=fields.string("User"),
            exposed_ports=fields.set_of_names("ExposedPorts"),
            env=fields.strings("Env"),
            entrypoint=fields.strings("Entrypoint"),
            cmd=fields.strings("Cmd"),
            volumes=fields.set_of_names("Volumes"),
            working_dir=fields.string("WorkingDir"),
            labels=fields.string_map("Labels"),
            stop_signal=fields.string("StopSignal"),
            args_escaped=fields.boolean("ArgsEscaped"),
            healthcheck=None if healthcheck is None else HealthCheck.from_fields(healthcheck),
            on_build=fields.strings("OnBuild"),
            shell=fields.strings("Shell"),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object in Go's field order, zero values left out."""
        value = _present(
            User=self.user,
            ExposedPorts={port: {} for port in sorted(self.exposed_ports)},
            Env=list(self.env),
            Entrypoint=list(self.entrypoint),
            Cmd=list(self.cmd),
            Volumes={path: {} for path in sorted(self.volumes)},
            WorkingDir=self.working_dir,
            Labels=dict(sorted(self.labels.items())),
            StopSignal=self.stop_signal,
            ArgsEscaped=self.args_escaped,
        )
        if self.healthcheck is not None:
            value["Healthcheck"] = self.healthcheck.to_json()
        return value | _present(OnBuild=list(self.on_build), Shell=list(self.shell))


@dataclass(frozen=True, slots=True)
class History:
    """How one layer (or, with `empty_layer`, one step without a layer) came to be. `created` is an RFC 3339 time."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    @staticmethod
    def from_fields(fields: Fields) -> History:
        """Read one entry of `history`. Raises IntegrityError for values of another type."""
        return History(
            created=_read_time(fields, "created"),
            created_by=fields.string("created_by"),
            author=fields.string("author"),
            comment=fields.string("comment"),
            empty_layer=fields.boolean("empty_layer"),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object in Go's field order, zero values left out."""
        return _present(
            created=self.created,
            created_by=self.created_by,
            author=self.author,
            comment=self.comment,
            empty_layer=self.empty_layer,
        )


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """A whole image config. `created` is an RFC 3339 time; `diff_ids` are the digests of the layers' plain tars.

    `cache` is the build cache that comes with the image, in the form of BuildKit's inline cache.
    """

    platform: Platform
    config: ContainerConfig = field(default_factory=ContainerConfig)
    created: str | None = None
    author: str = ""
    diff_ids: tuple[str, ...] = ()
    history: tuple[History, ...] = ()
    cache: bytes = b""

    @staticmethod
    def from_bytes(data: bytes) -> ImageConfig:
        """Read the document. Null stands for absent; unknown keys are dropped, and so is a cache.

        Raises IntegrityError for bad JSON, values of another type, bad diff IDs, and documents above 8 MiB.
        """
        if len(data) > MAX_CONFIG_SIZE:
            raise IntegrityError(f"image config has {len(data)} bytes, more than {MAX_CONFIG_SIZE}")
        fields = Fields(loads_object(data, "image config"), "image config")
        config, rootfs = fields.object("config"), fields.object("rootfs")
        return ImageConfig(
            platform=Platform.from_fields(fields),
            config=ContainerConfig() if config is None else ContainerConfig.from_fields(config),
            created=_read_time(fields, "created"),
            author=fields.string("author"),
            diff_ids=() if rootfs is None else tuple(validate_digest(diff) for diff in rootfs.strings("diff_ids")),
            history=tuple(History.from_fields(entry) for entry in fields.objects("history")),
        )

    def to_bytes(self) -> bytes:
        """The document as BuildKit writes it: outermost keys sorted, the objects below in Go's field order.

        An empty list of diff IDs or of history entries is null there, as in Go.
        """
        value: dict[str, Any] = {
            **self.platform.to_json(),
            "config": self.config.to_json(),
            "created": self.created,
            "history": [entry.to_json() for entry in self.history] or None,
            "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids) or None},
        }
        if self.author:
            value["author"] = self.author
        if self.cache:
            import base64

            value[INLINE_CACHE] = base64.b64encode(self.cache).decode()
        return dumps(dict(sorted(value.items())))


def _present(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}


def _read_time(fields: Fields, key: str) -> str | None:
    """An RFC 3339 time as Go writes it again: no trailing zeros, at most nine decimals, Z for an offset of 0."""
    text = fields.string(key)
    if not text:
        return None
    matched = _TIME.fullmatch(text)
    if matched is None:
        raise IntegrityError(f"{fields.what}: {key} is not an RFC 3339 time")
    seconds, fraction, offset = matched.groups()
    fraction = (fraction or "")[:10].rstrip("0").rstrip(".")
    return f"{seconds}{fraction}{'Z' if offset in ('+00:00', '-00:00') else offset}"
