"""Advice on what stages are made from: bases by moving tags, and stages copied from by their number."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from stagewright.dockerfile.ast import Copy, Stage
from stagewright.dockerfile.golang import parse_int
from stagewright.lint.findings import Edit, LintFinding, LintRule
from stagewright.lint.source import Source

Pin = Callable[[str], str | None]
"""The digest that an image name means now; None where nobody is to be asked."""

COPY_FROM_INDEX = LintRule(
    "copy-from-index",
    "Copy from stages by name",
    "A stage's number changes when a stage is added above it, and then other files are copied without a word.",
)
UNPINNED_BASE = LintRule(
    "unpinned-base",
    "Pin base images by digest",
    "A tag is moved to other images over time, so that the same Dockerfile gives another result tomorrow.",
    level="note",
)
_FREE_NAMES = ("build", "builder", "base", "source")


def copies_from_index(source: Source) -> Iterator[LintFinding]:
    """COPY --from=0 and the like."""
    names = {stage.name for stage in source.stages}
    given: dict[int, str] = {}
    for stage in source.stages:
        for instruction in stage.instructions:
            if not isinstance(instruction, Copy):
                continue
            try:
                index = parse_int(instruction.from_name)
            except ValueError:
                continue
            if not 0 <= index < len(source.stages) or instruction.from_name in names:
                continue
            named = source.stages[index]
            edits: tuple[Edit, ...] = ()
            name = named.name_as_written or given.get(index)
            if name is None:
                name = next((free for free in (*_FREE_NAMES, f"stage{index}") if free not in names), None)
            if name is not None:
                if not named.name:
                    names.add(name)
                    given[index] = name
                    edits = _name_stage(source, named, name)
                edits += source.substitute(
                    instruction.location, rf"--from=([\"']?){instruction.from_name}\1(?=\s)", rf"--from={name}", 1
                )
            said = f'stage {index} is "{name}"' if named.name else f"stage {index} has no name"
            yield LintFinding(COPY_FROM_INDEX, f"--from={index} counts stages: {said}", instruction.location, edits)


def _name_stage(source: Source, stage: Stage, name: str) -> tuple[Edit, ...]:
    keyword = "as" if stage.keyword.islower() else "AS"
    _, end = source.span(stage.location)
    line = source.lines(stage.location)
    at = end - (len(line) - len(line.rstrip()))
    return (Edit(at, at, f" {keyword} {name}"),)


def unpinned_bases(source: Source, pin: Pin | None) -> Iterator[LintFinding]:
    """FROM image:tag without a digest. `pin` gives the digest for the rewrite."""
    for stage in source.stages:
        image = stage.base_name
        if source.base(stage) is not None or image.lower() == "scratch" or "$" in image or "@" in image:
            continue
        last = image.rpartition("/")[2]
        what = "the tag" if ":" in last else "no tag, which means"
        tag = last.partition(":")[2] or "latest"
        edits: tuple[Edit, ...] = ()
        digest = pin(image) if pin is not None else None
        if digest is not None:
            name = image if ":" in last else f"{image}:latest"
            edits = source.substitute(stage.location, rf"(?<=\s){re.escape(image)}(?=\s|$)", f"{name}@{digest}", 1)
        yield LintFinding(UNPINNED_BASE, f"{image} has {what} {tag} and no digest", stage.location, edits)
