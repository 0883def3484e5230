"""The build checks: what each finds, what it says, and how it is switched off."""

from __future__ import annotations

import pytest
from frontend_world import AMD64, Registry, image

from stagewright.dockerfile.ignore import patterns_from
from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError
from stagewright.frontend.convert import convert
from stagewright.frontend.options import Options
from stagewright.frontend.rules import Finding
from stagewright.image.config import ImageConfig


def found(text: str, images: dict[str, ImageConfig] | None = None, **options: object) -> list[Finding]:
    findings: list[Finding] = []
    convert(
        parse(text.encode()),
        Options(**{"platform": AMD64, **options}),  # type: ignore[arg-type]
        Registry(images),
        findings.append,
    )
    return findings


def messages(text: str, **options: object) -> list[str]:
    """Rule, message and line of each finding."""
    return [finding.short for finding in found(text, **options)]  # type: ignore[arg-type]


def rules(text: str, **options: object) -> list[str]:
    return [finding.rule.name for finding in found(text, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS Base\nRUN x", ["StageNameCasing: Stage name 'Base' should be lowercase (line 1)"]),
        ("FROM a as x\nRUN x", ["FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"]),
        ("from a AS x\nrun x", ["FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 1)"]),
        ("FROM a\nRUN x \\\n\n y", ["NoEmptyContinuation: Empty continuation line (line 4)"]),
        (
            "FROM a\nRUN x\nrun y",
            ["ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase)"
             " (line 3)"],
        ),
        (
            "from a\nrun x\nRUN y",
            ["ConsistentInstructionCasing: Command 'RUN' should match the case of the command majority (lowercase)"
             " (line 3)"],
        ),
        (
            "From a\nRUN x",
            ["ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase)"
             " (line 1)"],
        ),
        (
            "FROM a AS x\nFROM b AS x\nRUN y",
            ['DuplicateStageName: Duplicate stage name "x", stage names should be unique (line 2)'],
        ),
        (
            "FROM a AS scratch\nRUN y",
            ['ReservedStageName: Stage name should not use the same name as reserved stage "scratch" (line 1)'],
        ),
        (
            "FROM a\nCMD x",
            ["JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS"
             " signals (line 2)"],
        ),
        (
            "FROM a\nENTRYPOINT x",
            ["JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to"
             " OS signals (line 2)"],
        ),
        (
            "FROM a\nMAINTAINER me",
            ["MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)"],
        ),
        (
            "ARG TAGS=1\nFROM a${TAG}",
            ["UndefinedArgInFrom: FROM argument 'TAG' is not declared (did you mean TAGS?) (line 2)"],
        ),
        (
            "FROM a\nWORKDIR app/src",
            ['WorkdirRelativePath: Relative workdir "app/src" can have unexpected results if the base image changes'
             " (line 2)"],
        ),
        (
            "FROM a\nCOPY $foo /x",
            ["UndefinedVar: Usage of undefined variable '$foo' (line 2)"],
        ),
        (
            "FROM a\nENV NAME=1\nLABEL x=$NAMES",
            ["UndefinedVar: Usage of undefined variable '$NAMES' (did you mean $NAME?) (line 3)"],
        ),
        (
            "FROM a\nCMD [\"a\"]\nCMD [\"b\"]",
            ["MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because"
             " only the last one will be used (line 2)"],
        ),
        (
            "FROM a\nENV a b",
            ['LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)'],
        ),
        (
            "FROM a\nLABEL a b",
            ['LegacyKeyValueFormat: "LABEL key=value" should be used instead of legacy "LABEL key value" format'
             " (line 2)"],
        ),
        (
            "FROM --platform=$TARGETPLATFORM a\nRUN x",
            ["RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is"
             " the default behavior (line 1)"],
        ),
        (
            "FROM a\nARG API_KEY",
            ['SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "API_KEY") (line 2)'],
        ),
        (
            "FROM a\nENV secret=1",
            ['SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV "secret") (line 2)'],
        ),
        (
            "FROM --platform=linux/arm64 a\nRUN x",
            ['FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "linux/arm64"'
             " (line 1)"],
        ),
        (
            "FROM a\nEXPOSE 80/TcP",
            ["ExposeProtoCasing: Defined protocol '80/TcP' in EXPOSE instruction should be lowercase (line 2)"],
        ),
        (
            "FROM a\nARG P=UDP\nEXPOSE 9/$P 0.0.0.0:2:3/Tcp",
            [
                "ExposeProtoCasing: Defined protocol '0.0.0.0:2:3/Tcp' in EXPOSE instruction should be lowercase"
                " (line 3)",
                "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found"
                " '0.0.0.0:2:3/Tcp' (line 3)",
                "ExposeProtoCasing: Defined protocol '9/UDP' in EXPOSE instruction should be lowercase (line 3)",
            ],
        ),
        (
            "FROM a\nEXPOSE 8080:80",
            ["ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found"
             " '8080:80' (line 2)"],
        ),
        (
            "FROM a\nHEALTHCHECK CMD x\nRUN y\nHEALTHCHECK NONE",
            ["MultipleInstructionsDisallowed: Multiple HEALTHCHECK instructions should not be used in the same stage"
             " because only the last one will be used (line 2)"],
        ),
        (
            'from a\nentrypoint ["a"]\nentrypoint ["b"]\nentrypoint ["c"]',
            [
                "MultipleInstructionsDisallowed: Multiple entrypoint instructions should not be used in the same"
                f" stage because only the last one will be used (line {line})"
                for line in (2, 3)
            ],
        ),
        (
            "FROM a\nENV a b\nENV c d e",
            ['LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)',
             'LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 3)'],
        ),
        (
            "ARG A=1\nFROM a:${A}${B}\nFROM b$AA",
            ["UndefinedArgInFrom: FROM argument 'B' is not declared (did you mean A?) (line 2)",
             "UndefinedArgInFrom: FROM argument 'AA' is not declared (did you mean A?) (line 3)"],
        ),
        (
            "FROM --platform=${TARGETPLATFROM:-linux/amd64} a",
            ["UndefinedArgInFrom: FROM argument 'TARGETPLATFROM' is not declared (did you mean TARGETPLATFORM?)"
             " (line 1)"],
        ),
        (
            "FROM a AS b\nWORKDIR x\nWORKDIR y\nFROM a\nWORKDIR z",
            ['WorkdirRelativePath: Relative workdir "z" can have unexpected results if the base image changes'
             " (line 5)"],
        ),
        (
            "FROM a AS Base\nFROM b AS BASE",
            ["StageNameCasing: Stage name 'Base' should be lowercase (line 1)",
             "StageNameCasing: Stage name 'BASE' should be lowercase (line 2)",
             'DuplicateStageName: Duplicate stage name "base", stage names should be unique (line 2)'],
        ),
        (
            "FROM a AS context",
            ['ReservedStageName: Stage name should not use the same name as reserved stage "context" (line 1)'],
        ),
        (
            "FROM a \\\n\n\n  AS b\nCOPY <<E /\n\nE\nRUN \\\n\n x",
            ["NoEmptyContinuation: Empty continuation line (line 4)",
             "NoEmptyContinuation: Empty continuation line (line 10)"],
        ),
        (
            "FROM a\nARG DB_PASSWORD=x GITHUB_TOKEN\nENV $DB_PASSWORD=1 AWS_SECRET_ACCESS_KEY=2 x_apikey_y=3",
            [f'SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data ({what} "{name}")'
             f" (line {line})"
             for what, name, line in (
                 ("ARG", "DB_PASSWORD", 2), ("ARG", "GITHUB_TOKEN", 2), ("ENV", "AWS_SECRET_ACCESS_KEY", 3),
                 ("ENV", "x_apikey_y", 3))],
        ),
        (
            "FROM a\nEXPOSE 127.0.0.1:80:80",
            ["ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found"
             " '127.0.0.1:80:80' (line 2)"],
        ),
    ],
)  # fmt: skip
def test_findings(text: str, expected: list[str]) -> None:
    assert messages(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "FROM a AS x\nRUN y",
        "from a as x\nrun y",
        "FROM scratch\nCOPY a /",
        'FROM a\nSHELL ["/bin/sh", "-c"]\nCMD x',
        "FROM a\nWORKDIR /x\nWORKDIR y",
        "FROM a AS x\nWORKDIR /x\nFROM x\nWORKDIR y",
        "ARG TAG\nFROM a${TAG}",
        "FROM a${TARGETARCH}",
        "FROM a\nARG X\nCOPY $X /",
        "FROM a\nARG X=1 Y=$X\nRUN x",
        "FROM a AS x\nARG X\nFROM x\nCOPY $X /",
        "FROM a\nRUN echo $X",
        'FROM a\nCMD ["$X"]',
        "FROM a\nCOPY <<'E' /\n$X\nE",
        'FROM a AS x\nCMD ["a"]\nFROM x\nCMD ["b"]',
        "FROM a\nENV a=b c=d",
        "FROM a\nARG PUBLIC_KEY KEY_FILE TOKEN_VERSION KEYS monkey",
        "FROM --platform=$BUILDPLATFORM a\nRUN x",
        "FROM --platform=linux/arm64 a AS build-arm64\nRUN x",
        "FROM --platform=linux/arm64 a AS linux\nRUN x",
        "FROM a\nEXPOSE 80 53/udp 1-2 9/sctp 10/",
        "FROM a\nRUN x \\\n# a comment\n  y\n\nRUN z",
        'from a as x\ncmd ["y"]',
        "FROM a\nARG TARGETARCH\nCOPY x$TARGETARCH /",
        "FROM --platform=linux/$TARGETARCH a",
        "FROM a\nARG D=/d\nWORKDIR $D\nWORKDIR y",
        "FROM a\nENV AUTHOR=1 TOKENS=2 KEYBOARD=3 PASSWORD_FILE=4 PUBLIC_TOKEN=5 COMPASS_VERSION=6",
        'FROM a\nCMD ["x"]\nENTRYPOINT ["y"]\nHEALTHCHECK NONE',
        'FROM a\nLABEL a=b c=d\nLABEL e="f g"',
        "FROM a:${TARGETVARIANT}1${BUILDOS}${TARGETSTAGE}",
        "# a comment\nARG X\n# another\nFROM a AS x\nRUN y",
        "FROM a AS x\nCMD x\nFROM b\nRUN y",
    ],
)
def test_what_is_fine(text: str) -> None:
    assert messages(text) == []


def test_image_variables_and_shell_count() -> None:
    images = {"a": image(env=("X=1",), shell=("/bin/ash", "-c"))}
    assert rules("FROM a\nCOPY $X /\nCMD x", images=images) == []


def test_undefined_variables_everywhere() -> None:
    text = (
        "FROM a\nENV $E2=$E1\nLABEL l=$L\nCOPY --chown=$C2 --chmod=$C3 $C1 $C4/\nADD <<E /x\n$H\nE\nWORKDIR /$W\n"
        "USER $U\nVOLUME /$V\nSTOPSIGNAL ${S:-9}\nARG A=$B\nRUN --mount=type=cache,target=/c$M x\nONBUILD RUN $O"
    )
    names = [finding.message.split("'")[1] for finding in found(text)]
    assert names == ["$E2", "$E1", "$L", "$C2", "$C3", "$C1", "$C4", "$H", "$W", "$U", "$V", "$S", "$B", "$M"]
    with_checksum = "FROM a\nADD --checksum=sha256:" + "0" * 63 + "${SUM:-1} https://example.com/x /"
    assert [finding.message.split("'")[1] for finding in found(with_checksum)] == ["$SUM"]


def test_what_the_builder_alone_sees_is_never_undefined() -> None:
    assert messages("FROM a\nLABEL a=$BUILDKIT_SBOM_SCAN_STAGE\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true") == []


def test_each_thing_is_said_once() -> None:
    assert len(messages("FROM a\nCOPY $x $x $x/")) == 1


def test_default_of_an_arg_that_makes_no_image() -> None:
    expected = "InvalidDefaultArgInFrom: Default value for ARG a:${TAG} results in empty or invalid base image name"
    assert messages("ARG TAG\nFROM a:${TAG}", build_args={"TAG": "1"}) == [f"{expected} (line 2)"]
    assert messages("ARG TAG=2\nFROM a:${TAG}", build_args={"TAG": "1"}) == []


def test_malformed_default_that_a_build_argument_replaces() -> None:
    assert messages("ARG X=${y\nFROM a", build_args={"X": "1"}) == []
    # Nothing is said of any default then.
    assert messages("ARG X=${y\nARG TAG\nFROM a:$TAG", build_args={"X": "1", "TAG": "2"}) == []
    assert messages("ARG A\nARG TAG\nFROM ${A:?}\nFROM a:$TAG", build_args={"A": "a", "TAG": "2"}) == []


@pytest.mark.parametrize(
    ("base", "expected"),
    [("Base", True), ("a" * 64, True), ("a/B", True), ("a:", True), ("$V", True), ("a", False), ("x.io:5/a:B", False)],
)
def test_bases_that_are_no_names(base: str, expected: bool) -> None:
    """A stage's name in capitals is no name of an image either, and BuildKit says so."""
    text = f"ARG V\nFROM a AS base\nFROM {base}"
    seen: list[Finding] = []
    try:
        convert(parse(text.encode()), Options(AMD64), Registry(), seen.append)
    except DockerfileError:
        assert base == "$V"
    assert ("InvalidDefaultArgInFrom" in [finding.rule.name for finding in seen]) is expected


# --- files that the ignore file hides -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("COPY x/secret.pem /", 'Attempting to Copy file "x/secret.pem" that is excluded by .dockerignore'),
        ("ADD ./x//secret.pem /", 'Attempting to Add file "x/secret.pem" that is excluded by .dockerignore'),
        ("COPY dir/below /", 'Attempting to Copy file "dir/below" that is excluded by .dockerignore'),
        ("COPY . /", None),
        ("COPY --from=b dir /", None),
        ("COPY *.pem /", None),
        ("COPY other /", None),
    ],
)
def test_copy_of_hidden_files(line: str, expected: str | None) -> None:
    findings = found(f"FROM a\n{line}", ignore_patterns=patterns_from(["x/*.pem", "dir"]))
    assert [finding.message for finding in findings] == ([expected] if expected else [])


def test_copy_of_a_context_that_is_hidden_as_a_whole() -> None:
    assert rules("FROM a\nCOPY . /", ignore_patterns=patterns_from(["*"])) == ["CopyIgnoredFile"]
    remote = "ADD https://example.com/x https://example.com/r.git git@example.com:r /"
    assert rules(f"FROM a\n{remote}", ignore_patterns=patterns_from(["*"])) == []
    assert rules("FROM a\nCOPY . /", ignore_patterns=patterns_from(["*.x"])) == []


def test_exceptions_make_it_unclear() -> None:
    assert rules("FROM a\nCOPY dir /", ignore_patterns=patterns_from(["dir", "!dir/x"])) == []


# --- descriptions, which have to be asked for -----------------------------------------------------------------------

DESCRIBED = "# check=experimental=InvalidDefinitionDescription\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# base is this\nFROM a AS base", []),
        ("# this is it\nFROM a AS base", ["FROM should follow the format: `# base <description>`"]),
        ("# what\nARG X\nFROM a", ["ARG should follow the format: `# X <description>`"]),
        ("FROM a\n# what\nARG X Y", ["ARG should follow the format: `# <arg_key> <description>`"]),
        ("FROM a\n# Y is what\nARG X Y", []),
        ("# what\nFROM a", []),
        ("# what\n\nFROM a AS x", ["FROM should follow the format: `# x <description>`"]),
    ],
)
def test_descriptions(text: str, expected: list[str]) -> None:
    assert [finding.message for finding in found(DESCRIBED + text)] == [f"Comment for {text}" for text in expected]
    assert messages(text) == []


# --- switches -------------------------------------------------------------------------------------------------------

BAD = "FROM a as X\nMAINTAINER me"


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("", ["StageNameCasing", "FromAsCasing", "MaintainerDeprecated"]),
        ("# check=skip=FromAsCasing,StageNameCasing\n", ["MaintainerDeprecated"]),
        ("# check=skip=all\n", []),
        ("# check=skip=Other;experimental=all\n", ["StageNameCasing", "FromAsCasing", "MaintainerDeprecated"]),
    ],
)
def test_skipping(directive: str, expected: list[str]) -> None:
    assert rules(directive + BAD) == expected


def test_skipping_before_one_instruction() -> None:
    text = "FROM a\n# check=skip=SecretsUsedInArgOrEnv\nARG API_KEY\nARG AUTH"
    assert [(finding.rule.name, finding.location.start) for finding in found(text)] == [("SecretsUsedInArgOrEnv", 4)]
    assert rules("# hello\n\n# check=skip=StageNameCasing,FromAsCasing\nFROM a as X\nRUN y") == []


@pytest.mark.parametrize(
    ("comments", "expected"),
    [
        ("# check=skip=StageNameCasing // it is what they call it", ["FromAsCasing"]),
        ("#Check = skip=all", []),
        ("# X what it is\n# check=skip=all", []),
        ("# check=skip=all\n\n# X what it is", []),
        ("# check=skip=StageNameCasing\n# check=skip=FromAsCasing", ["FromAsCasing"]),
        ("# check=skip=StageNameCasing,Other;error=true", ["FromAsCasing"]),
        ("# check=skip", ["StageNameCasing", "FromAsCasing"]),
        ("# check skip=all", ["StageNameCasing", "FromAsCasing"]),
        ("# check=skip=all\n#", ["StageNameCasing", "FromAsCasing"]),
    ],
)
def test_forms_of_skipping_before_one_instruction(comments: str, expected: list[str]) -> None:
    assert rules(f"# x\n{comments}\nFROM a as X\nRUN y") == expected


def test_asking_for_a_description_of_one_instruction() -> None:
    text = "FROM a\n# check=experimental=all\n# what\nARG X\n# what\nARG Y"
    assert [(finding.rule.name, finding.location.start) for finding in found(text)] == [
        ("InvalidDefinitionDescription", 4)
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("skip=MaintainerDeprecated", ["StageNameCasing", "FromAsCasing"]),
        ("skip=StageNameCasing, FromAsCasing", ["MaintainerDeprecated"]),
        ("", ["StageNameCasing", "FromAsCasing", "MaintainerDeprecated"]),
    ],
)
def test_build_argument_replaces_the_directive(value: str, expected: list[str]) -> None:
    assert rules("# check=skip=all\n" + BAD, build_args={"BUILDKIT_DOCKERFILE_CHECK": value}) == expected


def test_a_build_argument_that_means_nothing() -> None:
    with pytest.raises(DockerfileError) as caught:
        rules(BAD, build_args={"BUILDKIT_DOCKERFILE_CHECK": "all"})
    assert caught.value.message == 'failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: invalid check option "all"'


def test_findings_as_errors() -> None:
    seen: list[Finding] = []
    with pytest.raises(DockerfileError) as caught:
        convert(parse(f"# check=error=true\n{BAD}".encode()), Options(AMD64), Registry(), seen.append)
    assert caught.value.message == (
        "lint violation found for rules: FromAsCasing, MaintainerDeprecated, StageNameCasing"
    )
    assert len(seen) == 3


def test_no_error_without_findings() -> None:
    assert messages("# check=error=true\nFROM a\nRUN x") == []
    assert messages(f"# check=error=true;skip=all\n{BAD}") == []


def test_stages_that_nothing_needs_are_looked_at_from_outside_only() -> None:
    assert rules("FROM a AS X\nCMD x\nMAINTAINER me\nFROM b\nRUN y") == ["StageNameCasing", "MaintainerDeprecated"]


def test_triggers_are_looked_at() -> None:
    findings = found("FROM x AS y\nFROM a\nRUN z", images={"a": image(on_build=("ENV password=1",))})
    assert [(finding.rule.name, finding.location.start) for finding in findings] == [("SecretsUsedInArgOrEnv", 2)]


def test_explanations_and_links() -> None:
    (finding,) = found("FROM a AS X\nRUN y")
    assert finding.rule.description == "Stage names should be lowercase"
    assert finding.rule.url == "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/"
    (finding,) = found("FROM a\nCMD x")
    assert finding.rule.url == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
