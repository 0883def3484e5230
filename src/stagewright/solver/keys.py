"""How a vertex gets its cache keys (see cache/keys.py for what the kinds of key mean)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stagewright.graph.ops import SourceOp
from stagewright.graph.vertex import Vertex, digest_of

# Bumped when a change of the builder makes old results wrong, so that they are not found any more.
_GENERATION = 1


def definition_key(vertex: Vertex, inputs: Sequence[str]) -> str:
    """The key of an op on inputs with these canonical keys."""
    return "d:" + digest_of([_GENERATION, vertex.op.identity(), vertex.platform, list(inputs)])


def resolved_key(meaning: object) -> str:
    """The key of a source that means this now (see Solver), by whatever name."""
    return "s:" + digest_of([_GENERATION, meaning])


def content_key(vertex: Vertex, inputs: Sequence[str], contents: Mapping[int, str]) -> str:
    """The key of an op where `contents` (input index -> digest of what is read of it) replace those inputs' keys."""
    keys = [contents.get(index, key) for index, key in enumerate(inputs)]
    return "c:" + digest_of([_GENERATION, vertex.op.identity(), vertex.platform, keys])


def is_context(vertex: Vertex) -> bool:
    """Whether the vertex is a build context: it has no key of its own, only the files that are read of it count."""
    return isinstance(vertex.op, SourceOp) and vertex.op.identifier.startswith("local://")


def is_named_only(vertex: Vertex) -> bool:
    """Whether the vertex is a source whose op does not say what it is: a URL, or a branch of a git repository."""
    return isinstance(vertex.op, SourceOp) and vertex.op.identifier.startswith(("http://", "https://", "git://"))
