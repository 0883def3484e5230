"""What a build may be asked, as data: the types that `stagewright.api` takes and gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from stagewright.progress.events import WarningEvent
from stagewright.records import dataclass, field, replace

Method = Literal["check", "outline", "targets"]
SecretLeakMode = Literal["fail", "warn", "off"]
SECRET_LEAK_MODES: tuple[SecretLeakMode, ...] = ("fail", "warn", "off")


@dataclass(frozen=True, slots=True)
class SecretSource:
    """A secret that steps may mount by `id`: the content of the file `path`, of the variable `env`, or `data`."""

    id: str
    path: str | None = None
    env: str | None = None
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SshSource:
    """An SSH agent that steps may mount by `id`: that of $SSH_AUTH_SOCK, a socket, or one holding key files."""

    id: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """One thing to make of the result.

    `type` is image, oci, docker, local, tar or cacheonly. `dest` is a path, "-" for standard output. `attrs` are the
    exporter's options as `docker buildx build --output` spells them.
    """

    type: str
    dest: str | None = None
    attrs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cache:
    """A place that a build's cache is exported to or imported from.

    `type` is registry, local, inline, s3 or gha. `attrs` are the options as `docker buildx build` spells those of
    `--cache-to` and `--cache-from`, and `mounts`: "true" exports the cache mounts that the build used, too. Of these
    `mounts` names some by their IDs, and others that the store has.
    """

    type: str
    attrs: Mapping[str, str] = field(default_factory=dict, repr=False)
    mounts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What each step may use of the machine, as `docker run` has it; None is for no limit, or the default of `pids`.

    `memory` and `memory_swap`, which is for both together, are bytes (-1: unlimited), `cpu_shares` a weight of 2 to
    262144, of which a step without a limit has 1024. A step gets `cpu_quota` microseconds of processor time in each
    period of `cpu_period`. The sets are lists as `0-3,7`. `pids` is the number of processes and threads (-1:
    unlimited). Steps' control groups are made in `cgroup_parent`, a path below the mount of their hierarchy.
    """

    memory: int | None = None
    memory_swap: int | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids: int | None = None
    cgroup_parent: str | None = None


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """All options of one build; `stagewright.api.build` says what each means."""

    context: str
    file: str | None = None
    dockerfile: bytes | None = field(default=None, repr=False)
    tags: tuple[str, ...] = ()
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    build_contexts: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[SecretSource, ...] = ()
    ssh: tuple[SshSource, ...] = ()
    outputs: tuple[Output, ...] = ()
    cache_from: tuple[Cache, ...] = ()
    cache_to: tuple[Cache, ...] = ()
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    pull: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    network: str = "default"
    allow: tuple[str, ...] = ()
    add_hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int | None = None
    ulimits: tuple[tuple[str, int, int], ...] = ()
    limits: StepLimits = field(default_factory=StepLimits)
    platform: str | None = None
    jobs: int | None = None
    offline: bool = False
    oci_runtime: str | None = None
    host_ca: str | bool | None = None
    secret_leak: SecretLeakMode = "fail"  # noqa: S105
    root: str | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made.

    `digest` is that of the image's manifest and `config_digest` its image ID; both None where no output was an image.
    `names` are the names it got. `warnings` are all that were reported. `cache` is the descriptor of the manifest or
    index of the last exported cache that has one.
    """

    digest: str | None
    config_digest: str | None
    descriptor: Mapping[str, Any] | None
    names: tuple[str, ...]
    warnings: tuple[WarningEvent, ...]
    cache: Mapping[str, Any] | None = None

    def metadata(self) -> dict[str, Any]:
        """What `docker buildx build --metadata-file` writes, as JSON-able data."""
        data: dict[str, Any] = {}
        if self.config_digest is not None:
            data["containerimage.config.digest"] = self.config_digest
        if self.descriptor is not None:
            data["containerimage.descriptor"] = dict(self.descriptor)
        if self.digest is not None:
            data["containerimage.digest"] = self.digest
        if self.names:
            data["image.name"] = ",".join(self.names)
        if self.cache is not None:
            # A text in a text, as BuildKit answers it.
            data["cache.manifest"] = json.dumps(dict(self.cache), separators=(",", ":"))
        return data


def with_inline_cache(options: BuildOptions) -> BuildOptions:
    """The options with the `--cache-to type=inline` that the build argument BUILDKIT_INLINE_CACHE stands for."""
    from stagewright.dockerfile.golang import parse_bool

    try:
        wanted = parse_bool(options.build_args.get("BUILDKIT_INLINE_CACHE", "0"))
    except ValueError:  # BuildKit takes no offence at what is neither.
        wanted = False
    if not wanted or any(cache.type == "inline" for cache in options.cache_to):
        return options
    return replace(options, cache_to=(*options.cache_to, Cache("inline")))


def outputs_of(outputs: Sequence[Output] | None, *, push: bool, load: bool) -> tuple[Output, ...]:
    """The outputs that the shorthands add up to; an image for the store where nothing is asked for."""
    wanted = list(outputs or ())
    if push:
        wanted.append(Output("image", attrs={"push": "true"}))
    if load:
        wanted.append(Output("docker", attrs={"load": "true"}))
    return tuple(wanted) or (Output("image"),)
