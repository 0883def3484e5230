"""Vertices: an op with its inputs, and the digest that names the two together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from stagewright.errors import SourceRange
from stagewright.graph.ops import Op
from stagewright.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Metadata:
    """What people see of a vertex; no part of its digest.

    `name` is the display name, `[build 2/4] RUN ...` with its prefix. `ignore_cache` runs it whatever is cached.
    """

    name: str = ""
    location: SourceRange | None = None
    stage: str | None = None
    ignore_cache: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Vertex:
    """One node of the graph. Compared by identity; two with one `digest` are the same work."""

    op: Op
    inputs: tuple[Vertex, ...] = ()
    platform: str = ""
    meta: Metadata = field(default_factory=Metadata)
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        identity = [self.op.identity(), [vertex.digest for vertex in self.inputs], self.platform]
        object.__setattr__(self, "digest", "sha256:" + digest_of(identity))


def digest_of(data: object) -> str:
    """The hex SHA-256 of JSON-able data."""
    return hashlib.sha256(json.dumps(data, separators=(",", ":")).encode()).hexdigest()


def walk(targets: Iterable[Vertex]) -> list[Vertex]:
    """All vertices that the targets need, each digest once, inputs before their users."""
    seen: set[str] = set()
    order: list[Vertex] = []
    stack: list[tuple[Vertex, bool]] = [(vertex, False) for vertex in reversed(list(targets))]
    while stack:
        vertex, expanded = stack.pop()
        if expanded:
            order.append(vertex)
            continue
        if vertex.digest in seen:
            continue
        seen.add(vertex.digest)
        stack.append((vertex, True))
        stack.extend((dep, False) for dep in reversed(vertex.inputs) if dep.digest not in seen)
    return order
