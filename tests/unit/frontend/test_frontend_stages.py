"""Which stages are built, on what, under which names; and what is said of those that cannot be."""

from __future__ import annotations

import pytest
from frontend_world import AMD64, Registry, build, execs, image, names, pinned, vertices

from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError, StagewrightError
from stagewright.frontend.convert import convert
from stagewright.frontend.options import Options
from stagewright.frontend.stages import StageGraph
from stagewright.graph.ops import FileOp, SourceOp
from stagewright.image.platform import Platform

ARM64 = Platform("linux", "arm64")


def refused(text: str, **options: object) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        build(text, **options)
    return caught.value


def line(error: StagewrightError) -> int:
    assert error.location is not None
    return error.location.start


def asked(text: str, **options: object) -> list[list[str]]:
    registry = Registry()
    convert(parse(text.encode()), Options(**{"platform": AMD64, **options}), registry)  # type: ignore[arg-type]
    return registry.asked


# --- which stages ---------------------------------------------------------------------------------------------------


def test_last_stage_is_the_target() -> None:
    assert [op.args[-1] for op in execs(build("FROM a\nRUN one\nFROM b\nRUN two"))] == ["two"]


@pytest.mark.parametrize("target", ["first", "FIRST"])
def test_target_by_name_in_any_case(target: str) -> None:
    plan = build("FROM a AS First\nRUN one\nFROM b\nRUN two", target=target)
    assert [op.args[-1] for op in execs(plan)] == ["one"]


def test_empty_target_is_no_target() -> None:
    assert [op.args[-1] for op in execs(build("FROM a\nRUN one", target=""))] == ["one"]


def test_images_of_stages_that_nothing_needs_are_not_resolved() -> None:
    assert asked("FROM unused AS x\nFROM used\nRUN true") == [["used"]]


def test_all_images_are_resolved_at_once_and_each_once() -> None:
    text = (
        "FROM a AS one\nFROM b\nCOPY --from=one / /\nCOPY --from=c / /\nCOPY --from=c / /x\n"
        "RUN --mount=from=d,target=/d true"
    )
    assert [sorted(call) for call in asked(text)] == [["a", "b", "c", "d"]]


def test_shared_base_is_one_piece_of_work() -> None:
    text = (
        "FROM a AS base\nRUN setup\nFROM base AS x\nRUN x\nFROM base AS y\nRUN y\n"
        "FROM base\nCOPY --from=x / /\nCOPY --from=y / /"
    )
    assert [op.args[-1] for op in execs(build(text))].count("setup") == 1


def test_image_named_like_an_earlier_stage_is_that_stage() -> None:
    plan = build("FROM a AS node\nRUN one\nFROM node\nRUN two")
    assert [op.args[-1] for op in execs(plan)] == ["one", "two"]


def test_name_of_a_later_stage_is_an_image_in_from() -> None:
    assert asked("FROM later\nRUN true\nFROM b AS later", target=None) == [["b"]]
    assert asked("FROM later AS x\nFROM b AS later", target="x") == [["later"]]


def test_last_stage_of_a_name_counts() -> None:
    plan = build("FROM a AS x\nRUN one\nFROM b AS x\nRUN two\nFROM x\nRUN three")
    assert [op.args[-1] for op in execs(plan)] == ["two", "three"]


def test_base_name_is_compared_in_the_case_it_is_written() -> None:
    registry = Registry()
    convert(parse(b"FROM a AS Builder\nFROM Builder\nRUN true"), Options(AMD64), registry)
    assert registry.asked == [["Builder"]]
    assert registry.requests[0].hint == "did you mean the stage builder?"


@pytest.mark.parametrize("source", ["Builder", "builder", "BUILDER", "0", "00", "+0"])
def test_copy_from_stage_by_name_in_any_case_or_by_index(source: str) -> None:
    plan = build(f"FROM a AS builder\nRUN one\nFROM scratch\nCOPY --from={source} /x /")
    assert [op.args[-1] for op in execs(plan)] == ["one"]


def test_mount_from_takes_no_index() -> None:
    registry = Registry()
    convert(parse(b"FROM a\nRUN one\nFROM b\nRUN --mount=from=0,target=/m two"), Options(AMD64), registry)
    assert sorted(registry.asked[0]) == ["0", "b"]
    request = next(request for request in registry.requests if request.name == "0")
    assert request.hint == "a mount takes a stage by its name, not by its index"


def test_scratch_stage_has_no_files() -> None:
    plan = build("FROM scratch\nENV A=1")
    assert plan.vertex is None


def test_image_without_layers_has_no_vertex() -> None:
    plan = build("FROM empty\nCOPY a /", images={"empty": image(layers=0)})
    assert not [vertex for vertex in vertices(plan) if "docker-image" in getattr(vertex.op, "identifier", "")]
    assert names(plan) == ["[1/2] COPY a /"]


def test_two_names_of_one_image_are_one_vertex() -> None:
    registry = Registry()
    digest = pinned("a").rpartition("@")[2]
    plan = convert(parse(b"FROM a\nCOPY --from=a /x /"), Options(AMD64), registry)
    assert plan.vertex is not None
    sources = {vertex.op.identifier for vertex in vertices(plan) if isinstance(vertex.op, SourceOp)}
    assert sources == {f"docker-image://image@{digest}"}


# --- platforms ------------------------------------------------------------------------------------------------------


def test_platform_of_from_is_asked_for() -> None:
    registry = Registry()
    text = b"FROM --platform=linux/arm64 a AS x\nFROM b\nCOPY --from=x / /"
    convert(parse(text), Options(AMD64), registry)
    assert {request.name: request.platform for request in registry.requests} == {"a": ARM64, "b": AMD64}


def test_platform_of_from_with_variables() -> None:
    registry = Registry()
    convert(parse(b"ARG P=linux/arm64\nFROM --platform=$P a\nRUN true"), Options(AMD64), registry)
    assert registry.requests[0].platform == ARM64


def test_stage_on_a_stage_has_its_platform() -> None:
    plan = build("FROM --platform=linux/arm64 a AS x\nFROM --platform=linux/amd64 x\nRUN true")
    assert plan.vertex is not None
    assert plan.vertex.platform == "linux/arm64"


def test_scratch_has_the_target_platform() -> None:
    plan = build("FROM --platform=linux/arm64 scratch\nCOPY a /")
    assert plan.config.platform == AMD64
    assert plan.vertex is not None
    assert plan.vertex.platform == "linux/amd64"


def test_image_keeps_its_platform_where_none_was_asked_for() -> None:
    text = "FROM --platform=linux/arm64 a\nRUN true"
    assert build(text).config.platform == ARM64
    assert build(text, platform_requested=True).config.platform == AMD64


def test_image_keeps_what_a_requested_platform_leaves_open() -> None:
    base = image(Platform("linux", "amd64", "v2", "10.0"))
    plan = build("FROM a\nRUN true", images={"a": base}, platform_requested=True)
    assert plan.config.platform == Platform("linux", "amd64", "v2", "10.0")


def test_platform_is_written_in_its_normal_form() -> None:
    plan = build("FROM a\nRUN true", images={"a": image(Platform("linux", "arm64", "v8"))})
    assert plan.config.platform == ARM64


def test_empty_platform() -> None:
    error = refused("ARG PLATFORM=linux/amd64\nFROM --platform=$PLATFROM a")
    assert error.message == "empty platform value from expression $PLATFROM (did you mean PLATFORM?)"
    assert line(error) == 2


def test_malformed_platform() -> None:
    error = refused("FROM a AS x\nFROM --platform=what/is/this/now b")
    assert error.message.startswith("failed to parse platform what/is/this/now: ")
    assert line(error) == 2


# --- names of steps -------------------------------------------------------------------------------------------------


def test_steps_of_a_single_stage_have_no_stage_name() -> None:
    plan = build("FROM a\nRUN one\nCOPY x /y/\nWORKDIR /w")
    assert names(plan) == [f"[1/4] FROM {pinned('a')}", "[2/4] RUN one", "[3/4] COPY x /y/", "[4/4] WORKDIR /w"]


def test_steps_of_several_stages_carry_their_names() -> None:
    plan = build("FROM a AS Build\nRUN one\nFROM scratch\nCOPY --from=build /x /")
    assert names(plan) == [
        f"[build 1/2] FROM {pinned('a')}",
        "[build 2/2] RUN one",
        "[stage-1 1/1] COPY --from=build /x /",
    ]


def test_a_named_single_stage_has_no_stage_name() -> None:
    assert names(build("FROM a AS app\nRUN one")) == [f"[1/2] FROM {pinned('a')}", "[2/2] RUN one"]


@pytest.mark.parametrize(
    "step", ["COPY --from=other /x /", "RUN --mount=type=cache,target=/c one", "RUN --mount=type=secret,id=s one"]
)
def test_a_single_stage_with_another_source_has_a_name(step: str) -> None:
    plan = build(f"FROM a\n{step}")
    assert names(plan)[-1] == f"[stage-0 2/2] {step}"


def test_an_image_that_is_copied_from_has_no_number() -> None:
    plan = build("FROM scratch\nCOPY --from=other /x /")
    assert names(plan)[0] == f"FROM {pinned('other')}"


def test_step_numbers_are_aligned() -> None:
    plan = build("FROM a\n" + "\n".join(f"RUN {number}" for number in range(9)))
    assert names(plan)[1] == "[ 2/10] RUN 0"


def test_stage_on_a_stage_counts_only_its_own_steps() -> None:
    plan = build("FROM a AS base\nRUN one\nFROM base AS top\nRUN two")
    assert names(plan)[1:] == ["[base 2/2] RUN one", "[top 1/1] RUN two"]


def test_workdir_of_the_root_is_counted_but_no_step() -> None:
    plan = build("FROM a\nWORKDIR /\nRUN one")
    assert names(plan)[-1] == "[2/3] RUN one"


def test_keyword_is_shown_in_upper_case_and_variables_expanded() -> None:
    plan = build('FROM a\nENV V="1 2"\nrun echo $V "$V" $UNSET\ncopy $V $UNSET /x/')
    assert names(plan)[1:] == ['[2/3] RUN echo 1 2 "1 2" $UNSET', "[3/3] COPY 1 2  /x/"]


def test_text_that_is_no_word_is_shown_as_written() -> None:
    plan = build("FROM a\nRUN echo ${V@Q}")
    assert names(plan)[-1] == "[2/2] RUN echo ${V@Q}"


# --- errors ---------------------------------------------------------------------------------------------------------


def test_unknown_target() -> None:
    error = refused("FROM a AS builder\nFROM b AS runtime", target="bulder")
    assert error.message == 'target stage "bulder" could not be found (did you mean builder?)'
    assert error.hint == "the stages are: builder, runtime"


def test_unknown_target_without_named_stages() -> None:
    error = refused("FROM a", target="x")
    assert (error.message, error.hint) == ('target stage "x" could not be found', None)


def test_copy_from_itself() -> None:
    error = refused("FROM a AS x\nRUN true\nCOPY --from=x /a /b")
    assert (error.message, line(error)) == ('stage "x" cannot copy from itself', 3)


def test_copy_from_its_own_index() -> None:
    error = refused("FROM a\nFROM b\nCOPY --from=1 /a /b")
    assert (error.message, line(error)) == ('stage "stage-1" cannot copy from itself', 3)


def test_copy_from_itself_in_a_stage_that_nothing_needs() -> None:
    assert line(refused("FROM a AS x\nCOPY --from=x /a /b\nFROM b")) == 2


def test_copy_from_a_later_stage() -> None:
    error = refused("FROM a AS x\nCOPY --from=y /a /b\nFROM b AS y\nFROM x")
    assert line(error) == 2
    assert error.message == 'cannot copy from stage "y", it needs to be defined before current stage "x"'


def test_copy_from_a_later_stage_where_nothing_needs_it() -> None:
    assert build("FROM a AS x\nCOPY --from=y /a /b\nFROM b AS y\nRUN true").vertex is not None


def test_mount_from_a_later_stage() -> None:
    error = refused("FROM a AS x\nRUN --mount=from=y,target=/m true\nFROM b AS y\nFROM x")
    assert line(error) == 2
    assert error.message == 'cannot mount from stage "y", it needs to be defined before current stage "x"'


def test_index_out_of_range() -> None:
    error = refused("FROM a\nFROM b\nCOPY --from=2 /a /b")
    assert (error.message, error.hint, line(error)) == (
        "invalid stage index 2",
        "the stages have the indexes 0 to 1",
        3,
    )


def test_negative_index() -> None:
    assert refused("FROM a\nCOPY --from=-1 /a /b").message == "invalid stage index -1"


@pytest.mark.parametrize("source", ["$STAGE", "a${STAGE}"])
def test_variable_in_copy_from(source: str) -> None:
    error = refused(f"ARG STAGE=a\nFROM a\nCOPY --from={source} /a /b")
    assert error.message.startswith("variable expansion is not supported for --from")
    assert line(error) == 3


def test_near_miss_of_a_stage_name_gives_a_hint() -> None:
    registry = Registry()
    text = b"FROM a AS builder\nFROM bulder AS x\nFROM x\nCOPY --from=buildr /a /b"
    convert(parse(text), Options(AMD64), registry)
    hints = {request.name: request.hint for request in registry.requests}
    assert hints == {"bulder": "did you mean the stage builder?", "buildr": "did you mean the stage builder?"}


def test_near_miss_of_a_common_image_gives_a_hint() -> None:
    registry = Registry()
    convert(parse(b"FROM apline\nRUN true"), Options(AMD64), registry)
    assert registry.requests[0].hint == "did you mean alpine?"


def test_a_hint_is_looked_for_once_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(StageGraph, "hint", lambda self, plan: asked.append(plan.image))
    copies = "".join(f"COPY --from={number} /a /b{number}\n" for number in range(100))
    convert(parse(("FROM busybox\nRUN true\n" * 100 + "FROM scratch\n" + copies).encode()), Options(AMD64), Registry())
    assert asked == ["busybox"]


def test_requests_know_their_line() -> None:
    registry = Registry()
    convert(parse(b"FROM a AS x\nFROM b\nRUN true\nCOPY --from=c / /\n"), Options(AMD64), registry)
    assert {request.name: line_of(request) for request in registry.requests} == {"b": 2, "c": 4}


def line_of(request: object) -> int:
    location = request.location  # type: ignore[attr-defined]
    return int(location.start)


def test_blank_base_name() -> None:
    error = refused("ARG BASE\nFROM ${BASE}")
    assert (error.message, line(error)) == ("base name (${BASE}) should not be blank", 2)


def test_malformed_base_name() -> None:
    assert line(refused("FROM a\nFROM ${x")) == 2


def test_what_no_needed_stage_does_is_not_refused() -> None:
    assert build("FROM a AS x\nRUN --security=insecure true\nFROM b\nRUN true").vertex is not None


# --- caching --------------------------------------------------------------------------------------------------------


def ignored(text: str, **options: object) -> list[str]:
    found = [vertex.meta.name for vertex in vertices(build(text, **options)) if vertex.meta.ignore_cache]
    return [name.partition("] ")[2] for name in found]


def test_no_cache_runs_all_but_workdir_again() -> None:
    text = "FROM a\nWORKDIR /w\nRUN one\nCOPY x /\nADD y /"
    assert ignored(text, no_cache=True) == ["RUN one", "COPY x /", "ADD y /"]
    assert ignored(text) == []


def test_no_cache_filter_names_stages() -> None:
    text = "FROM a AS One\nRUN one\nFROM one AS two\nRUN two\nFROM two\nRUN three"
    assert ignored(text, no_cache_filter=("ONE",)) == ["RUN one"]
    assert ignored(text, no_cache_filter=("two", "nothing")) == ["RUN two"]


# --- triggers -------------------------------------------------------------------------------------------------------


def test_triggers_of_an_image_run_first() -> None:
    base = image(on_build=("RUN trigger", "ENV A=1"))
    plan = build("FROM a\nRUN own", images={"a": base})
    # All triggers count as steps, as in BuildKit.
    assert names(plan) == [f"[1/4] FROM {pinned('a')}", "[2/4] ONBUILD RUN trigger", "[3/4] RUN own"]
    assert "A=1" in plan.config.config.env
    assert plan.config.config.on_build == ()


def test_triggers_of_a_stage_run_in_the_stage_on_it_only() -> None:
    text = "FROM a AS x\nONBUILD RUN trigger\nFROM x AS y\nRUN own\nFROM y\nRUN last"
    plan = build(text)
    assert [op.args[-1] for op in execs(plan)] == ["trigger", "own", "last"]


def test_triggers_of_the_target_are_kept_in_its_config() -> None:
    plan = build("FROM a\nONBUILD COPY . /app\nONBUILD RUN make $X")
    assert plan.config.config.on_build == ("COPY . /app", "RUN make $X")


def test_trigger_may_copy_from_another_stage() -> None:
    base = image(on_build=("COPY --from=assets /a /b", "COPY --from=extra /c /d"))
    registry = Registry({"a": base})
    text = b"FROM b AS assets\nRUN assets\nFROM a\nRUN own"
    plan = convert(parse(text), Options(AMD64), registry)
    assert registry.asked == [["a"], ["extra", "b"]] or registry.asked == [["a"], ["b", "extra"]]
    assert [op.args[-1] for op in execs(plan)] == ["assets", "own"]


def test_trigger_errors_stand_at_the_from() -> None:
    base = image(on_build=("RUN one\nRUN two",))
    error = refused("FROM x AS y\nFROM a", images={"a": base})
    assert (error.message, line(error)) == ("onbuild trigger should be a single expression", 2)


def test_trigger_with_a_here_document() -> None:
    plan = build("FROM a AS x\nONBUILD COPY <<EOF /f\nhello\nEOF\nFROM x\nRUN true")
    assert any(
        isinstance(vertex.op, FileOp) and vertex.meta.name.startswith("[stage-1 1/2] ONBUILD COPY")
        for vertex in vertices(plan)
    )


def test_a_thousand_stages() -> None:
    text = "FROM a AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\nRUN {n}\n" for n in range(1000))
    assert len(execs(build(text))) == 1000
