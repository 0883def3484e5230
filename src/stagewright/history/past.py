"""A build that is explained, the earlier ones that it is compared with, and what is said of a step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from stagewright.history.archive import Archive, Build, Run
from stagewright.history.causes import Cause, Kind
from stagewright.history.matching import match
from stagewright.history.recipe import Recipe
from stagewright.history.steps import Step
from stagewright.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a step was not found in the cache: the cause that counts, and what else differs.

    `root` is the first of the steps that ran because of it. What was said there is not said again.
    """

    kind: Kind
    sentence: str
    short: str
    root: int
    details: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[Cause, ...] = ()
    compared_with: int | None = None

    def to_json(self) -> dict[str, Any]:
        also = [{"kind": cause.kind, "reason": cause.sentence, "details": cause.details} for cause in self.also]
        return {**{name: getattr(self, name) for name in self.__slots__}, "also": also}


@dataclass(slots=True)
class Present:
    """The build that is explained: its steps, which get their keys as they are found, and what it was given.

    `files` answers the files behind a content digest in their kept form, `exists` whether a path is in the main
    context's folder. `sources` name the imported caches that were asked, `unread` those that could not be read.
    """

    steps: list[Step]
    recipe: Recipe
    inputs: Mapping[str, Any]
    no_cache: Sequence[bool]
    files: Callable[[str], bytes]
    exists: Callable[[str], bool]
    version: str
    ignore: Sequence[str] = ()
    sources: Sequence[str] = ()
    unread: Sequence[str] = ()


class Past:
    """An earlier build, and which of its steps the present ones are."""

    def __init__(self, archive: Archive, build: Build, graph: Mapping[str, Any], present: Present) -> None:
        self.build = build
        self.steps = [Step.from_json(step) for step in graph["steps"]]
        self.recipe = Recipe(graph["dockerfile"], build.inputs.get("args", {}))
        self.ignore: list[str] = graph.get("ignore", [])
        self.inputs = build.inputs
        self._archive = archive
        self._present = present

    @property
    def matched(self) -> dict[int, int]:
        """The old steps' indexes by those of the present ones."""
        return self._match[0]

    @property
    def stages(self) -> Collection[str]:
        """The names of the present stages that it had, too."""
        return self._match[1]

    @cached_property
    def _match(self) -> tuple[dict[int, int], Collection[str]]:
        return match(self.steps, self.recipe, self._present.steps, self._present.recipe)

    @cached_property
    def back(self) -> dict[int, int]:
        """The present steps' indexes by those of the old ones."""
        return {old: new for new, old in self.matched.items()}

    @cached_property
    def run(self) -> Run:
        return self._archive.run(self.build)
