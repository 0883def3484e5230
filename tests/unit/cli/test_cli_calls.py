"""`--call` and `--check`: what is asked, and the answers in buildx's forms."""

from __future__ import annotations

import base64
import json
import pathlib

import pytest
from fake_library import FakeLibrary

from stagewright.cli.calls import Call, answer_check, answer_outline, answer_targets, parse_call
from stagewright.cli.main import main
from stagewright.errors import DockerfileError, SourceRange, SourceText, UsageError
from stagewright.reports import CheckReport, CheckWarning, Outline, OutlineArg, OutlineMount, Target, TargetList

SOURCE = SourceText("Dockerfile", "FROM a\nRUN b\nCMD c\nRUN d\n")
ENCODED = base64.b64encode(SOURCE.text.encode()).decode()
LINK = "https://docs.docker.com/go/dockerfile/rule/some-rule/"


def at(start: int, end: int | None = None) -> SourceRange:
    return SourceRange(SOURCE, start, end or start)


def lines(start: int, end: int | None = None) -> dict[str, object]:
    return {"ranges": [{"start": {"line": start}, "end": {"line": end or start}}]}


def warning(line: int = 3, rule: str = "SomeRule") -> CheckWarning:
    return CheckWarning(rule, "An explanation", LINK, f"detail of {rule}", at(line))


# --- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("build", Call("build")),
        ("check", Call("check")),
        ("lint", Call("check")),
        ("outline,format=json", Call("outline", as_json=True)),
        ("format=json,targets", Call("targets", as_json=True)),
        ("check,format=text,ignorestatus=true", Call("check", ignore_status=True)),
        ("check,ignorestatus=0", Call("check")),
    ],
)
def test_forms_of_a_call(text: str, call: Call) -> None:
    assert parse_call(text) == call


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown method ''"),
        ("describe", "unknown method 'describe'"),
        ("check,outline", "'check,outline' names two methods"),
        ("check,colour=red", "unknown key 'colour' in 'check,colour=red'"),
        ("check,ignorestatus=maybe", "'maybe' is neither true nor false"),
    ],
)
def test_calls_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_call(text)
    assert caught.value.message == message


def test_what_the_library_is_asked(library: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    library.answers["call"] = TargetList(SOURCE, ())
    flags = ("--call=targets", "--target", "t", "--build-arg", "A=1", "--build-context", "b=c", "-f", "F", "-t", "x")
    assert main(["build", *flags, "ctx"]) == 0
    request = library.request
    names = ("method", "context", "file", "target", "build_args", "build_contexts")
    assert {name: request[name] for name in names} == {
        "method": "targets",
        "context": "ctx",
        "file": "F",
        "target": "t",
        "build_args": {"A": "1"},
        "build_contexts": {"b": "c"},
    }
    assert "tags" not in request
    assert capsys.readouterr().out == "TARGET DESCRIPTION\n"


@pytest.mark.parametrize("flags", [["--call=build"], ["--check=false"], ["--call=build,format=json"], []])
def test_a_build_is_asked_for(library: FakeLibrary, flags: list[str]) -> None:
    assert main(["build", *flags, "."]) == 0
    assert library.calls[-1][0] == "build"


@pytest.mark.parametrize(
    ("flags", "status"),
    [(["--check"], 1), (["--call=check"], 1), (["--call=check,ignorestatus=true"], 0), (["--check=true"], 1)],
)
def test_the_status_of_a_check(library: FakeLibrary, flags: list[str], status: int) -> None:
    library.answers["call"] = CheckReport(SOURCE, (warning(),))
    assert main(["build", *flags, "."]) == status
    library.answers["call"] = CheckReport(SOURCE, ())
    assert main(["build", *flags, "."]) == 0
    library.answers["call"] = CheckReport(SOURCE, (), DockerfileError("wrong"))
    assert main(["build", *flags, "."]) == 1


def test_an_error_of_the_dockerfile_goes_to_standard_error(
    library: FakeLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    library.answers["call"] = CheckReport(SOURCE, (), DockerfileError("wrong", location=at(1), hint="do it right"))
    main(["build", "--check", "/x/y"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ERROR: wrong\n/x/y/Dockerfile:1\n--------------------\n   1 | >>> FROM a\n")
    assert captured.err.endswith("--------------------\nhint: do it right\n")


@pytest.mark.parametrize(
    ("flags", "shown"), [(["."], "Dockerfile:3"), (["-f", "a/b", "."], "a/b:3"), (["x/"], "x/Dockerfile:3")]
)
def test_the_dockerfile_is_called_by_its_path(
    library: FakeLibrary, capsys: pytest.CaptureFixture[str], flags: list[str], shown: str
) -> None:
    library.answers["call"] = CheckReport(SOURCE, (warning(),))
    main(["build", "--check", *flags])
    assert f"\n{shown}\n" in capsys.readouterr().out


def test_json_and_the_metadata_file(
    library: FakeLibrary, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    library.answers["call"] = CheckReport(SOURCE, (warning(),))
    file = tmp_path / "metadata"
    assert main(["build", "--call=check,format=json", "--metadata-file", str(file), "."]) == 1
    metadata = json.loads(file.read_text())
    assert metadata["result.json"] == json.loads(capsys.readouterr().out)
    assert metadata["result.statuscode"] == "1"
    assert metadata["result.txt"].startswith("Check complete, 1 warning has been found!\n")


# --- answers --------------------------------------------------------------------------------------------------------


def test_a_check_without_findings() -> None:
    answer = answer_check(CheckReport(SOURCE, ()), "Dockerfile")
    assert (answer.text, answer.status) == ("Check complete, no warnings found.\n", 0)
    source = {"filename": "Dockerfile", "data": ENCODED, "language": "Dockerfile"}
    assert answer.data == {"warnings": None, "sources": [source]}


def test_findings_stand_in_the_order_of_their_lines() -> None:
    answer = answer_check(CheckReport(SOURCE, (warning(4, "Last"), warning(1, "First"))), "Dockerfile")
    assert answer.text == (
        "Check complete, 2 warnings have been found!\n"
        f"\nWARNING: First - {LINK}\ndetail of First\nDockerfile:1\n"
        "--------------------\n"
        "   1 | >>> FROM a\n   2 |     RUN b\n   3 |     CMD c\n"
        "--------------------\n"
        f"\nWARNING: Last - {LINK}\ndetail of Last\nDockerfile:4\n"
        "--------------------\n"
        "   2 |     RUN b\n   3 |     CMD c\n   4 | >>> RUN d\n   5 |     \n"
        "--------------------\n"
    )
    assert [item["ruleName"] for item in answer.data["warnings"]] == ["Last", "First"]
    assert answer.data["warnings"][1] == {
        "ruleName": "First",
        "description": "An explanation",
        "url": LINK,
        "detail": "detail of First",
        "location": lines(1),
    }


def test_lines_of_a_longer_place_have_fewer_around_them() -> None:
    finding = CheckWarning("R", "", "", "d", at(2, 3))
    text = answer_check(CheckReport(SOURCE, (finding,)), "Dockerfile").text
    assert "\nWARNING: R\nd\nDockerfile:2\n" in text
    assert "   1 |     FROM a\n   2 | >>> RUN b\n   3 | >>> CMD c\n   4 |     RUN d\n----" in text


def test_control_characters_reach_no_terminal() -> None:
    source = SourceText("Dockerfile", "FROM a\x1b[2J\n")
    finding = CheckWarning("R", "", "", "d\x1b]0;x\x07", SourceRange(source, 1, 1))
    answer = answer_check(CheckReport(source, (finding,), DockerfileError("e\x1b[2J")), "\x1b[2JDockerfile")
    assert "\x1b" not in answer.text + answer.complaint


def test_an_error_of_the_dockerfile() -> None:
    answer = answer_check(CheckReport(SOURCE, (warning(),), DockerfileError("wrong", location=at(2))), "x/Dockerfile")
    assert answer.text.endswith("--------------------\n\n")
    assert answer.complaint.startswith("ERROR: wrong\nx/Dockerfile:2\n")
    assert answer.data["buildError"] == {"message": "wrong", "location": lines(2)}
    assert answer.status == 1


def test_an_error_without_a_place() -> None:
    answer = answer_check(CheckReport(SOURCE, (), DockerfileError("lint violation found for rules: R")), "Dockerfile")
    assert answer.complaint == "ERROR: lint violation found for rules: R\n"
    assert answer.text == ""
    assert answer.data["buildError"] == {"message": "lint violation found for rules: R", "location": {}}


def test_an_outline() -> None:
    outline = Outline(
        SOURCE,
        "app",
        "the application",
        (OutlineArg("A", "what it is", "1", at(1)), OutlineArg("LONGER", "", "", at(2))),
        (OutlineMount("token", True, at(2)), OutlineMount("other", False, at(4))),
        (OutlineMount("default", False, at(2)),),
    )
    answer = answer_outline(outline)
    assert answer.text == (
        "TARGET:      app\nDESCRIPTION: the application\n\n"
        "BUILD ARG   VALUE   DESCRIPTION\nA           1       what it is\nLONGER              \n\n"
        "SECRET   REQUIRED\ntoken    true\nother    \n\n"
        "SSH       REQUIRED\ndefault   \n\n"
    )
    assert answer.data == {
        "name": "app",
        "description": "the application",
        "args": [
            {"name": "A", "description": "what it is", "value": "1", "location": lines(1)},
            {"name": "LONGER", "location": lines(2)},
        ],
        "secrets": [
            {"name": "token", "required": True, "location": lines(2)},
            {"name": "other", "location": lines(4)},
        ],
        "ssh": [{"name": "default", "location": lines(2)}],
        "sources": [ENCODED],
    }
    assert answer.status == 0


def test_an_outline_of_nothing() -> None:
    answer = answer_outline(Outline(SOURCE, "", "", (), (), ()))
    assert (answer.text, answer.data) == ("", {"sources": [ENCODED]})


def test_targets() -> None:
    report = TargetList(
        SOURCE,
        (
            Target("base", False, "what it is", "a", "linux/amd64", at(1)),
            Target("", False, "", "b", "", at(2)),
            Target("app", True, "", "base", "", at(3)),
        ),
    )
    answer = answer_targets(report)
    assert answer.text == "TARGET        DESCRIPTION\nbase          what it is\n              \napp (default) \n"
    assert answer.data == {
        "targets": [
            {
                "name": "base",
                "description": "what it is",
                "base": "a",
                "platform": "linux/amd64",
                "location": lines(1),
            },
            {"base": "b", "location": lines(2)},
            {"name": "app", "default": True, "base": "base", "location": lines(3)},
        ],
        "sources": [ENCODED],
    }


def test_a_default_target_without_a_name() -> None:
    answer = answer_targets(TargetList(SOURCE, (Target("", True, "", "a", "", at(1)),)))
    assert answer.text == "TARGET    DESCRIPTION\n(default) \n"
