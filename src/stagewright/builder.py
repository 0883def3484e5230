"""One build from its options to its outputs: reads the Dockerfile, makes the graph, solves it, exports the result."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from stagewright import privilege
from stagewright.bases import BaseImages
from stagewright.cache.leases import BuildLease
from stagewright.cancellation import LinkedEvent
from stagewright.clients import Clients
from stagewright.confidential import confidential
from stagewright.config import Config
from stagewright.config import load as load_config
from stagewright.definition import IGNORE_FILE, Definition, DefinitionReader, read_file
from stagewright.dockerfile.ignore import Matcher, read_patterns
from stagewright.elsewhere import Elsewhere
from stagewright.errors import LOST, NotFoundError, StagewrightError, UsageError
from stagewright.exporters.export import CacheOnlyExporter, Exporter, make_exporter
from stagewright.exporters.result import Exported, ExportResult, Services
from stagewright.frontend.checks import misspelt_arguments
from stagewright.frontend.contexts import MAIN_CONTEXT, NamedContext, NamedContexts
from stagewright.frontend.convert import convert
from stagewright.frontend.entitlements import granted
from stagewright.frontend.options import Options, Plan
from stagewright.frontend.rules import Finding
from stagewright.graph.ops import ExecOp
from stagewright.graph.vertex import Vertex
from stagewright.history.recorder import Recorder
from stagewright.image.descriptor import Descriptor
from stagewright.image.platform import host_platform, parse_platform
from stagewright.ops.dispatch import runners
from stagewright.ops.result import Result
from stagewright.ops.worker import Worker
from stagewright.options import SECRET_LEAK_MODES, BuildOptions, BuildResult, with_inline_cache
from stagewright.progress.events import Sink, WarningEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.registry.dockerconfig import proxy_arguments
from stagewright.solver.solver import Solver
from stagewright.sources.image import ImageSource
from stagewright.sources.local import LocalContexts
from stagewright.sources.remote import RemoteSources
from stagewright.sources.ssh import SshAgents
from stagewright.state import COLLECTED, State

if TYPE_CHECKING:
    from stagewright.leaks.guard import LeakGuard
    from stagewright.sandbox.spec import Runtime
    from stagewright.snapshots.selection import Choice
    from stagewright.sources.git import GitSource
    from stagewright.sources.http import HttpSource
    from stagewright.travel.caches import Built


class Builder:
    """Runs one build. `secrets` are values by ID, `env` is the process's environment.

    `cancel` stops the build when set, from any thread. `recorder` takes it down. With `only_here` results whose files
    are not in the store are none.
    """

    def __init__(
        self,
        options: BuildOptions,
        secrets: Mapping[str, bytes],
        emitter: Emitter,
        cancel: threading.Event,
        env: Mapping[str, str],
        recorder: Recorder | None = None,
        *,
        only_here: bool = False,
    ) -> None:
        self._options = options
        self._recorder = recorder
        self._secrets = secrets
        self._emitter = emitter
        self._cancel = cancel
        self._env = env
        self.config: Config = load_config(options.config, env)
        self.state = State(options.root, env, "copies" if self.config.chroot else self.config.snapshotter)
        self._runtime: Runtime | None = None
        self._starting: threading.Thread | None = None
        self._named = NamedContexts(options.build_contexts)
        self._contexts = LocalContexts(self.state.context_indexes)
        self._agents = SshAgents({source.id: source.paths for source in options.ssh}, env)
        self._opened = ExitStack()
        self._lock = threading.Lock()
        self.platform = host_platform() if options.platform is None else parse_platform(options.platform)
        self.clients = Clients(self.config, env, cancel)
        self._elsewhere = Elsewhere(
            options,
            env,
            self.state,
            self.platform,
            self.clients.registry,
            self.clients.http,
            self._vertex,
            emitter,
            cancel,
            only_here=only_here,
        )
        self.images = ImageSource(
            self.clients.registry,
            self.state.blobs,
            self.state.snapshots,
            self.state.images,
            self.state.db,
            lambda: self._elsewhere.left,
            ttl_s=self.config.resolve_ttl_s,
            offline=options.offline,
            pull=options.pull,
        )
        self.bases = BaseImages(self.images, self._vertex, cancel)
        self.remotes = RemoteSources(self._http_source, self._git_source)
        snapshots = self.state.snapshots
        self._definition = DefinitionReader(options, self._vertex, self._solve, snapshots, self.remotes, cancel)
        self._caches = self._elsewhere.caches(lambda: self.bases.names)
        if self._caches is not None and options.cache_from:
            self.state.cache_mounts.seed = self._caches.mounts.seed
        self._built: Solver | None = None
        self.exported_cache: Descriptor | None = None

    def prepare(self) -> Definition:
        """Keep the store from being collected, and read what the build is given. Raises StagewrightError."""
        self._agents.check()
        if privilege.has_one_id():
            self._warn_of_one_id()
        self._add_named_contexts()
        self._opened.enter_context(BuildLease(self.state.locks, self._cancel))
        if self.state.db.unsynced.is_any_lost():
            self._forget_unsynced()
        definition = self._definition.read()
        exclusion = Matcher(definition.ignore_patterns) if definition.ignore_patterns else None
        self._contexts.add(MAIN_CONTEXT, self._options.context, lambda: exclusion)
        return definition

    def _forget_unsynced(self) -> None:
        from stagewright.health.checkup import forget_unsynced

        if lost := forget_unsynced(self.state):
            self._emitter(WarningEvent("", lost))
            # The folders of what is forgotten are garbage, and there may be much of it.
            with suppress(FileNotFoundError):
                os.utime(self.state.root / COLLECTED, (0, 0))

    def build(self, *, takes_layers: bool) -> tuple[Plan, Result]:
        """Build up to the result; `takes_layers`: some output wants all of it here. Raises StagewrightError."""
        plan = self._plan()
        if self._secrets:
            self._leaks.check_config(plan.config, plan.history_lines)
        if plan.vertex is None:
            return plan, Result()
        solver = self._built = self._solver(self._recorder)
        result = solver.solve([plan.vertex])[0]
        if self._runtime is not None:
            self._runtime.end()
        steps = solver.snapshots()
        # Of a leak that an earlier build let pass this one knows, even if it was given no secret.
        if self._secrets or any(step.op.secrets for step, _ in steps if isinstance(step.op, ExecOp)):
            self._leaks.check_layers(steps, result.snapshot, elsewhere=takes_layers)
        return plan, result

    def _plan(self) -> Plan:
        if self.platform.os == "windows":
            raise UsageError(f"building for {self.platform} is not supported", hint="its paths and shells are others")
        definition = self.prepare()
        if self._recorder is not None:
            self._recorder.define(definition.data, definition.ignore_patterns)
        options = self.frontend_options(definition)
        dockerfile = definition.parse()
        for text in misspelt_arguments(dockerfile, self._options.build_args):
            self._emitter(WarningEvent(_vertex_digest(self._definition.name), text))
        return convert(dockerfile, options, self.bases.resolve, self._report_finding)

    def _solve(self, vertex: Vertex) -> Result:
        return self._solver().solve([vertex])[0]

    def dry_run(self, recorder: Recorder) -> dict[str, Any]:
        """Which steps a build would run, and why, without running any. Raises StagewrightError."""
        recorder.read(self.state.history, self._emitter.masks)
        plan = self._plan()
        if plan.vertex is not None:
            self._solver(recorder, dry=True).solve([plan.vertex])
        return recorder.foretell()

    def _solver(self, recorder: Recorder | None = None, *, dry: bool = False) -> Solver:
        self.state.snapshots.on_worse = self._warn_of_snapshotter
        worker = Worker(
            snapshots=self.state.snapshots,
            keys=self.state.keys,
            cache_mounts=self.state.cache_mounts,
            cancel=self._cancel,
            images=self.images,
            remotes=self.remotes,
            runtime=self._get_runtime,
            context=self._contexts.get,
            secrets=self._secrets,
            ssh_socket=self._agents.socket,
            host_ca=self._host_ca(),
            leaks=self._leaks if self._secrets else None,
            note_files=None if recorder is None else recorder.note_files,
        )
        jobs = self._options.jobs or self.config.jobs
        locks = self.state.locks
        keys = self.state.keys if self._caches is None else self._caches.keys(self._elsewhere.lazy)
        run, resolve = runners(worker), self.remotes.resolve
        solver = Solver(run, keys, locks, self._emitter, self._cancel, jobs, resolve, dry=dry)
        solver.on_missed = self._foresee
        if recorder is not None:
            caches = (lambda: ((), ())) if self._caches is None else self._caches.sources
            recorder.watch(lambda: solver.nodes, self.remotes.meaning, caches)
            solver.why_missed = recorder.why_missed
        return solver

    @cached_property
    def _leaks(self) -> LeakGuard:
        from stagewright.leaks.guard import LeakGuard

        options, state = self._options, self.state
        layers = self._elsewhere.layer_blobs(self.images)
        return LeakGuard(options, self._secrets, state.snapshots, layers, state.db, self._emitter, self._cancel)

    def export(self, plan: Plan, result: Result, exporters: Sequence[Exporter]) -> list[Exported | None]:
        """Make all outputs, in their order; a layer that several of them need is packed once."""
        state = self.state
        services = Services(
            snapshots=state.snapshots,
            blobs=state.blobs,
            layers=self._elsewhere.layer_blobs(self.images),
            images=state.images,
            config=self.config,
            env=self._env,
            client=self.clients.registry,
            cancel=self._cancel,
            places=state.places,
            remote=lambda: self._elsewhere.remote,
        )
        layers = state.snapshots.layers(result.snapshot)
        exported = ExportResult(
            platform=plan.config.platform,
            snapshot=result.snapshot,
            layers=layers,
            config=plan.config,
            epoch=plan.epoch,
            annotations=self._options.annotations,
            bases=self.bases.names + (self._caches.mounts_from if self._caches else ()),
            cache=self._caches.inline(self._what_was_built(plan, layers)) if self._caches else None,
        )
        made: list[Exported | None] = []
        for number, exporter in enumerate(exporters):
            if isinstance(exporter, CacheOnlyExporter):
                continue
            services.check_canceled()
            with self._vertex(exporter.title, f"#{number}") as reporter:
                made.append(exporter.export(exported, services, reporter))
        if self._caches is not None:
            self.exported_cache = self._caches.export(self._what_was_built(plan, layers))
        return made

    def _what_was_built(self, plan: Plan, layers: Sequence[int]) -> Built:
        from stagewright.travel.caches import Built

        return Built(self._built.solved() if self._built is not None else [], layers, plan.epoch)

    def close(self) -> None:
        """Give everything back; what steps still run is killed."""
        self.clients.stop_watching()
        if self._starting is not None:
            self._starting.join()
        try:
            if self._runtime is not None:
                self._runtime.end()
            self.remotes.close()
            self._agents.close()
            self._contexts.close()
            self._opened.close()
            self.clients.close()
            self.state.close()
        finally:
            # No step runs by now, and what is left of the launcher takes its time to go.
            if self._runtime is not None:
                self._runtime.close()

    # --- what a build is given ------------------------------------------------------------------------------------

    def _http_source(self) -> HttpSource:
        from stagewright.sources.http import HttpSource

        client = self.clients.http()
        snapshots, db, secret = self.state.snapshots, self.state.db, self._secrets.get
        return HttpSource(client, snapshots, db, secret, self._cancel, offline=self._options.offline)

    def _git_source(self) -> GitSource:
        from stagewright.sources.git import GitSource

        return GitSource(
            self.state.git_repositories,
            self.state.snapshots,
            self.state.locks,
            self._env,
            self._secrets.get,
            self._agents.socket,
            self._cancel,
            offline=self._options.offline,
        )

    def _foresee(self, vertex: Vertex) -> None:
        """Have what runs steps start while the first of them is prepared, or what it stands on is made."""
        if isinstance(vertex.op, ExecOp) and self._starting is None and privilege.is_privileged():
            network = vertex.op.network
            self._starting = threading.Thread(target=self._get_ready, args=(network,), name="start-runtime")
            # Whoever asks why the step missed the cache does so while the launcher starts, and not before.
            with suppress(StagewrightError):
                self._get_runtime().begin()
            self._starting.start()

    def _get_ready(self, network: str) -> None:
        # The step that needs it tries again, and fails with its place in the Dockerfile.
        with suppress(StagewrightError):
            self._get_runtime().get_ready(network)

    def _get_runtime(self) -> Runtime:
        with self._lock:
            if self._runtime is None:
                path = self._options.oci_runtime or self.config.oci_runtime
                if self.config.chroot or privilege.forgone() is not None:
                    self._runtime = self._chroot_runtime(path)
                elif path:
                    from stagewright.sandbox.oci import OciRuntime

                    self._runtime = OciRuntime(path, self._options.limits, self._notify)
                else:
                    from stagewright.sandbox.native import NativeRuntime

                    self._runtime = NativeRuntime(self._options.limits, self._notify)
            return self._runtime

    def _chroot_runtime(self, oci_runtime: str | None) -> Runtime:
        from stagewright.sandbox.cgroups import complaint as complaint_of
        from stagewright.sandbox.chroot import ChrootRuntime

        if oci_runtime:
            raise UsageError(f"steps cannot run by {oci_runtime} and in a chroot", hint=privilege.forgone())
        if (complaint := complaint_of(self._options.limits, frozenset())) is not None:
            self._notify(complaint)
        mounts = self.state.cache_mounts
        # What a build that was killed had given its steps lies in their roots.
        mounts.bring_back()
        self.state.snapshots.clean_drafts()
        return ChrootRuntime(self._notify, mounts.lent, mounts.returned)

    def _host_ca(self) -> str | None:
        wanted = self._options.host_ca if self._options.host_ca is not None else self.config.host_ca
        if wanted is False:
            return None
        if isinstance(wanted, str):
            if not os.path.isfile(wanted):
                raise NotFoundError(f"the CA bundle {wanted} does not exist")
            return wanted
        from stagewright.sandbox.ca import find_host_bundle

        return find_host_bundle(self._env)

    # --- the Dockerfile and its images ------------------------------------------------------------------------------

    def _warn_of_snapshotter(self, choice: Choice) -> None:
        if privilege.forgone() is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in choice.refusals)
            self._notify(f"layers are merged by {choice.snapshotter.name}, which is slower: {reasons}")

    def _warn_of_one_id(self) -> None:
        self._notify("this user has no subordinate ids: steps cannot change owners, nor run as other users than root")

    def _notify(self, text: str) -> None:
        """Warn of what steps must do without on this machine."""
        detail = ("stagewright info says why, and how to get it",)
        self._emitter(WarningEvent(_vertex_digest(self._definition.name), text, detail=detail))

    def _add_named_contexts(self) -> None:
        """Let the graph read the folders among the named contexts."""
        for context in self._named:
            if context.kind != "folder":
                continue
            if not os.path.isdir(context.value):
                problem = "not a directory" if os.path.exists(context.value) else "no such file or directory"
                raise NotFoundError(f"failed to get build context {context.name}: {context.value}: {problem}")
            self._contexts.add(context.local_name, context.value, partial(self._exclusion_of, context))

    def _exclusion_of(self, context: NamedContext) -> Matcher | None:
        """What the ignore file in a named context's own folder hides."""
        path = os.path.join(context.value, IGNORE_FILE)
        with self._vertex(context.shown(f"load {IGNORE_FILE}")):
            if not os.path.isfile(path):
                return None
            return Matcher(read_patterns(read_file(path, "ignore file", self._cancel), path))

    def _report_finding(self, finding: Finding) -> None:
        warning = WarningEvent(
            _vertex_digest(self._definition.name),
            finding.short,
            detail=(finding.rule.description,),
            url=finding.rule.url,
            location=finding.location,
        )
        self._emitter(warning)

    def frontend_options(self, definition: Definition) -> Options:
        """What the frontend has to know."""
        options = self._options
        build_args = {**proxy_arguments(self._env), **options.build_args}
        if "SOURCE_DATE_EPOCH" in self._env:
            build_args.setdefault("SOURCE_DATE_EPOCH", self._env["SOURCE_DATE_EPOCH"])
        if options.network not in ("default", "host", "none"):
            raise UsageError(f"network mode {options.network} is not supported", hint="use default, host or none")
        return Options(
            platform=self.platform,
            platform_requested=options.platform is not None,
            target=options.target,
            build_args=build_args,
            labels=options.labels,
            no_cache=options.no_cache,
            no_cache_filter=options.no_cache_filter,
            network=options.network,  # type: ignore[arg-type]
            entitlements=granted(options.allow, options.network),
            extra_hosts=options.add_hosts,
            ulimits=options.ulimits,
            shm_size=options.shm_size or 0,
            context=definition.context,
            contexts=self._named,
            ignore_patterns=definition.ignore_patterns,
        )

    def _vertex(self, name: str, distinction: str = "") -> AbstractContextManager[Reporter]:
        """A vertex of its own in the progress; `distinction` tells apart those of one name."""
        return self._emitter.vertex(_vertex_digest(name + distinction), name)


def _vertex_digest(name: str) -> str:
    return "sha256:" + hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def _build(
    options: BuildOptions,
    secrets: Mapping[str, bytes],
    emitter: Emitter,
    cancel: threading.Event,
    env: Mapping[str, str],
    exporters: Sequence[Exporter],
    recorder: Recorder,
    *,
    only_here: bool = False,
) -> BuildResult:
    with ExitStack() as stack:
        builder = Builder(options, secrets, emitter, cancel, env, recorder, only_here=only_here)
        stack.callback(builder.close)
        with recorder.recording(builder.state.history, emitter.masks):
            plan, result = builder.build(takes_layers=any(exporter.takes_layers for exporter in exporters))
            images = builder.export(plan, result, exporters)
            built = _result(images, builder.exported_cache, emitter)
            recorder.outcome = {"image": built.digest, "config": built.config_digest, "names": list(built.names)}
    return built


def _result(images: Sequence[Exported | None], cache: Descriptor | None, emitter: Emitter) -> BuildResult:
    image = next((image for image in images if image is not None), None)
    names = dict.fromkeys(name for image in images if image is not None for name in image.names)
    return BuildResult(
        digest=image.descriptor.digest if image else None,
        config_digest=image.config_digest if image else None,
        descriptor=image.descriptor.to_json() if image else None,
        names=tuple(names),
        warnings=tuple(emitter.warnings),
        cache=cache.to_json() if cache else None,
    )


def run_build(options: BuildOptions, env: Mapping[str, str], sink: Sink | None, cancel: threading.Event) -> BuildResult:
    """Run one build to its end, outputs included. Raises StagewrightError."""
    if options.secret_leak not in SECRET_LEAK_MODES:
        raise UsageError(f"secret leak mode {options.secret_leak} is not known", hint="use fail, warn or off")
    exporters = [make_exporter(output.type, output.dest, output.attrs, options.tags) for output in options.outputs]
    options = with_inline_cache(options)
    recorder = Recorder(options, env, sink)
    with confidential(options, env, recorder) as (secrets, emitter):

        def run(options: BuildOptions, only_here: bool) -> BuildResult:
            stop = LinkedEvent(cancel)
            return _build(options, secrets, emitter, stop, env, exporters, recorder, only_here=only_here)

        try:
            return run(options, False)
        except LOST as error:
            from stagewright.recovery import begin_anew

            # What was built by then is in the store.
            return begin_anew(error, run, options, emitter)
