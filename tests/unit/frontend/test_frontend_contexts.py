"""Named contexts: whose place they take, under which names, and what they make of a stage."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from frontend_world import AMD64, PATH, Registry, build, copies, execs, image, names, pinned, vertices

from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError, UsageError
from stagewright.frontend.contexts import NamedContext, NamedContexts
from stagewright.frontend.convert import convert
from stagewright.frontend.options import Options
from stagewright.graph.ops import FileOp, SourceOp
from stagewright.image.config import ContainerConfig
from stagewright.image.platform import Platform

ARM64 = Platform("linux", "arm64")


def sources(text: str, contexts: Mapping[str, str], **options: object) -> set[str]:
    """What the graph of a Dockerfile starts from."""
    plan = build(text, contexts=NamedContexts(contexts), **options)
    return {vertex.op.identifier for vertex in vertices(plan) if isinstance(vertex.op, SourceOp)}


def image_of(name: str) -> str:
    return f"docker-image://image@{pinned(name).rpartition('@')[2]}"


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("app", "app"),
        ("app:latest", "app"),
        ("app", "app:latest"),
        ("docker.io/library/app:latest", "app"),
        ("index.docker.io/app", "app"),
        ("app", "docker.io/library/app:latest"),
        ("app:1", "docker.io/app:1"),
        ("docker.io/me/app", "me/app"),
        ("example.com/app", "example.com/app:latest"),
        ("app@sha256:" + "1" * 64, "docker.io/library/app@sha256:" + "1" * 64),
    ],
)
def test_names_are_compared_in_their_short_form(given: str, used: str) -> None:
    assert NamedContexts({given: "/x"}).find(used, AMD64) is not None


@pytest.mark.parametrize(("given", "used"), [("app:1", "app"), ("app", "me/app"), ("app", "example.com/app")])
def test_other_names_are_others(given: str, used: str) -> None:
    assert NamedContexts({given: "/x"}).find(used, AMD64) is None


def test_a_name_with_a_platform_is_for_that_platform_and_goes_first() -> None:
    contexts = NamedContexts({"app": "/any", "app::linux/x86_64": "/amd64"})
    assert contexts.find("app:latest", AMD64) == NamedContext("app::linux/amd64", "folder", "/amd64")
    assert contexts.find("app", ARM64) == NamedContext("app", "folder", "/any")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("App", "repository name (library/App) must be lowercase"),
        ("a b", "not a valid repository name"),
        ("", "not a valid repository name"),
        ("app::linux/", "linux/"),
    ],
)
def test_a_name_that_nothing_can_have(name: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        NamedContexts({name: "/x"})
    assert caught.value.message.startswith(f"invalid context name {name}: ")
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("value", "kind", "rest"),
    [
        ("../folder", "folder", "../folder"),
        ("docker-image://app:1", "image", "app:1"),
        ("oci-layout:///images/app:tag", "layout", "/images/app:tag"),
        ("target:base", "stage", "base"),
        ("https://example.com/app.tar.gz", "http", "https://example.com/app.tar.gz"),
        ("https://example.com/app.git#main:sub", "git", "https://example.com/app.git#main:sub"),
        ("git@example.com:me/app", "git", "git@example.com:me/app"),
        ("git://example.com/app", "git", "git://example.com/app"),
    ],
)
def test_kinds_of_contexts(value: str, kind: str, rest: str) -> None:
    assert list(NamedContexts({"x": value})) == [NamedContext("x", kind, rest)]  # type: ignore[arg-type]


# --- whose place they take ------------------------------------------------------------------------------------------


def test_an_image_in_from_copy_and_mount() -> None:
    text = "FROM a\nCOPY --from=b / /\nRUN --mount=from=c,target=/c true"
    contexts = {"a": "docker-image://x", "b": "docker-image://y", "c": "docker-image://z"}
    assert sources(text, contexts) == {image_of("x"), image_of("y"), image_of("z")}


def test_a_stage_is_replaced_with_all_it_needs() -> None:
    text = "FROM registry.invalid/x AS base\nRUN never\nFROM base\nCOPY --from=base / /copied"
    plan = build(text, contexts=NamedContexts({"base": "docker-image://x"}))
    assert execs(plan) == []
    assert sources(text, {"base": "docker-image://x"}) == {image_of("x")}


def test_a_stage_keeps_its_index() -> None:
    text = "FROM a AS one\nFROM b\nCOPY --from=0 / /"
    assert sources(text, {"one": "docker-image://x"}) == {image_of("x"), image_of("b")}


@pytest.mark.parametrize("text", ["FROM scratch\nCOPY --from=context /f /", "FROM scratch\nCOPY --from=Context /f /"])
def test_a_context_named_context_is_no_stage_but_an_image_of_that_name(text: str) -> None:
    if "Context" in text:
        assert sources(text, {"context": "/x"}) == {image_of("Context")}
    else:
        assert sources(text, {"context": "/x"}) == {"local://_context"}
    stage = "FROM scratch AS context\nCOPY own /\nFROM scratch\nCOPY --from=context /own /"
    assert sources(stage, {"context": "/x"}) == {"local://context"}


def test_nothing_takes_the_place_of_scratch() -> None:
    assert sources("FROM scratch\nCOPY f /", {"scratch": "docker-image://x"}) == {"local://context"}


def test_an_image_that_means_scratch() -> None:
    plan = build("FROM a\nCOPY --from=b f /", contexts=NamedContexts({"a": "docker-image://scratch", "b": "/x"}))
    assert names(plan) == ["[stage-0 1/1] COPY --from=b f /"]


# --- what they make -------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_place_by_copy() -> None:
    plan = build("FROM scratch\nCOPY --from=files a b /", contexts=NamedContexts({"files": "/x"}))
    assert plan.vertex is not None
    assert [vertex.meta.name for vertex in plan.vertex.inputs] == ["[context files] load from client"]
    assert [action.source for action in copies(plan)] == ["a", "b"]


def test_a_mount_of_a_folder_copies_what_it_selects() -> None:
    text = "FROM a\nRUN --mount=from=files,source=/sub,target=/mnt true"
    plan = build(text, contexts=NamedContexts({"files": "/x"}))
    part = next(vertex for vertex in vertices(plan) if isinstance(vertex.op, FileOp))
    assert part.meta.name == "[context files] load from client"
    assert [action.source for action in part.op.actions] == ["/sub"]  # type: ignore[attr-defined, union-attr]


def test_a_folder_as_a_base_is_copied_first() -> None:
    plan = build("FROM files\nRUN make", contexts=NamedContexts({"files": "/x"}))
    assert plan.vertex is not None
    base = plan.vertex.inputs[0]
    assert isinstance(base.op, FileOp)
    assert [vertex.op.identity()[1] for vertex in base.inputs] == ["local://files"]
    assert plan.config.config == ContainerConfig(env=(f"PATH={PATH}",), working_dir="/")
    assert plan.config.platform == AMD64


def test_a_stage_that_is_a_folder_has_no_config() -> None:
    contexts = NamedContexts({"files": "/x"})
    plan = build("FROM a AS files\nENV lost=1\nFROM files\nENV kept=1", contexts=contexts)
    assert plan.config.config == ContainerConfig(env=(f"PATH={PATH}", "kept=1"))
    assert isinstance(plan.vertex and plan.vertex.op, FileOp)
    target = build("FROM a AS files\nENV lost=1", contexts=contexts)
    assert target.config.config == ContainerConfig()
    assert isinstance(target.vertex and target.vertex.op, FileOp)


def test_a_stage_that_is_an_image_has_that_config_as_it_is() -> None:
    config = image(ARM64, env=("A=1",), working_dir="/w", on_build=("RUN trigger",))
    contexts = NamedContexts({"base": "docker-image://x"})
    plan = build("FROM a AS base", contexts=contexts, images={"x": config})
    assert plan.config.config == ContainerConfig(env=("A=1",), working_dir="/w")
    child = build("FROM a AS base\nFROM base\nRUN own", contexts=contexts, images={"x": config})
    assert child.config.config.env == ("A=1", f"PATH={PATH}")
    assert [op.args[-1] for op in execs(child)] == ["own"]


def test_triggers_of_an_image_that_takes_the_place_of_another_run() -> None:
    config = image(on_build=("RUN trigger",))
    plan = build("FROM a\nRUN own", contexts=NamedContexts({"a": "docker-image://x"}), images={"x": config})
    assert [op.args[-1] for op in execs(plan)] == ["trigger", "own"]


def test_work_for_a_context_is_named_after_it() -> None:
    plan = build("FROM a\nRUN own", contexts=NamedContexts({"a": "docker-image://x"}))
    assert names(plan) == ["[context a] x", "[1/2] RUN own"]


def test_images_are_asked_for_with_their_context() -> None:
    registry = Registry()
    contexts = NamedContexts({"a": "docker-image://x", "b": "oci-layout://dir:1"})
    text = "FROM a\nCOPY --from=b / /\nCOPY --from=c / /"
    convert(parse(text.encode()), Options(platform=AMD64, contexts=contexts), registry)
    asked = {(request.name, request.context.value if request.context else None) for request in registry.requests}
    assert asked == {("x", "x"), ("", "dir:1"), ("c", None)}


# --- stages as contexts ---------------------------------------------------------------------------------------------


def test_a_stage_takes_the_place_of_an_image_and_of_a_stage() -> None:
    text = "FROM a AS dev\nRUN dev\nFROM b AS prod\nRUN prod\nFROM other\nCOPY --from=prod / /"
    plan = build(text, contexts=NamedContexts({"other": "target:dev", "prod": "target:Dev"}))
    assert [op.args[-1] for op in execs(plan)] == ["dev"]


@pytest.mark.parametrize("text", ["FROM x\nFROM a AS later", "FROM a AS deve\nFROM x"])
def test_a_stage_that_is_not_there_yet(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        build(text, contexts=NamedContexts({"x": "target:dev"}))
    message = 'named context "x": target stage "dev" could not be found'
    assert caught.value.message == message + (" (did you mean deve?)" if "deve" in text else "")
    assert caught.value.location is not None
