"""What a build asks of the frontend, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stagewright.dockerfile.ignore import Pattern
from stagewright.errors import SourceRange
from stagewright.frontend.contexts import MAIN_CONTEXT, NamedContext, NamedContexts
from stagewright.graph.ops import Network, SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.image.config import ImageConfig
from stagewright.image.platform import Platform
from stagewright.records import dataclass, field


def local_context(name: str) -> Vertex:
    """The vertex of a folder of the host that is read in place; the worker knows the folder by that name."""
    return Vertex(SourceOp(f"local://{name}"), meta=Metadata("[internal] load build context"))


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image that a stage is built on or copies from: its whole name with the manifest's digest, and its config."""

    pinned: str
    config: ImageConfig


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image that is needed: its name as it is written, for which platform, and where it is asked for.

    `hint` is what to tell the user should there be no such image. `context` is the named context that says which image
    it is.
    """

    name: str
    platform: Platform
    location: SourceRange | None
    hint: str | None = None
    context: NamedContext | None = None


Resolver = Callable[[Sequence[ImageRequest]], list[BaseImage]]


@dataclass(frozen=True, slots=True)
class Options:
    """The frontend's part of a build's options; see `stagewright.api.build` for what they mean.

    `platform_requested` says that the user named the platform: then the image's config names it too, whatever its base
    is for. With `all_stages` those that the target does not need are converted, too. `context` is the vertex that COPY
    without --from reads: a local context or, see `frontend.remote`, any other vertex; `contexts` are the named ones;
    `ignore_patterns` are those of a local main context's ignore file, for the check that COPY asks for nothing that
    they hide.
    """

    platform: Platform
    platform_requested: bool = False
    target: str | None = None
    all_stages: bool = False
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    network: Network = "default"
    entitlements: frozenset[str] = frozenset()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    shm_size: int = 0
    context: Vertex = field(default_factory=lambda: local_context(MAIN_CONTEXT))
    contexts: NamedContexts = field(default_factory=NamedContexts)
    ignore_patterns: Sequence[Pattern] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build: the vertex whose result is the image's files (None: no files), and the image's config.

    The config's `diff_ids` are those of no layer yet: they come from the layers. `epoch` is SOURCE_DATE_EPOCH as the
    Dockerfile and the build arguments have it. `history_lines` are the lines of the Dockerfile that each entry of the
    config's history comes from, None for those of the base image.
    """

    vertex: Vertex | None
    config: ImageConfig
    epoch: int | None
    history_lines: tuple[SourceRange | None, ...]
