"""What a Dockerfile says of itself: the checks of all stages, the outline of a target, the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from frontend_world import AMD64, Registry, image

from stagewright.dockerfile.instructions import parse
from stagewright.errors import CanceledError, DockerfileError, NotFoundError, StagewrightError
from stagewright.frontend import calls
from stagewright.frontend.contexts import NamedContexts
from stagewright.frontend.options import BaseImage, ImageRequest, Options
from stagewright.image.config import ImageConfig
from stagewright.image.platform import Platform
from stagewright.reports import CheckReport, Outline, Target


def check(text: str, images: Mapping[str, ImageConfig] | None = None, **options: object) -> CheckReport:
    given = Options(**{"platform": AMD64, **options})  # type: ignore[arg-type]
    return calls.check(text.encode(), "Dockerfile", given, Registry(images))


def found(text: str, **options: object) -> list[tuple[str, int]]:
    report = check(text, **options)  # type: ignore[arg-type]
    assert report.error is None
    return [(warning.rule, warning.location.start) for warning in report.warnings]


def outline(text: str, **options: object) -> Outline:
    given = Options(**{"platform": AMD64, **options})  # type: ignore[arg-type]
    return calls.outline(parse(text.encode()), given, Registry())


def args(text: str, **options: object) -> list[tuple[str, str, int]]:
    return [(arg.name, arg.value, arg.location.start) for arg in outline(text, **options).args]


# --- checks ---------------------------------------------------------------------------------------------------------

TWO_STAGES = "FROM a AS unused\nCMD one\nFROM b AS last\nCMD two"


def test_all_stages_are_checked_where_none_is_named() -> None:
    assert found(TWO_STAGES) == [("JSONArgsRecommended", 2), ("JSONArgsRecommended", 4)]


def test_a_target_limits_what_is_checked() -> None:
    assert found(TWO_STAGES, target="last") == [("JSONArgsRecommended", 4)]
    assert found(TWO_STAGES, target="unused") == [("JSONArgsRecommended", 2)]


def test_an_error_of_the_language_is_part_of_the_report() -> None:
    report = check("FROM a\nRUN x\nNONSENSE y")
    assert isinstance(report.error, DockerfileError)
    assert report.error.location is not None
    assert (report.warnings, report.error.location.start) == ((), 3)


def test_lines_before_an_error_of_the_language_are_checked() -> None:
    text = "FROM a AS Base\nMAINTAINER me\nCMD x\nNONSENSE y\nMAINTAINER me\nRUN \\\n\n x"
    report = check(text)
    assert report.error is not None and "unknown instruction: NONSENSE" in report.error.message
    assert [(warning.rule, warning.location.start) for warning in report.warnings] == [
        ("NoEmptyContinuation", 8),
        ("StageNameCasing", 1),
        ("MaintainerDeprecated", 2),
    ]
    assert [warning.rule for warning in check(f"# check=skip=StageNameCasing\n{text}").warnings] == [
        "NoEmptyContinuation",
        "MaintainerDeprecated",
    ]
    # What cannot even be taken apart is not checked.
    assert check("FROM a AS Base\nCOPY <<E /x").warnings == ()


def test_ports_before_one_that_is_none() -> None:
    report = check("FROM a\nEXPOSE x/yz 80/TCP")
    assert [warning.rule for warning in report.warnings] == ["ExposeProtoCasing"]
    assert report.error is not None and "invalid proto: yz" in report.error.message


def test_findings_before_an_error_are_kept() -> None:
    report = check("FROM a as x\nCOPY --from=y /b /c\nFROM z as y")
    assert [warning.rule for warning in report.warnings] == ["FromAsCasing", "FromAsCasing"]
    assert report.error is not None
    assert "it needs to be defined before" in report.error.message


def test_findings_that_are_errors() -> None:
    report = check("# check=error=true\nFROM a as x")
    assert report.error is not None
    assert report.error.message == "lint violation found for rules: FromAsCasing"


def test_what_is_asked_of_the_checks_by_a_build_argument() -> None:
    skipped = {"BUILDKIT_DOCKERFILE_CHECK": "skip=JSONArgsRecommended"}
    assert found(TWO_STAGES, build_args=skipped) == []


def test_an_image_that_is_missing_is_part_of_the_report_and_a_canceled_check_is_none() -> None:
    def missing(error: StagewrightError) -> CheckReport:
        def resolve(requests: Sequence[ImageRequest]) -> list[BaseImage]:
            raise error

        return calls.check(b"FROM a", "Dockerfile", Options(AMD64), resolve)

    error = NotFoundError("a: not found")
    assert missing(error).error is error
    with pytest.raises(CanceledError):
        missing(CanceledError())


def test_an_image_of_another_platform() -> None:
    images = {"arm": image(Platform("linux", "arm64", "v8")), "empty": image(Platform("linux", "arm64"), layers=0)}
    report = check("FROM arm\nCOPY --from=empty / /", images)
    assert [(warning.rule, warning.location.start, warning.detail, warning.url) for warning in report.warnings] == [
        (
            "InvalidBaseImagePlatform",
            1,
            'Base image arm was pulled with platform "linux/arm64", expected "linux/amd64" for current build',
            "",
        )
    ]
    assert check("FROM --platform=linux/arm64 arm AS arm64", images).warnings == ()
    named = NamedContexts({"a": "docker-image://arm"})
    assert check("FROM a", images, contexts=named).warnings == ()


# --- outlines -------------------------------------------------------------------------------------------------------


def test_arguments_that_a_target_takes() -> None:
    text = "ARG TAG=1\nARG UNUSED=2\nFROM a:$TAG AS base\nARG OWN=3\nFROM b AS other\nARG OTHER\nFROM base\nARG LAST"
    assert args(text) == [("TAG", "1", 1), ("OWN", "3", 4), ("LAST", "", 8)]
    assert args(text, target="other") == [("OTHER", "", 6)]


def test_arguments_of_stages_that_are_copied_from_or_mounted() -> None:
    text = (
        "FROM a AS one\nARG ONE\nFROM a AS two\nARG TWO\nFROM a AS three\nARG THREE\nFROM b\n"
        "COPY --from=one / /\nRUN --mount=from=two,target=/x true"
    )
    assert args(text) == [("ONE", "", 2), ("TWO", "", 4)]


def test_arguments_that_defaults_refer_to() -> None:
    text = "ARG A=1\nARG B=$A\nARG C=${B:-x}\nFROM a\nARG C"
    assert args(text) == [("A", "1", 1), ("B", "1", 2), ("C", "1", 3)]
    assert args(text, build_args={"C": "given"}) == [("C", "given", 5)]


def test_arguments_have_the_values_and_descriptions_of_where_they_are_declared() -> None:
    text = "# V the version\nARG V=1\nFROM a\n# V something else\nARG V=2"
    assert [(arg.value, arg.description) for arg in outline(text).args] == [("2", "something else")]
    inherited = "# V the version\nARG V=1\nFROM a\nARG V"
    assert [(arg.value, arg.description) for arg in outline(inherited).args] == [("1", "the version")]
    assert args(inherited, build_args={"V": "3"}) == [("V", "3", 4)]


def test_platform_arguments_are_no_arguments_of_a_target() -> None:
    assert args("FROM a\nARG TARGETPLATFORM\nARG OWN") == [("OWN", "", 3)]


def test_secrets_and_agents_that_a_target_takes() -> None:
    text = (
        "FROM a AS base\nRUN --mount=type=secret,id=one,required true\n"
        "FROM a AS unused\nRUN --mount=type=secret,id=unused true\n"
        "FROM base\nRUN --mount=type=ssh --mount=type=secret,id=two true\nRUN --mount=type=secret,id=one true"
    )
    result = outline(text)
    assert [(mount.name, mount.required, mount.location.start) for mount in result.secrets] == [
        ("two", False, 6),
        ("one", False, 7),
    ]
    assert [(mount.name, mount.required, mount.location.start) for mount in result.ssh] == [("default", False, 6)]


def test_the_target_of_an_outline() -> None:
    text = "# app the application\nFROM a AS App\nFROM b"
    assert (outline(text, target="app").name, outline(text, target="app").description) == ("app", "the application")
    assert (outline(text).name, outline(text).description) == ("", "")


# --- targets --------------------------------------------------------------------------------------------------------


def test_targets_are_as_they_are_written() -> None:
    dockerfile = parse(b"ARG X=1\n# dev what it is\nFROM --platform=$BUILDPLATFORM a:$X AS Dev\nFROM dev")
    report = calls.targets(dockerfile)
    assert report.targets == (
        Target("dev", False, "what it is", "a:$X", "$BUILDPLATFORM", dockerfile.stages[0].location),
        Target("", True, "", "dev", "", dockerfile.stages[1].location),
    )
