"""A Dockerfile: it reads back as it was printed and becomes the same graph each time, or an error says where."""

from __future__ import annotations

from collections.abc import Sequence

from stagewright.dockerfile.instructions import parse
from stagewright.dockerfile.printer import print_dockerfile
from stagewright.errors import DockerfileError
from stagewright.frontend.convert import convert
from stagewright.frontend.options import BaseImage, ImageRequest, Options
from stagewright.graph.vertex import walk
from stagewright.image.config import ContainerConfig, History, ImageConfig
from stagewright.image.platform import Platform

TOKENS = (
    b"FROM ", b" AS ", b"ARG ", b"RUN ", b"COPY ", b"ADD ", b"ENV ", b"LABEL ", b"CMD ", b"ENTRYPOINT ", b"SHELL ",
    b"USER ", b"WORKDIR ", b"EXPOSE ", b"VOLUME ", b"STOPSIGNAL ", b"HEALTHCHECK ", b"ONBUILD ", b"MAINTAINER ",
    b"--from=", b"--chmod=", b"--chown=", b"--link", b"--parents", b"--exclude=", b"--mount=type=cache,target=",
    b"--mount=type=bind,from=", b"--mount=type=secret,id=", b"--mount=type=tmpfs,size=", b"--network=", b"--security=",
    b"--platform=", b"--interval=", b"--checksum=sha256:", b"--keep-git-dir", b"--unpack", b"# syntax=", b"# escape=",
    b"# check=", b"<<E\n", b"<<-'E'\n", b"\nE\n", b"\\\n", b"${A:-", b"${A//", b"${A#", b"$A", b'["', b'"]', b"\r\n",
    b"scratch", b"0:0", b"80/tcp", b"1-99999", b"u+rwX,g=u",
)  # fmt: skip

_PLATFORM = Platform("linux", "amd64")
_TRIGGERS = ContainerConfig(on_build=("COPY --from=b / /", "RUN x", "FROM y"), working_dir="w", env=("A=1", "B"))


def check(data: bytes) -> None:
    """Fails for anything but a DockerfileError that has lines of the file."""
    try:
        file = parse(data)
    except DockerfileError as error:
        _check_error(error, data)
        return
    assert parse(print_dockerfile(file)) == file
    digests = []
    for _ in range(2):
        try:
            plan = convert(file, Options(_PLATFORM, build_args={"A": "x"}), _resolve)
        except DockerfileError as error:
            _check_error(error, data)
            return
        plan.config.to_bytes()
        digests.append([vertex.digest for vertex in walk([plan.vertex])] if plan.vertex else [])
    assert digests[0] == digests[1]


def _check_error(error: DockerfileError, data: bytes) -> None:
    assert error.location is not None
    assert 1 <= error.location.start <= error.location.end <= max(1, data.count(b"\n") + 1)
    error.render().encode()


def _resolve(requests: Sequence[ImageRequest]) -> list[BaseImage]:
    config = ImageConfig(
        _PLATFORM, _TRIGGERS, "2024-01-01T00:00:00Z", "", ("sha256:" + "a" * 64,), (History(created_by="layer"),)
    )
    return [BaseImage(f"docker.io/library/image@sha256:{'b' * 64}", config) for _ in requests]
