"""Converts Dockerfiles given as text, with images that exist only in a table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from stagewright.dockerfile.instructions import parse
from stagewright.frontend.convert import convert
from stagewright.frontend.options import BaseImage, ImageRequest, Options, Plan
from stagewright.graph.ops import CopyAction, ExecOp, FileOp, SourceOp
from stagewright.graph.vertex import Vertex, walk
from stagewright.image.config import ContainerConfig, History, ImageConfig
from stagewright.image.platform import Platform

AMD64 = Platform("linux", "amd64")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LAYER = "sha256:" + "a" * 64


def image(platform: Platform = AMD64, *, layers: int = 1, **config: Any) -> ImageConfig:
    """The config of an image with that many layers."""
    return ImageConfig(
        platform,
        config=ContainerConfig(**config),
        created="2024-01-01T00:00:00Z",
        diff_ids=(LAYER,) * layers,
        history=tuple(History(created_by=f"layer {number}") for number in range(layers)),
    )


class Registry:
    """Resolves any name; what is asked for is kept in `asked`, one list for each call."""

    def __init__(self, images: Mapping[str, ImageConfig] | None = None) -> None:
        self._images = images or {}
        self.asked: list[list[str]] = []
        self.requests: list[ImageRequest] = []

    def __call__(self, requests: Sequence[ImageRequest]) -> list[BaseImage]:
        self.asked.append([request.name for request in requests])
        self.requests += requests
        return [self._resolve(request) for request in requests]

    def _resolve(self, request: ImageRequest) -> BaseImage:
        config = self._images.get(request.name, image(request.platform))
        return BaseImage(pinned(request.name), config)


def pinned(name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"docker.io/library/{name}:latest@sha256:{digest}"


def build(text: str, *, images: Mapping[str, ImageConfig] | None = None, **options: Any) -> Plan:
    """The plan for a Dockerfile, for linux/amd64 unless `platform` is given."""
    return convert(parse(text.encode()), Options(**{"platform": AMD64, **options}), Registry(images))


def vertices(plan: Plan) -> list[Vertex]:
    assert plan.vertex is not None
    return walk([plan.vertex])


def names(plan: Plan) -> list[str]:
    """The display names of all vertices, inputs first, but for the build context's."""
    return [vertex.meta.name for vertex in vertices(plan) if not is_context(vertex)]


def is_context(vertex: Vertex) -> bool:
    return isinstance(vertex.op, SourceOp) and vertex.op.identifier.startswith("local://")


def execs(plan: Plan) -> list[ExecOp]:
    return [vertex.op for vertex in vertices(plan) if isinstance(vertex.op, ExecOp)]


def last_exec(plan: Plan) -> ExecOp:
    return execs(plan)[-1]


def copies(plan: Plan) -> list[CopyAction]:
    """The copy actions of the last vertex."""
    assert plan.vertex is not None
    op = plan.vertex.op
    assert isinstance(op, FileOp)
    return [action for action in op.actions if isinstance(action, CopyAction)]


def history(plan: Plan) -> list[str]:
    """What the history says of the steps of the Dockerfile."""
    return [entry.created_by for entry in plan.config.history if entry.comment == "buildkit.dockerfile.v0"]


def environment(plan: Plan) -> dict[str, str]:
    """The environment of the last RUN, but for PATH."""
    env = dict(item.split("=", 1) for item in last_exec(plan).env)
    del env["PATH"]
    return env
