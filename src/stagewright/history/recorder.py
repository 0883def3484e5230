"""Takes down one build while it runs, and keeps the record at its end.

What is here is loaded by every build; what has to be said where something missed the cache is imported then.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stagewright.errors import LOST, CanceledError, PrivilegeNeededError, StoreError
from stagewright.history.archive import CANCELED, COMPLETED, FAILED, FORMAT, RUNNING, Archive, Build, Run
from stagewright.history.inputs import cleaned, looks_secret, shown_value
from stagewright.progress.events import Event, LogEvent, Sink
from stagewright.records import replace
from stagewright.redaction import redact_text, redact_url
from stagewright.version import VERSION

if TYPE_CHECKING:
    from stagewright.dockerfile.ignore import Pattern
    from stagewright.graph.vertex import Vertex
    from stagewright.history.explain import Explainer
    from stagewright.history.past import Reason
    from stagewright.history.steps import Solved, Step
    from stagewright.options import BuildOptions
    from stagewright.secrecy.masks import Masks

_MAX_LOG_BYTES = 1 << 20
# Earlier builds that are looked at for one to compare with.
_LOOKED_AT = 20
_LOCAL, _IMAGE = "local://", "docker-image://"
_CUT = "[the beginning of the log was not kept]\n"


class _Log:
    """What one step wrote, as far as it is kept: its end."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, int, bytes]] = []
        self.size = 0
        self.cut = False

    def add(self, event: LogEvent) -> None:
        self.pieces.append((event.timestamp, event.stream, event.data))
        self.size += len(event.data)
        if self.size > 2 * _MAX_LOG_BYTES:
            self._shorten()

    def _shorten(self) -> None:
        while self.size > _MAX_LOG_BYTES:
            self.size -= len(self.pieces.pop(0)[2])
            self.cut = True

    def kept(self, since: float) -> list[tuple[float, int, str]]:
        self._shorten()
        lines = [(round(at - since, 3), stream, data.decode(errors="replace")) for at, stream, data in self.pieces]
        return [(0.0, 2, _CUT), *lines] if self.cut else lines


class Recorder:
    """The record of one build in the making: a sink that passes events on to `sink`, and what is asked why a vertex
    missed the cache.

    `options` are those of the build, `env` its environment.
    """

    def __init__(self, options: BuildOptions, env: Mapping[str, str], sink: Sink | None) -> None:
        self._options = options
        self._args = {**_epoch(env), **options.build_args}
        self._sink = sink
        self._began = time.time()
        self._logs: dict[str, _Log] = {}
        self._lock = threading.Lock()
        self._nodes: Callable[[], Sequence[Solved]] = list
        self._meaning: Callable[[Vertex], object] = lambda vertex: None
        self._caches: Callable[[], tuple[Sequence[str], Sequence[str]]] = lambda: ((), ())
        self._kept: dict[str, bytes] = {}
        self._dockerfile = b""
        self._ignore: Sequence[Pattern] = ()
        self._archive: Archive | None = None
        self._masks: Masks | None = None
        self._number = 0
        self._steps: list[Step] = []
        self._index: dict[str, int] = {}
        self._explainer: Explainer | None = None
        self.outcome: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Takes an event that holds no secret any more."""
        if isinstance(event, LogEvent):
            with self._lock:
                self._logs.setdefault(event.vertex, _Log()).add(event)
        if self._sink is not None:
            self._sink(event)

    # --- what it is told --------------------------------------------------------------------------------------------

    def define(self, dockerfile: bytes, ignore: Sequence[Pattern]) -> None:
        """The Dockerfile, and the patterns of the main context's ignore file."""
        self._dockerfile, self._ignore = dockerfile, ignore

    def watch(
        self,
        nodes: Callable[[], Sequence[Solved]],
        meaning: Callable[[Vertex], object],
        caches: Callable[[], tuple[Sequence[str], Sequence[str]]],
    ) -> None:
        """The vertices of the graph, what sources of it mean, and the imported caches with those that were not read."""
        self._nodes, self._meaning, self._caches = nodes, meaning, caches
        self._steps, self._explainer = [], None

    def note_files(self, digest: str, listing: list[tuple[str, str]]) -> None:
        """The files behind a content digest, as `filelist.pack` takes them."""
        assert self._archive is not None
        if digest not in self._kept and not self._archive.has_files(digest):
            from stagewright.history.filelist import pack

            # At once, since they take a fraction of the memory then.
            self._kept[digest] = pack(listing, self._clean())

    @contextmanager
    def recording(self, archive: Archive, masks: Masks | None) -> Iterator[None]:
        """Keep that the build runs, and the record when the block ends, however it does.

        A record that cannot be kept fails no build.
        """
        self._archive, self._masks = archive, masks
        begun = replace(self._build(RUNNING, "", ()), seconds=0.0)
        alive = _begin(archive, begun)
        self._number = begun.number
        status, error = COMPLETED, ""
        try:
            yield
        except (PrivilegeNeededError, *LOST):
            # It will run once more: where it has the privilege, or without what was lost.
            status = ""
            raise
        except BaseException as raised:
            status = CANCELED if isinstance(raised, CanceledError | KeyboardInterrupt) else FAILED
            error = str(raised)
            raise
        finally:
            try:
                if status:
                    self._keep(archive, status, error)
                else:
                    archive.withdraw(begun)
            except OSError:
                # The disk that refuses is the business of those who need it.
                pass
            finally:
                if alive is not None:
                    os.close(alive)

    # --- why something missed ---------------------------------------------------------------------------------------

    def why_missed(self, node: Solved) -> str:
        """A few words for the progress; "" where there is nothing to say. Its key has to be known."""
        return self.explain(node).short

    def explain(self, node: Solved) -> Reason:
        """Why a vertex of the graph is not found in the cache."""
        explainer = self._explained()
        index = self._index[node.vertex.digest]
        self._refresh(node)
        return explainer.explain(index)

    def read(self, archive: Archive, masks: Masks | None) -> None:
        """Compare with the builds of an archive, without a record of this one."""
        self._archive, self._masks = archive, masks

    def foretell(self) -> dict[str, Any]:
        """Which steps would run and why, once a dry solver has found the keys that can be known."""
        from stagewright.history.view import explanation

        explainer = self._explained()
        told: dict[int, dict[str, Any]] = {}
        for index, node in enumerate(self._nodes()):
            if node.cached is not None or node.result is not None:
                continue
            self._refresh(node)
            if node.canonical is None:
                reason = explainer.foresee(index, self._waited_for(node))
            elif node.wanted:
                reason = explainer.explain(index)
            else:
                continue
            state = "may run" if reason.kind == "depends" else "would run"
            told[index] = {"state": state, "reason": self._cleaned(reason.to_json())}
        return explanation(self._build("dry-run", "", self._nodes()), self.steps(), Run(told))

    def _waited_for(self, node: Solved) -> int:
        """The input that keeps a vertex from having a key."""
        unknown = [source for source in node.inputs if source.canonical is None]
        unread = [source for source in node.inputs if source.cached is None and source.result is None]
        return self._index[(unknown or unread)[0].vertex.digest]

    def steps(self) -> list[Step]:
        """All vertices of the graph as they are known by now."""
        nodes = self._nodes()
        if len(self._steps) != len(nodes):
            from stagewright.history.steps import step_of

            self._index = {node.vertex.digest: index for index, node in enumerate(nodes)}
            self._steps = [step_of(node, self._index, self._meaning(node.vertex), self._clean()) for node in nodes]
        return self._steps

    def _refresh(self, node: Solved) -> None:
        """Take over the keys of a vertex and of all that it is built on."""
        stack = [node]
        while stack:
            node = stack.pop()
            step = self._steps[self._index[node.vertex.digest]]
            if step.canonical is None or node.canonical is None:
                step.definition, step.canonical = node.definition, node.canonical
                step.contents = {str(index): digest for index, digest in node.contents.items()}
                step.meaning = self._meaning(node.vertex)
                stack.extend(node.inputs)

    def _explained(self) -> Explainer:
        if self._explainer is None:
            from stagewright.history.explain import Explainer
            from stagewright.history.past import Present
            from stagewright.history.recipe import Recipe

            assert self._archive is not None
            steps = self.steps()
            folder = self._options.context
            sources, unread = self._caches()
            present = Present(
                steps=steps,
                recipe=Recipe(self._text(), self._inputs()["args"]),
                inputs=self._inputs(),
                no_cache=[node.vertex.meta.ignore_cache for node in self._nodes()],
                files=self._files,
                exists=lambda path: os.path.lexists(os.path.join(folder, path)),
                version=VERSION,
                ignore=self._patterns(),
                sources=sources,
                unread=unread,
            )
            self._explainer = Explainer(self._archive, self._earlier(self._archive), present)
        return self._explainer

    def _earlier(self, archive: Archive) -> list[Build]:
        """The builds that are most like this one, first of all those of the same target and arguments."""
        builds = [build for build in archive.of_subject(self._subject(), _LOOKED_AT) if build.graph]
        if not builds:
            # The same project in another folder, as each run of a CI has one.
            recipe = self._recipe()
            builds = [build for build in archive.list() if build.graph and build.recipe == recipe][:_LOOKED_AT]
        own = self._inputs()

        def unlike(build: Build) -> tuple[bool, bool, int]:
            args, other = own["args"], build.inputs.get("args", {})
            differing = sum(args.get(name) != other.get(name) for name in {*args, *other})
            other_target, other_platform = (build.inputs.get(name) != own[name] for name in ("target", "platform"))
            return other_target, other_platform, differing

        return sorted(builds, key=unlike)

    def _files(self, digest: str) -> bytes:
        assert self._archive is not None
        return self._kept.get(digest) or self._archive.files(digest)

    # --- the record -------------------------------------------------------------------------------------------------

    def _keep(self, archive: Archive, status: str, error: str) -> None:
        nodes = self._nodes()
        run = self._run(nodes)
        build = self._build(status, error, nodes)
        ran = {} if run is None else run.steps
        build.ran = sum(step["state"] == "ran" and _is_instruction(nodes[index].vertex) for index, step in ran.items())
        archive.add(build, run, self._graph, self._kept)

    def _build(self, status: str, error: str, nodes: Sequence[Solved]) -> Build:
        return Build(
            number=self._number,
            subject=self._subject(),
            recipe=self._recipe(),
            created=self._began,
            seconds=round(time.time() - self._began, 3),
            status=status,
            error=self._clean()(error),
            inputs=self._inputs(),
            outcome=self.outcome,
            graph=self._graph_key(nodes) if nodes else "",
            steps=sum(_is_instruction(node.vertex) for node in nodes),
            ran=0,
            version=VERSION,
        )

    def _run(self, nodes: Sequence[Solved]) -> Run | None:
        """What did not come from the cache."""
        steps: dict[int, dict[str, Any]] = {}
        logs: dict[int, list[tuple[float, int, str]]] = {}
        for index, node in enumerate(nodes):
            event = node.reporter.event
            if event.completed is not None and not event.error and (event.cached or _is_context(node.vertex)):
                continue
            state = "ran"
            if event.completed is None or event.error:
                state = "failed" if event.error and not event.error.endswith("canceled") else "skipped"
            entry: dict[str, Any] = {"state": state}
            if event.started is not None:
                ended = event.completed if event.completed is not None else time.time()
                entry["started"] = round(event.started - self._began, 3)
                entry["seconds"] = round(ended - event.started, 3)
            if event.error:
                entry["error"] = self._clean()(event.error)
            result = node.result
            if result is not None and state == "ran":
                entry["snapshot"] = result.snapshot
                if result.size is not None:
                    entry["size"] = result.size
                if not result.exact:
                    entry["exact"] = False
            reason = self._explainer.reasons.get(index) if self._explainer is not None else None
            if reason is not None:
                entry["reason"] = self._cleaned(reason.to_json())
            steps[index] = entry
            log = self._logs.get(node.vertex.digest)
            if log is not None:
                logs[index] = log.kept(event.started or self._began)
        return Run(steps, logs) if steps else None

    def _graph(self) -> dict[str, Any]:
        """The steps with their keys; those that were found by what they are made of have the contents that they had."""
        steps, nodes = self.steps(), self._nodes()
        for node in nodes:
            self._refresh(node)
        explainer = self._explained()
        for index, step in enumerate(steps):
            if not step.contents and len(step.inputs) > (step.base is not None):
                step.contents = explainer.inherit(index)
        return {
            "dockerfile": self._text(),
            "ignore": self._patterns(),
            "steps": [step.to_json() for step in steps],
            "files": sorted(self._digests()),
        }

    def _digests(self) -> set[str]:
        return {digest for step in self.steps() for digest in step.contents.values() if digest.startswith("sha256:")}

    def _graph_key(self, nodes: Sequence[Solved]) -> str:
        key = hashlib.sha256(f"{FORMAT} {self._recipe()} {self._patterns()}".encode(errors="replace"))
        for node in nodes:
            key.update(f"{node.vertex.digest} {node.canonical} {node.vertex.meta.name}\0".encode(errors="replace"))
        return key.hexdigest()[:32]

    # --- what the build was given -----------------------------------------------------------------------------------

    def _inputs(self) -> dict[str, Any]:
        options = self._options
        inputs: dict[str, Any] = self._cleaned({
            "context": _place(options.context),
            "file": None if options.file is None else _place(options.file),
            "target": options.target,
            "platform": options.platform,
            "args": {name: shown_value(name, value) for name, value in self._args.items()},
            "contexts": {name: redact_url(value) for name, value in options.build_contexts.items()},
            "tags": options.tags,
            "outputs": [output.type for output in options.outputs],
            "secrets": [secret.id for secret in options.secrets],
            "ssh": [source.id for source in options.ssh],
            "no_cache": options.no_cache,
            "no_cache_filter": options.no_cache_filter,
            "pull": options.pull,
            "network": options.network,
        })  # fmt: skip
        return inputs

    def _subject(self) -> str:
        options = self._options
        subject = [_place(options.context), _place(options.file or "Dockerfile") if options.file else ""]
        return hashlib.sha256(json.dumps(subject).encode()).hexdigest()[:12]

    def _recipe(self) -> str:
        return hashlib.sha256(self._dockerfile).hexdigest()[:16]

    def _text(self) -> str:
        return self._clean()(self._dockerfile.decode(errors="surrogateescape"))

    def _patterns(self) -> list[str]:
        return [("!" if pattern.exception else "") + self._clean()(pattern.text) for pattern in self._ignore]

    # --- secrets ----------------------------------------------------------------------------------------------------

    def _cleaned(self, data: Any) -> Any:
        return cleaned(data, self._clean())

    def _clean(self) -> Callable[[str], str]:
        """Takes secrets, credentials, and values of arguments that look like secrets out of a text."""
        hidden = [value.encode(errors="surrogateescape") for name, value in self._args.items() if looks_secret(name)]
        masks = [] if self._masks is None else [self._masks]
        if hidden:
            from stagewright.secrecy.masks import Masks

            masks.append(Masks(hidden))

        def clean(text: str) -> str:
            text = redact_text(text)
            for mask in masks:
                text = mask.text(text, keep_lines=True)
            return text

        return clean


def _begin(archive: Archive, build: Build) -> int | None:
    """See `Archive.begin`; None where the disk refuses."""
    try:
        return archive.begin(build)
    except (OSError, StoreError):
        return None


def _epoch(env: Mapping[str, str]) -> dict[str, str]:
    name = "SOURCE_DATE_EPOCH"
    return {name: env[name]} if name in env else {}


def _place(path: str) -> str:
    """A folder or a file by its real path, anything else as it is named."""
    return os.path.realpath(path) if os.path.exists(path) else redact_url(path)


def _is_instruction(vertex: Vertex) -> bool:
    """See `steps.Step.is_instruction`."""
    is_source = not getattr(vertex.op, "identifier", _IMAGE).startswith(_IMAGE)
    tag, _, text = vertex.meta.name.partition("] ")
    return vertex.meta.location is not None and not is_source and tag.startswith("[") and not text.startswith("load ")


def _is_context(vertex: Vertex) -> bool:
    return getattr(vertex.op, "identifier", "").startswith(_LOCAL)
