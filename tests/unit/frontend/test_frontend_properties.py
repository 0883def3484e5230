"""Whatever a Dockerfile says: it becomes a graph, the same each time, or an error that knows its place."""

from __future__ import annotations

from frontend_world import AMD64, Registry, image
from hypothesis import given, settings
from hypothesis import strategies as st

from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError, StagewrightError
from stagewright.frontend.convert import convert
from stagewright.frontend.options import Options, Plan
from stagewright.graph.vertex import walk

WORDS = st.sampled_from(
    [
        "a", "b", "x", "0", "1", "-1", "scratch", "/", "/x/", ".", "..", "//s", "$A", "${A:-b}", "${A", '"q"', "'",
        "\\", "A=1", "=", "80/tcp", "1-3", "[", "**", "!", "./y/./z", "a:b", "NONE", "CMD", "root", "<<E", "é", "\x00",
        "${A#*}",
    ]
)  # fmt: skip
FLAGS = st.sampled_from(
    [
        "", "--from=a", "--from=0", "--from=x", "--from=$A", "--parents", "--link", "--chmod=+x", "--chmod=$A",
        "--unpack", "--exclude=[", "--exclude=!a", "--mount=type=cache,target=$A", "--mount=from=x,target=/m",
        "--mount=type=secret", "--mount=type=secret,id=$A,env=E", "--mount=type=ssh,source=s",
        "--mount=type=tmpfs,target=t,size=1g", "--network=host", "--platform=$A", "--platform=linux/arm64",
        "--interval=1s",
    ]
)  # fmt: skip
KEYWORDS = st.sampled_from(
    [
        "FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "LABEL", "WORKDIR", "USER", "CMD", "ENTRYPOINT", "EXPOSE", "VOLUME",
        "STOPSIGNAL", "HEALTHCHECK", "SHELL", "ONBUILD RUN", "ONBUILD COPY", "MAINTAINER",
    ]
)  # fmt: skip


@st.composite
def lines(draw: st.DrawFn) -> str:
    words = draw(st.lists(WORDS, min_size=1, max_size=4))
    line = " ".join(filter(None, [draw(KEYWORDS), draw(FLAGS), *words]))
    bodies = "".join(f"\n{draw(WORDS)}\nE" for word in words if word == "<<E")
    return line + bodies


DOCKERFILES = st.lists(lines(), max_size=8).map(lambda rest: "\n".join(["FROM a AS x", *rest]))
IMAGES = {"a": image(on_build=("COPY --from=b / /", "RUN x"), working_dir="w", env=("A=1",)), "b": image(layers=0)}


def converted(text: str) -> Plan | StagewrightError:
    try:
        dockerfile = parse(text.encode("utf-8", "surrogatepass"))
        return convert(dockerfile, Options(AMD64, build_args={"A": "x"}), Registry(IMAGES), lambda finding: None)
    except StagewrightError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(DOCKERFILES)
def test_any_dockerfile_is_converted_or_refused_at_its_line(text: str) -> None:
    first, second = converted(text), converted(text)
    if isinstance(first, StagewrightError):
        assert isinstance(first, DockerfileError)
        assert first.location is not None
        assert first.render()
        return
    assert isinstance(second, Plan)
    assert first.config == second.config
    digests = [[vertex.digest for vertex in walk([plan.vertex])] if plan.vertex else [] for plan in (first, second)]
    assert digests[0] == digests[1]
    assert first.config.to_bytes()
