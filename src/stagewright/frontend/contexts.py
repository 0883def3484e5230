"""Named contexts: what a build puts in the place of the stages and images of a name (`--build-context name=value`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from stagewright.dockerfile.giturl import parse_git_ref
from stagewright.errors import UsageError
from stagewright.frontend.remote import context_source
from stagewright.graph.ops import CopyAction, FileOp, SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.image.platform import Platform, parse_platform
from stagewright.records import dataclass
from stagewright.registry.reference import Reference

Kind = Literal["folder", "image", "layout", "stage", "git", "http"]

MAIN_CONTEXT = "context"
_LOCAL = "local://"
_PREFIXES: tuple[tuple[str, Kind], ...] = (
    ("docker-image://", "image"),
    ("oci-layout://", "layout"),
    ("target:", "stage"),
    ("http://", "http"),
    ("https://", "http"),
)
_NOT_REPLACED = ("scratch", "context")
_LATEST = ":latest"


@dataclass(frozen=True, slots=True)
class NamedContext:
    """One named context. `value` is a folder, an image's name, a layout's `path[:tag][@digest]`, a stage or a URL."""

    name: str
    kind: Kind
    value: str

    @property
    def local_name(self) -> str:
        """How the graph names a folder; the main context's name stays its own."""
        return f"_{self.name}" if self.name == MAIN_CONTEXT else self.name

    def vertex(self) -> Vertex:
        """The vertex of a folder, a git repository or a URL."""
        if (remote := context_source(self.value, name=self.name)) is not None:
            return remote
        return Vertex(SourceOp(_LOCAL + self.local_name), meta=Metadata(self.shown("load from client")))

    @property
    def image_title(self) -> str:
        """What people see of getting the files of its image."""
        return self.shown("OCI load from client" if self.kind == "layout" else self.value)

    def shown(self, text: str) -> str:
        """What people see of work that is done for it."""
        return f"[context {self.name}] {text}"


class NamedContexts:
    """The named contexts of a build, by names in the short form that Docker shows, perhaps with `::platform` behind.

    Raises UsageError for a name that no stage or image could have.
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._contexts: dict[str, NamedContext] = {}
        for text, value in (values or {}).items():
            name = _normalized(text)
            self._contexts[name] = NamedContext(name, *_parse_value(value))

    def __iter__(self) -> Iterator[NamedContext]:
        return iter(self._contexts.values())

    def find(self, name: str, platform: Platform) -> NamedContext | None:
        """What stands for the stage or image `name` where it is used for the platform; None for nothing."""
        if not self._contexts or name.lower() in _NOT_REPLACED:
            return None
        return self._find(name, platform)

    def find_image(self, name: str, platform: Platform) -> NamedContext | None:
        """As `find`, for a name in FROM, COPY or RUN that is no stage's: there even `context` is a name like others."""
        return self._find(name, platform) if self._contexts and name != "scratch" else None

    def _find(self, name: str, platform: Platform) -> NamedContext | None:
        try:
            short = _short(name)
        except UsageError:
            # No context has a name that is none; what uses it says so.
            return None
        return self._contexts.get(f"{short}::{platform.normalized()}") or self._contexts.get(short)


def as_files(vertex: Vertex | None) -> Vertex | None:
    """The vertex as one that layers can be put on: a folder is read in place, and so has to be copied first."""
    if vertex is None or not is_folder(vertex):
        return vertex
    return part_of(vertex, "/", vertex.meta)


def part_of(folder: Vertex, selector: str, meta: Metadata) -> Vertex:
    """The selected part of a folder that is read in place, as files of its own under the same path."""
    return Vertex(FileOp((CopyAction(0, selector, selector, wildcard=False),), base=None), (folder,), meta=meta)


def is_folder(vertex: Vertex) -> bool:
    """Whether the vertex is a folder that is read in place."""
    return isinstance(vertex.op, SourceOp) and vertex.op.identifier.startswith(_LOCAL)


def _normalized(text: str) -> str:
    name, separator, platform = text.partition("::")
    try:
        short = _short(name)
        return f"{short}::{parse_platform(platform).normalized()}" if separator else short
    except UsageError as error:
        raise UsageError(f"invalid context name {text}: {error.message}") from None


def _short(name: str) -> str:
    return Reference.parse(name).familiar().removesuffix(_LATEST)


def _parse_value(value: str) -> tuple[Kind, str]:
    if parse_git_ref(value) is not None:
        return "git", value
    for prefix, kind in _PREFIXES:
        if value.startswith(prefix):
            return kind, value if kind == "http" else value.removeprefix(prefix)
    return "folder", value
