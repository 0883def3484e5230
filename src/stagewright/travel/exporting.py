"""What of a build goes into an exported cache, under which keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from stagewright.graph.vertex import Vertex
from stagewright.records import dataclass, field, replace
from stagewright.snapshots.lazy import KnownLayer
from stagewright.solver.keys import content_key, definition_key, is_context
from stagewright.solver.nodes import Solved
from stagewright.travel.record import CacheLayer, CacheRecord, CacheStep

_RANDOM = "n:"
_RESOLVED = "s:"


@dataclass(slots=True)
class _Step:
    keys: set[str] = field(default_factory=set)
    name: str = ""
    has_result: bool = False
    snapshot: int | None = None


def make_record(
    solved: Iterable[Solved],
    chain_of: Callable[[int | None], Sequence[int]],
    layer_of: Callable[[int], KnownLayer],
    keeps: Callable[[Sequence[int]], bool],
    masked: Callable[[str], str],
) -> CacheRecord:
    """The record of a build's vertices, inputs before their users.

    `chain_of` answers the snapshots below a result, the bottom one first, `layer_of` the blob of one of them. Results
    of which `keeps` refuses the chain are left out; their keys stay, so that what is built on them is found. Equal
    builds give equal records.
    """
    steps = _portable_steps(solved, masked)
    layers: list[CacheLayer] = []
    indexes: dict[tuple[int | None, KnownLayer], int] = {}
    found = []
    for canonical, step in sorted(steps.items()):
        done = CacheStep(canonical, tuple(sorted(step.keys - {canonical})), step.name)
        chain = chain_of(step.snapshot) if step.has_result else ()
        if step.has_result and keeps(chain):
            index: int | None = None
            for snapshot in chain:
                layer = CacheLayer(layer_of(snapshot), index)
                index = indexes.setdefault((layer.parent, layer.known), len(layers))
                if index == len(layers):
                    layers.append(layer)
            done = replace(done, layer=index, is_empty=index is None)
        found.append(done)
    return CacheRecord(tuple(layers), tuple(found))


def _portable_steps(solved: Iterable[Solved], masked: Callable[[str], str]) -> dict[str, _Step]:
    """The steps by their canonical keys as other machines can know them.

    What was done anew without the cache has a canonical key of its own run here; elsewhere its definition, or what it
    read, is the name of what came out, and so for all that is built on it.
    """
    names: dict[str, str] = {}
    changed: set[str] = set()
    inexact: set[str] = set()
    steps: dict[str, _Step] = {}
    for done in solved:
        digest = done.vertex.digest
        if is_context(done.vertex):
            names[digest] = done.canonical
            continue
        keys = _keys(done, [names[source.digest] for source in done.vertex.inputs])
        inputs = {source.digest for source in done.vertex.inputs}
        canonical = done.canonical
        if canonical.startswith(_RANDOM) or inputs & changed:
            canonical = keys[0]
            changed.add(digest)
        names[digest] = canonical
        step = steps.setdefault(canonical, _Step())
        if not done.is_exact or _reads(done.vertex, inexact, done.contents):
            inexact.add(digest)
            continue
        step.keys.update(keys)
        step.name = step.name or masked(done.vertex.meta.name)
        if done.has_result and not step.has_result:
            step.has_result, step.snapshot = True, done.snapshot
    return steps


def _keys(done: Solved, inputs: Sequence[str]) -> list[str]:
    """All keys of a vertex, where these are the names of its inputs; the one that says most is first."""
    keys = [content_key(done.vertex, inputs, done.contents)] if done.contents else []
    if done.definition is not None:
        is_resolved = done.definition.startswith(_RESOLVED)
        keys.append(done.definition if is_resolved else definition_key(done.vertex, inputs))
    return keys


def _reads(vertex: Vertex, inexact: Collection[str], contents: Mapping[int, str]) -> bool:
    """Whether one of the inputs whose keys count is not what its key says."""
    return any(source.digest in inexact for index, source in enumerate(vertex.inputs) if index not in contents)
