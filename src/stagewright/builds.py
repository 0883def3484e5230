"""The records of builds as people see them: list, inspect, explain, remove, export, and a build's logs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from stagewright.cache.locks import LockFile
from stagewright.errors import NotFoundError, StoreError
from stagewright.history import view
from stagewright.history.archive import Archive, Build
from stagewright.history.steps import Step
from stagewright.progress.events import Event, LogEvent, VertexEvent
from stagewright.state import State


class History:
    """The builds that a state directory remembers, by their numbers; `root` is the directory.

    Where a number is wanted, None means the newest build that has ended. Methods raise NotFoundError for a build that
    is not known, and StoreError where the directory cannot be used.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        state = State(None if root is None else os.fspath(root), os.environ)
        # Without the metadata, so that what is known of builds can be read of any state directory.
        self._archive = Archive(state.root / "history", LockFile(state.root / "locks"))
        self._root = state.root

    def builds(self) -> list[dict[str, Any]]:
        """All builds, the newest first, without their steps."""
        return [view.summary(build) for build in self._archive.list()]

    def inspect(self, number: int | None = None) -> dict[str, Any]:
        """A build with its steps: keys and what they are made of, times, sizes, outcomes."""
        build, steps = self._load(number)
        return view.details(build, steps, self._archive.run(build), self._archive.sizes())

    def explain(self, number: int | None = None) -> dict[str, Any]:
        """Why the steps of a build ran."""
        build, steps = self._load(number)
        return view.explanation(build, steps, self._archive.run(build))

    def events(self, number: int | None = None) -> list[Event]:
        """The steps that ran and what they wrote, as events of a build's progress, one step after the other."""
        build, steps = self._load(number)
        run = self._archive.run(build)
        events: list[Event] = []
        for index, ran in sorted(run.steps.items(), key=lambda item: item[1].get("started", 0.0)):
            if "started" not in ran:
                continue
            digest, started = steps[index].digest, build.created + ran["started"]
            begun = VertexEvent(digest, steps[index].name, started=started, stage=steps[index].stage or None)
            events.append(begun)
            for at, stream, text in run.logs.get(index, ()):
                events.append(LogEvent(digest, stream, text.encode(errors="replace"), started + at))
            ended, error = started + ran["seconds"], ran.get("error", "")
            events.append(VertexEvent(digest, begun.name, (), started, ended, False, error, None, begun.stage))
        return events

    def export(self, number: int | None = None) -> dict[str, Any]:
        """All that is known of a build, its explanation, Dockerfile and logs included, as one JSON-able document."""
        build, steps = self._load(number)
        run = self._archive.run(build)
        graph = self._archive.graph(build.graph) or {}
        return {
            "stagewright_build_record": 1,
            "exported": time.time(),
            **view.details(build, steps, run, self._archive.sizes()),
            "explanation": view.explanation(build, steps, run),
            "dockerfile": graph.get("dockerfile"),
            "logs": {steps[index].digest: log for index, log in run.logs.items()},
        }

    def remove(self, numbers: Sequence[int] | None) -> list[int]:
        """Forget builds, all of them where None is given; answers their numbers."""
        known = [build.number for build in self._archive.list()]
        for number in numbers or ():
            if number not in known:
                raise self._unknown(number)
        gone = known if numbers is None else list(dict.fromkeys(numbers))
        if not gone:
            return []
        try:
            self._archive.remove(gone)
        except OSError as error:
            raise StoreError(f"cannot remove records of builds: {error}") from error
        return gone

    def _load(self, number: int | None) -> tuple[Build, list[Step]]:
        ended = (build for build in self._archive.list() if build.has_ended)
        found = next(ended, None) if number is None else self._archive.get(number)
        if found is None:
            if number is not None:
                raise self._unknown(number)
            raise NotFoundError("no build is recorded", hint=f"that is, in the state directory {self._root}")
        graph = self._archive.graph(found.graph) or {"steps": []}
        return found, [Step.from_json(step) for step in graph["steps"]]

    @staticmethod
    def _unknown(number: int) -> NotFoundError:
        return NotFoundError(f"no build {number} is recorded", hint="see: stagewright history ls")
