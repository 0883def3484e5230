"""What a build does about leaks: what is searched when, what is remembered of it, and what comes of a leak."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stagewright import privilege
from stagewright.errors import CanceledError, SecretLeakError, SourceRange
from stagewright.graph.ops import ExecOp
from stagewright.graph.vertex import Vertex
from stagewright.image.config import ImageConfig
from stagewright.leaks.finding import Leak
from stagewright.leaks.search import Search, is_searchable
from stagewright.progress.events import WarningEvent
from stagewright.records import dataclass
from stagewright.secrecy.forms import MIN_SEARCHED, significant
from stagewright.snapshots.searches import Searched, SecretSearches, mark_of, name_of

if TYPE_CHECKING:
    from stagewright.content.db import Database
    from stagewright.options import BuildOptions
    from stagewright.progress.reporter import Emitter
    from stagewright.snapshots.layers import LayerBlobs
    from stagewright.snapshots.store import SnapshotStore

_TITLE = "[internal] searching the image's files for secrets"
_DIGEST = "sha256:" + "5ec4e75ea4c4".ljust(64, "0")
_MOST_PLACES = 5
_MOST_OF_A_NAME = 100
_OTHERWISE = "--secret-leak=warn builds all the same"
_STEP_HINT = f"remove it in the step that writes it, or write it to a tmpfs mount; {_OTHERWISE}"
_FILE_HINT = f"leave the file out, by .dockerignore if it comes from the build context; {_OTHERWISE}"
_CONFIG_HINT = f"whoever has the image can read its config; {_OTHERWISE}"
_ARGUMENT_HINT = "the build argument {} has it; --secret with RUN --mount=type=secret keeps it out of the image"


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer that is part of a build: its snapshot, the name of its folder, and the step that it is the result of."""

    snapshot: int
    folder: str
    vertex: Vertex | None


@dataclass(frozen=True, slots=True)
class _Case:
    """Something to tell of a secret: what there is to say, and the step that it is about."""

    secret: str
    message: str
    places: tuple[str, ...] = ()
    step: str = ""
    location: SourceRange | None = None
    vertex: str = ""
    hint: str = _OTHERWISE


class LeakGuard:
    """Searches for the secrets of one build, `secrets` by ID. Its methods may be called from any thread.

    For a leak, each raises SecretLeakError or reports a warning, as `options.secret_leak` says. `cancel` ends a search.
    """

    def __init__(
        self,
        options: BuildOptions,
        secrets: Mapping[str, bytes],
        snapshots: SnapshotStore,
        layers: LayerBlobs,
        db: Database,
        emitter: Emitter,
        cancel: threading.Event,
    ) -> None:
        self._options = options
        self._mode = options.secret_leak
        self._secrets = {id: value for id, value in secrets.items() if is_searchable(value)}
        self._marks = {id: mark_of(value) for id, value in self._secrets.items()}
        self._snapshots = snapshots
        self._layers = layers
        self._searches = SecretSearches(db)
        self._emitter = emitter
        self._cancel = cancel
        self._told: set[tuple[str, str]] = set()
        if self._mode != "off":
            self._warn_of_short(secrets)

    def _warn_of_short(self, secrets: Mapping[str, bytes]) -> None:
        for id, value in secrets.items():
            if significant(value) and id not in self._secrets:
                text = f"secret {id} is not searched for: values of less than {MIN_SEARCHED} bytes turn up by chance"
                self._emitter(WarningEvent("", text))

    # --- steps ----------------------------------------------------------------------------------------------------

    def search_step(self, vertex: Vertex, folder: str) -> dict[str, Searched]:
        """Search what a step has left in its layer's folder for the secrets that it had; answers what came of it."""
        given = {id: self._secrets[id] for id in _secrets_of(vertex) if id in self._secrets}
        if not given:
            return {}
        if self._mode == "off":
            return dict.fromkeys(given, Searched(None))
        found = self._search(given, folder)
        self._tell(found, vertex)
        return self._outcomes(found)

    def remember(self, snapshot: int, outcomes: Mapping[str, Searched]) -> None:
        """Note what `search_step` answered for the snapshot that was made of the folder."""
        folder = self._snapshots.dir(snapshot)
        for id, outcome in outcomes.items():
            self._told.add((folder, id))
            self._searches.record(folder, id, outcome.mark, outcome.places)

    # --- the image ------------------------------------------------------------------------------------------------

    def check_config(self, config: ImageConfig, history_lines: Sequence[SourceRange | None]) -> None:
        """Search an image's config, and the annotations and names that it is to get.

        `history_lines` are where the entries of its history come from.
        """
        if self._mode == "off":
            return
        search = Search(self._secrets)
        history = [(f"history[{at}].created_by", entry.created_by) for at, entry in enumerate(config.history)]
        others = [*_strings("config", config.config.to_json()), ("author", config.author)]
        annotations = [*self._options.annotations.items()]
        annotations += [pair for output in self._options.outputs for pair in output.attrs.items()]
        others += [(f"annotation {key}", f"{key}={value}") for key, value in annotations]
        leaks = search.texts([*history, *others])
        entry_at = {place: entry for entry, (place, _) in enumerate(history)}
        for id, places in _by_secret(leaks).items():
            entries = [entry_at[leak.place] for leak in leaks if leak.secret == id and leak.place in entry_at]
            arguments = [name for name, value in self._options.build_args.items() if search.texts([(id, value)])]
            case = _Case(
                id,
                f"secret {id} leaks: the image has its value in {self._listed(places)}",
                self._masked(places),
                step=self._masked([config.history[entries[0]].created_by])[0] if entries else "",
                location=next((line for entry in entries if (line := history_lines[entry]) is not None), None),
                hint=_ARGUMENT_HINT.format(arguments[0]) if arguments else _CONFIG_HINT,
            )
            self._settle(case)

    def check_layers(self, results: Iterable[tuple[Vertex, int]], image: int | None, *, elsewhere: bool) -> None:
        """Search the layers of the image that were built and not pulled, but for those that were searched before.

        Layers of imported caches that are not here are fetched for that with `elsewhere`, and else left out.
        `image` is the snapshot of its files, None for no files. `results` are the snapshots of all vertices of the
        graph: a step among them whose leak was let pass once, or that had secrets which nobody searched for, is told
        of, too, whether the image holds its layer or not.
        """
        if self._mode == "off":
            return
        built: dict[str, _Layer] = {}
        for vertex, snapshot in results:
            folder = self._snapshots.dir(snapshot)
            layer = built.setdefault(folder, _Layer(snapshot, folder, vertex))
            for id in _secrets_of(vertex):
                self._check_known(layer, id)
        todo: list[tuple[_Layer, dict[str, bytes]]] = []
        for snapshot in self._snapshots.layers(image) if self._secrets else ():
            if self._layers.pulled(snapshot) is not None or not (elsewhere or self._layers.is_here(snapshot)):
                continue
            folder = self._snapshots.dir(snapshot)
            layer = built.get(folder) or _Layer(snapshot, folder, None)
            if secrets := self._unsearched(layer):
                todo.append((layer, secrets))
        self._search_layers(todo)

    def _check_known(self, layer: _Layer, id: str) -> None:
        """Tell what is known of a step's own secret: where it leaked, or that nobody looked and nobody can now."""
        known = self._searches.of(layer.folder).get(name_of(id))
        if known is None:
            return
        if known.mark is None and id in self._secrets:
            self._search_layers([(layer, {id: self._secrets[id]})])
        elif known.mark is None:
            assert layer.vertex is not None
            self._tell_unsearched(id, layer.vertex)
        elif known.places:
            self._tell_known(layer, id, known.places)

    def _unsearched(self, layer: _Layer) -> dict[str, bytes]:
        """The secrets that a layer must be searched for; tells of those that were found in it before."""
        known = self._searches.of(layer.folder)
        todo = {}
        for id, value in self._secrets.items():
            searched = known.get(name_of(id))
            if searched is not None and searched.places:
                self._tell_known(layer, id, searched.places)
            elif searched is None or searched.mark != self._marks[id]:
                todo[id] = value
        return todo

    def _search_layers(self, todo: Sequence[tuple[_Layer, dict[str, bytes]]]) -> None:
        if not todo:
            return
        privilege.require()
        with self._emitter.vertex(_DIGEST, _TITLE):
            for layer, secrets in todo:
                found = self._search(secrets, self._snapshots.folder(layer.snapshot))
                self.remember(layer.snapshot, self._outcomes(found))
                self._tell(found, layer.vertex)

    # --- what comes of it -----------------------------------------------------------------------------------------

    def _search(self, secrets: Mapping[str, bytes], folder: str) -> dict[str, tuple[str, ...]]:
        """Where each of these secrets is in a layer's folder."""
        found = _by_secret(Search(secrets, self._check_canceled).folder(folder))
        return {id: self._masked(found.get(id, ())) for id in secrets}

    def _check_canceled(self) -> None:
        if self._cancel.is_set():
            raise CanceledError

    def _outcomes(self, found: Mapping[str, tuple[str, ...]]) -> dict[str, Searched]:
        return {id: Searched(self._marks[id], places) for id, places in found.items()}

    def _tell(self, found: Mapping[str, tuple[str, ...]], vertex: Vertex | None) -> None:
        for id, places in found.items():
            if places:
                self._settle(self._case(id, places, vertex))

    def _tell_known(self, layer: _Layer, id: str, places: tuple[str, ...]) -> None:
        if (layer.folder, id) not in self._told:
            self._told.add((layer.folder, id))
            self._settle(self._case(id, places, layer.vertex))

    def _case(self, id: str, places: tuple[str, ...], vertex: Vertex | None) -> _Case:
        if vertex is None:
            return _Case(id, f"secret {id} leaks: an earlier build left its value in {self._listed(places)}", places)
        meta = vertex.meta
        message = f"secret {id} leaks: {self._short(meta.name)} left its value in {self._listed(places)}"
        hint = _STEP_HINT if isinstance(vertex.op, ExecOp) else _FILE_HINT
        return _Case(id, message, places, meta.name, meta.location, vertex.digest, hint)

    def _tell_unsearched(self, id: str, vertex: Vertex) -> None:
        meta = vertex.meta
        step = self._short(meta.name)
        message = f"secret {id} may leak: {step} had it under --secret-leak=off, so nobody searched what it left"
        hint = f"give the secret {id} once more, or run the step anew with --no-cache-filter or --no-cache"
        self._settle(_Case(id, message, (), meta.name, meta.location, vertex.digest, hint))

    def _settle(self, case: _Case) -> None:
        if self._mode == "fail":
            raise SecretLeakError(
                case.message,
                secret=case.secret,
                places=case.places,
                step=case.step,
                location=case.location,
                hint=case.hint,
            )
        self._emitter(WarningEvent(case.vertex, case.message, detail=(case.hint,), location=case.location))

    def _short(self, name: str) -> str:
        # What is cut in the middle would not be masked any more.
        name = self._emitter.masked(name)
        return name if len(name) <= _MOST_OF_A_NAME else f"{name[:_MOST_OF_A_NAME]}..."

    def _masked(self, places: Iterable[str]) -> tuple[str, ...]:
        # The name of a file can be what it was searched for.
        return tuple(map(self._emitter.masked, places))

    def _listed(self, places: Sequence[str]) -> str:
        more = len(places) - _MOST_PLACES
        return ", ".join(places[:_MOST_PLACES]) + (f" and {more} more places" if more > 0 else "")


def _by_secret(leaks: Iterable[Leak]) -> dict[str, tuple[str, ...]]:
    places: dict[str, tuple[str, ...]] = {}
    for leak in leaks:
        places[leak.secret] = (*places.get(leak.secret, ()), str(leak))
    return places


def _secrets_of(vertex: Vertex) -> tuple[str, ...]:
    return vertex.op.secrets if isinstance(vertex.op, ExecOp) else ()


def _strings(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """All texts of a JSON value with their places, keys as well."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _strings(f"{place}[{at}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{place}.{key}", key
            yield from _strings(f"{place}.{key}", item)
