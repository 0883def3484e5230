"""The library's face: `build()`, `Store` and `History`. The command line calls these, and nothing below them."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stagewright.options import (
    BuildOptions,
    BuildResult,
    Cache,
    Method,
    Output,
    SecretLeakMode,
    SecretSource,
    SshSource,
    StepLimits,
    outputs_of,
)
from stagewright.progress.events import Sink
from stagewright.reports import (
    CacheMountRow,
    CheckReport,
    ImageInfo,
    Outline,
    PruneReport,
    StoreCheck,
    StoreProblem,
    TargetList,
    UsageRow,
)

if TYPE_CHECKING:
    from stagewright.builds import History
    from stagewright.linting import LintReport
    from stagewright.store import Store

__all__ = [
    "BuildResult",
    "Cache",
    "CacheMountRow",
    "CheckReport",
    "History",
    "ImageInfo",
    "Outline",
    "Output",
    "PruneReport",
    "SecretSource",
    "SshSource",
    "StepLimits",
    "Store",
    "StoreCheck",
    "StoreProblem",
    "TargetList",
    "UsageRow",
    "build",
    "call",
    "dry_run",
    "lint",
]


def __getattr__(name: str) -> object:
    # A build has no use for them.
    if name == "History":
        from stagewright.builds import History

        return History
    if name == "Store":
        from stagewright.store import Store

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build(
    context: str | os.PathLike[str] = ".",
    *,
    file: str | os.PathLike[str] | None = None,
    dockerfile: bytes | None = None,
    tags: Sequence[str] = (),
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    build_contexts: Mapping[str, str] | None = None,
    secrets: Sequence[SecretSource] = (),
    ssh: Sequence[SshSource] = (),
    outputs: Sequence[Output] | None = None,
    push: bool = False,
    load: bool = False,
    cache_from: Sequence[Cache] = (),
    cache_to: Sequence[Cache] = (),
    no_cache: bool = False,
    no_cache_filter: Sequence[str] = (),
    pull: bool = False,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    network: str = "default",
    allow: Sequence[str] = (),
    add_hosts: Sequence[tuple[str, str]] = (),
    shm_size: int | None = None,
    ulimits: Sequence[tuple[str, int, int]] = (),
    limits: StepLimits | None = None,
    platform: str | None = None,
    jobs: int | None = None,
    offline: bool = False,
    oci_runtime: str | None = None,
    host_ca: str | bool | None = None,
    secret_leak: SecretLeakMode = "fail",  # noqa: S107
    root: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    on_event: Sink | None = None,
    cancel: threading.Event | None = None,
) -> BuildResult:
    """Build an image.

    Each argument means what the flag of that name means to `docker buildx build`: `context` is the folder of the build
    context, a git repository, or the URL of an archive or of a Dockerfile alone; `file` is the Dockerfile's path
    (default `Dockerfile` in the context), `dockerfile` its text instead, `build_args` name to value, `build_contexts`
    the name of a stage or image to what stands for it, `outputs` what to make (default: an image in the store, under
    `tags`), `cache_from` and `cache_to` where caches are imported from and exported to, `shm_size` in bytes,
    `ulimits` (name, soft, hard), `allow` entitlements; `limits` gathers those of memory,
    processors and processes. `jobs` bounds the steps that run at once, `offline` forbids to ask registries and other
    servers, `oci_runtime` is the path of an OCI runtime to run steps with, `host_ca` lets steps trust the host's CA
    bundle (True) or that of a path. `root` is the state directory and `config` the configuration file.

    The files that the build leaves and the image's config are searched for the values of `secrets`. `secret_leak` says
    what comes of a find: "fail" raises SecretLeakError, "warn" reports a warning, "off" searches nothing.

    When the build has ended, garbage may be collected by a process of its own, as the configuration says.

    `on_event` gets every event, from several threads, one at a time. Setting `cancel` from any thread stops the build,
    which then raises CanceledError. All errors are of `stagewright.errors`; a step that fails raises StepFailedError.
    """
    from stagewright.afterwards import collect_afterwards, sync_afterwards, sync_before
    from stagewright.door import passage

    cancel = cancel or threading.Event()
    options = _options(
        context,
        file,
        dockerfile,
        root,
        config,
        cancel,
        tags=tags,
        target=target,
        build_args=build_args,
        build_contexts=build_contexts,
        secrets=secrets,
        ssh=ssh,
        outputs=outputs_of(outputs, push=push, load=load),
        cache_from=cache_from,
        cache_to=cache_to,
        no_cache=no_cache,
        no_cache_filter=no_cache_filter,
        pull=pull,
        labels=labels,
        annotations=annotations,
        network=network,
        allow=allow,
        add_hosts=add_hosts,
        shm_size=shm_size,
        ulimits=ulimits,
        limits=limits,
        platform=platform,
        jobs=jobs,
        offline=offline,
        oci_runtime=oci_runtime,
        host_ca=host_ca,
        secret_leak=secret_leak,
    )
    sync_before(options.root or "")
    try:
        result: BuildResult = passage.call(
            "stagewright.builder:run_build", (options, dict(os.environ)), on_event, cancel
        )
    finally:
        sync_afterwards(options.root or "")
        collect_afterwards(options.root or "", options.config, os.environ)
    return result


def call(
    method: Method,
    context: str | os.PathLike[str] = ".",
    *,
    file: str | os.PathLike[str] | None = None,
    dockerfile: bytes | None = None,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    build_contexts: Mapping[str, str] | None = None,
    pull: bool = False,
    platform: str | None = None,
    offline: bool = False,
    root: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    on_event: Sink | None = None,
    cancel: threading.Event | None = None,
) -> CheckReport | Outline | TargetList:
    """Ask something of a Dockerfile instead of building it, as `docker buildx build --call` does.

    `method` "check" runs the build checks, over all stages where no `target` is named, and answers a CheckReport;
    "outline" says what the target can be given, an Outline; "targets" which stages there are, a TargetList. All other
    arguments are those of `build`, as is what is raised.
    """
    from stagewright.door import passage

    cancel = cancel or threading.Event()
    options = _options(
        context,
        file,
        dockerfile,
        root,
        config,
        cancel,
        target=target,
        build_args=build_args,
        build_contexts=build_contexts,
        pull=pull,
        platform=platform,
        offline=offline,
    )
    report: CheckReport | Outline | TargetList = passage.call(
        "stagewright.evaluation:run_call",
        (options, method, dict(os.environ)),
        on_event,
        cancel,
    )
    return report


def dry_run(
    context: str | os.PathLike[str] = ".",
    *,
    file: str | os.PathLike[str] | None = None,
    dockerfile: bytes | None = None,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    build_contexts: Mapping[str, str] | None = None,
    secrets: Sequence[SecretSource] = (),
    ssh: Sequence[SshSource] = (),
    cache_from: Sequence[Cache] = (),
    no_cache: bool = False,
    no_cache_filter: Sequence[str] = (),
    pull: bool = False,
    network: str = "default",
    allow: Sequence[str] = (),
    add_hosts: Sequence[tuple[str, str]] = (),
    shm_size: int | None = None,
    ulimits: Sequence[tuple[str, int, int]] = (),
    platform: str | None = None,
    offline: bool = False,
    root: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    on_event: Sink | None = None,
    cancel: threading.Event | None = None,
) -> dict[str, Any]:
    """Which steps a build would run now and why, as plain data like that of `History.explain`; none is run.

    The arguments are those of `build`, as is what is raised. What COPY takes from a stage that would run is not known:
    such a step's `state` is "may run", and of one that certainly would "would run".
    """
    from stagewright.door import passage

    cancel = cancel or threading.Event()
    options = _options(
        context,
        file,
        dockerfile,
        root,
        config,
        cancel,
        target=target,
        build_args=build_args,
        build_contexts=build_contexts,
        secrets=secrets,
        ssh=ssh,
        cache_from=cache_from,
        no_cache=no_cache,
        no_cache_filter=no_cache_filter,
        pull=pull,
        network=network,
        allow=allow,
        add_hosts=add_hosts,
        shm_size=shm_size,
        ulimits=ulimits,
        platform=platform,
        offline=offline,
    )
    told: dict[str, Any] = passage.call("stagewright.evaluation:run_dry", (options, dict(os.environ)), on_event, cancel)
    return told


def _options(
    context: str | os.PathLike[str],
    file: str | os.PathLike[str] | None,
    dockerfile: bytes | None,
    root: str | os.PathLike[str] | None,
    config: str | os.PathLike[str] | None,
    cancel: threading.Event,
    **given: Any,
) -> BuildOptions:
    """The options of a build whose arguments were `given`: copies, which the caller changes no more."""
    from stagewright.state import default_root

    return BuildOptions(
        context=os.fspath(context),
        file=None if file is None else os.fspath(file),
        dockerfile=_piped(file, cancel) if dockerfile is None else dockerfile,
        # Behind the door the user is another one, with other defaults.
        root=default_root(os.environ) if root is None else os.fspath(root),
        config=None if config is None else os.fspath(config),
        **{name: _copied(value) for name, value in given.items() if value is not None},
    )


def _copied(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    return tuple(value) if isinstance(value, Iterable) else value


def _piped(file: str | os.PathLike[str] | None, cancel: threading.Event) -> bytes | None:
    """The Dockerfile where it comes through a pipe, which can be read only once, and not from behind the door."""
    if file is None or not _is_pipe(file):
        return None
    from stagewright.definition import read_file

    return read_file(os.fspath(file), "Dockerfile", cancel)


def _is_pipe(file: str | os.PathLike[str]) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(file).st_mode)
    except OSError:  # Whoever reads it says so.
        return False


def lint(
    context: str | os.PathLike[str] = ".",
    *,
    file: str | os.PathLike[str] | None = None,
    fix: bool = False,
    config: str | os.PathLike[str] | None = None,
) -> LintReport:
    """Find what could be better in a Dockerfile: slower, larger or less safe than it need be.

    `context` is the folder of its build context and `file` its path (default `Dockerfile` there). `fix` rewrites the
    file where a finding has a rewrite; registries are then asked for the digests of bases. Raises StagewrightError.
    """
    from stagewright.linting import lint_dockerfile

    return lint_dockerfile(
        os.fspath(context),
        None if file is None else os.fspath(file),
        fix_it=fix,
        config=None if config is None else os.fspath(config),
        env=os.environ,
    )
