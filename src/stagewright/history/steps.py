"""A vertex of a solved graph as data that is kept: what its key was made of, with nothing in it that is a secret."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from stagewright.graph.ops import ExecOp, FileOp, SourceOp
from stagewright.graph.vertex import Vertex
from stagewright.history.inputs import cleaned, shown_variable
from stagewright.progress.events import VertexEvent
from stagewright.records import dataclass, field

IMAGE = "docker-image://"
# No part of what a step is, and where credentials are.
_LEFT_OUT = frozenset({"proxy_env"})
_SELECTING = ("source", "selector", "wildcard", "optional", "includes", "excludes", "required")


class Told(Protocol):
    """What a vertex tells of itself while it is solved."""

    @property
    def event(self) -> VertexEvent: ...


class Outcome(Protocol):
    """What came of a vertex; see `ops.result`."""

    @property
    def snapshot(self) -> int | None: ...
    @property
    def exact(self) -> bool: ...
    @property
    def size(self) -> int | None: ...


class Solved(Protocol):
    """A vertex that is being solved, or was; see `solver.nodes`."""

    @property
    def vertex(self) -> Vertex: ...
    @property
    def inputs(self) -> Sequence[Solved]: ...
    @property
    def definition(self) -> str | None: ...
    @property
    def canonical(self) -> str | None: ...
    @property
    def cached(self) -> object | None: ...
    @property
    def wanted(self) -> bool: ...
    @property
    def contents(self) -> Mapping[int, str]: ...
    @property
    def result(self) -> Outcome | None: ...
    @property
    def reporter(self) -> Told: ...


@dataclass(slots=True)
class Step:
    """One vertex. `inputs` are indexes of steps; `base` says which of them the files start from, `contents` what the
    digest of those files is that are read of one. `lines` are those of its instruction, first and last. `meaning` is
    what a source that is only named was resolved to.
    """

    digest: str
    name: str
    stage: str
    lines: list[int] | None
    op: dict[str, Any]
    platform: str
    inputs: list[int]
    base: int | None
    definition: str | None
    canonical: str | None
    contents: dict[str, str] = field(default_factory=dict)
    meaning: Any = None

    @property
    def kind(self) -> str:
        """`exec`, `file`, `merge` or `source`."""
        return str(self.op["op"])

    @property
    def is_image(self) -> bool:
        return self.kind == "source" and str(self.op["identifier"]).startswith(IMAGE)

    @property
    def is_instruction(self) -> bool:
        """Whether it does what an instruction of the Dockerfile says: a FROM's image, or files on top of others."""
        does = self.lines is not None and (self.kind != "source" or self.is_image) and self.name.startswith("[")
        return does and not self.is_part

    @property
    def is_part(self) -> bool:
        """Whether it is the part of a folder that an instruction mounts, and stands for that folder."""
        return self.kind == "file" and self.text.startswith("load ")

    @property
    def text(self) -> str:
        """The name without `[stage 1/2]`."""
        return self.name.partition("] ")[2] if self.name.startswith("[") else self.name

    def to_json(self) -> dict[str, Any]:
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) not in (None, {}, "")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Step:
        defaults = {"stage": "", "platform": "", "lines": None, "base": None, "definition": None, "canonical": None}
        return cls(**{**defaults, **data})


def step_of(node: Solved, index_of: Mapping[str, int], meaning: object, clean: Callable[[str], str]) -> Step:
    """The vertex as a step; `index_of` are the indexes of its inputs by their vertices' digests."""
    vertex = node.vertex
    location = vertex.meta.location
    return Step(
        digest=vertex.digest,
        name=clean(vertex.meta.name),
        stage=vertex.meta.stage or "",
        lines=None if location is None else [location.start, location.end],
        op=cleaned(op_data(vertex), clean),
        platform=vertex.platform,
        inputs=[index_of[source.vertex.digest] for source in node.inputs],
        base=_base(vertex),
        definition=node.definition,
        canonical=node.canonical,
        contents={str(index): digest for index, digest in node.contents.items()},
        meaning=meaning,
    )


def op_data(vertex: Vertex) -> dict[str, Any]:
    """The op with the names of its fields, but for those that have their defaults, as JSON-able data."""
    op = vertex.op
    data = _plain(op)
    kinds = {SourceOp: "source", ExecOp: "exec", FileOp: "file"}
    if isinstance(op, ExecOp):
        data["env"] = [shown_variable(item) for item in op.env]
    return {"op": kinds.get(type(op), "merge"), **data}


def _plain(value: Any) -> Any:
    fields = getattr(type(value), "__record_fields__", None)
    if fields is not None:
        return {
            name: _plain(item)
            for name, known in fields.items()
            if name not in _LEFT_OUT and (item := getattr(value, name)) != known.default and item != ()
        }
    if isinstance(value, bytes):
        return "sha256:" + hashlib.sha256(value).hexdigest()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _base(vertex: Vertex) -> int | None:
    op = vertex.op
    if isinstance(op, ExecOp):
        return next((mount.input for mount in op.mounts if mount.target == "/"), None)
    if isinstance(op, FileOp):
        return op.base
    return 0 if vertex.inputs else None


def copied_from(step: Step, index: int) -> list[dict[str, Any]]:
    """The copies, or the mounts, that read the input of that index."""
    items = step.op.get("actions", ()) if step.kind == "file" else step.op.get("mounts", ())
    return [item for item in items if item.get("input") == index and item.get("target") != "/"]


def selected_from(step: Step, index: int) -> list[dict[str, Any]]:
    """What tells which files of the input of that index are read, wherever they go; see `CopyAction.selection`."""
    return [{name: item[name] for name in _SELECTING if name in item} for item in copied_from(step, index)]
