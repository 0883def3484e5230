"""What a copy takes of a source folder: COPY's --parents and --exclude."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stagewright.dockerfile.ignore import Folder, Matcher, patterns_from
from stagewright.dockerfile.wildcard import SourcePattern
from stagewright.graph.ops import CopyAction
from stagewright.records import dataclass
from stagewright.sources.tree import Entry, Tree


@dataclass(slots=True)
class _Level:
    """A folder on the way to what is looked at, with what its patterns make of it; `waiting` until it is taken."""

    prefix: str
    included: Folder | None
    excluded: Folder | None
    waiting: Entry | None


def taken(tree: Tree, top: Entry, action: CopyAction) -> Iterator[list[Entry]]:
    """What the action takes from below the folder `top`, in pieces as those of `Tree.runs`.

    A folder that no pattern includes comes as soon as something in it is taken, as `on_the_way`; so does one that is
    excluded.
    """
    if not action.includes and not action.excludes:
        return tree.runs(top.path)
    return ([entry] for entry in _filtered(tree, top, action))


def _filtered(tree: Tree, top: Entry, action: CopyAction) -> Iterator[Entry]:
    prefix = f"{top.path}/" if top.path else ""
    levels = [_Level(prefix, _root(action.includes), _root(action.excludes), None)]
    reach = [SourcePattern(pattern).folder for pattern in action.includes]

    def enters(entry: Entry) -> bool:
        excluded = levels[-1].excluded
        if excluded is not None and excluded.hopeless:
            return False
        return not reach or _leads(entry.path[len(prefix) :], reach)

    for entry in tree.walk(top.path, enters):
        while not entry.path.startswith(levels[-1].prefix):
            levels.pop()
        level = levels[-1]
        name = entry.path.rpartition("/")[2]
        wanted = (level.included is None or level.included.excludes(name)) and not (
            level.excluded is not None and level.excluded.excludes(name)
        )
        if wanted:
            for above in levels:
                if above.waiting is not None:
                    yield Entry(above.waiting.path, above.waiting.info, on_the_way=True)
                    above.waiting = None
        if entry.is_dir:
            included = level.included and level.included.enter(name)
            excluded = level.excluded and level.excluded.enter(name)
            levels.append(_Level(f"{entry.path}/", included, excluded, None if wanted else entry))
        if wanted:
            yield entry


def _root(patterns: Sequence[str]) -> Folder | None:
    return Matcher(patterns_from(patterns)).root() if patterns else None


def _leads(folder: str, reach: Sequence[str]) -> bool:
    """Whether a folder is on the way to one of the paths, or below it."""
    inside = f"{folder}/"
    return any(not path or inside.startswith(f"{path}/") or f"{path}/".startswith(inside) for path in reach)
