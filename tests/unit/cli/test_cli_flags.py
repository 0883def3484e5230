import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.cli.build import REFUSED, make_parser
from stagewright.errors import UsageError


def parse(*argv: str) -> argparse.Namespace:
    return make_parser().parse(argv)


def test_flags_and_arguments_may_be_mixed() -> None:
    for argv in (("-t", "a", "-t=b", "."), (".", "-ta", "--tag=b"), ("--tag", "a", ".", "--tag", "b")):
        options = parse(*argv)
        assert options.tag == ["a", "b"]
        assert options.arguments == ["."]


def test_switches() -> None:
    assert parse("--pull", ".").pull is True
    assert parse("--pull=false", ".").pull is False
    assert parse("--no-cache=1", ".").no_cache is True
    assert parse("--push", "--push=0", ".").push is False
    assert parse(".").pull is False


def test_short_flags_may_be_joined() -> None:
    options = parse("-qDt", "app", "-f-", ".")
    assert (options.quiet, options.debug, options.tag, options.file) == (True, True, ["app"], "-")


def test_values_may_begin_with_a_dash() -> None:
    options = parse("--build-arg", "-x", "--label=--y=1", "-o", "-", ".")
    assert (options.build_arg, options.label, options.output) == (["-x"], ["--y=1"], ["-"])


def test_after_two_dashes_all_are_arguments() -> None:
    assert parse("-q", "--", "-t").arguments == ["-t"]


def test_optional_value() -> None:
    assert parse(".").host_ca is None
    assert parse("--host-ca", ".").host_ca is True
    assert parse("--host-ca=/ca.pem", ".").host_ca == "/ca.pem"


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_there_yet_is_refused_by_name(name: str) -> None:
    flag = f"-{name}" if len(name) == 1 else f"--{name}"
    for argv in ((flag, "."), (f"{flag}=x", "."), (".", flag)):
        with pytest.raises(UsageError, match=f"^the flag {flag} is not supported yet$"):
            parse(*argv)


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (("--tga", "x", "."), "unknown flag --tga", "did you mean --tag?"),
        (("--tar", "x", "."), "unknown flag --tar", "did you mean --tag?"),
        (("--no-cach", "."), "unknown flag --no-cach", "did you mean --no-cache?"),
        (("-x", "."), "unknown flag -x", "see stagewright build --help"),
        (("-qx", "."), "unknown flag -x", "see stagewright build --help"),
        (("-t",), "the flag -t needs a value", "see stagewright build --help"),
        ((), "stagewright build needs exactly 1 argument, but got 0", "see stagewright build --help"),
        ((".", ".."), "stagewright build needs exactly 1 argument, but got 2", "see stagewright build --help"),
        (("--pull=maybe", "."), "--pull: 'maybe' is neither true nor false", None),
        (("--shm-size=big", "."), "--shm-size: 'big' is not a size", "write it as 1024, 64m or 1g"),
    ],
)
def test_wrong_usage(argv: tuple[str, ...], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*argv)
    assert caught.value.message == message
    assert hint is None or caught.value.hint == hint


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "-t, --tag NAME[:TAG]" in text
    assert "--pull  " in text
    assert "--host-ca[=FILE]" in text
    assert "squash" not in text


@given(st.lists(st.text(st.sampled_from("-=tqfo.x:"), max_size=6), max_size=6))
def test_any_command_line_parses_or_is_a_usage_error(argv: list[str]) -> None:
    try:
        options = parse(*argv)
    except UsageError:
        return
    assert len(options.arguments) == 1
