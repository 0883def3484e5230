"""The Dockerfile language row by row: lines, directives, stages, commands and names with values."""

from __future__ import annotations

import pytest
from dockerfile_reading import failure, only

from stagewright.dockerfile import ast
from stagewright.dockerfile.arguments import KeyValue
from stagewright.dockerfile.instructions import parse
from stagewright.dockerfile.mounts import RunDevice

# --- FROM and stages


@pytest.mark.parametrize(
    ("line", "base", "name", "platform"),
    [
        ("FROM a", "a", "", ""),
        ("from a", "a", "", ""),
        ("  FROM   a  ", "a", "", ""),
        ("FROM\ta", "a", "", ""),
        ("FROM a AS b", "a", "b", ""),
        ("FROM a as B.c-d_1", "a", "b.c-d_1", ""),
        ("FROM a:$V@sha256:x aS b", "a:$V@sha256:x", "b", ""),
        ("FROM --platform=linux/amd64 a", "a", "", "linux/amd64"),
        ('FROM --platform="$P" a AS b', "a", "b", "$P"),
        ("FROM --platform=x -- a", "a", "", "x"),
        ("FROM \\\n  a \\\n AS b", "a", "b", ""),
    ],
)
def test_from(line: str, base: str, name: str, platform: str) -> None:
    (stage,) = parse(line.encode()).stages
    assert (stage.base_name, stage.name, stage.platform) == (base, name, platform)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the Dockerfile cannot be empty"),
        ("\n\n", "file with no instructions"),
        ("# only a comment", "file with no instructions"),
        ("ARG a", "dockerfile contains no stages to build"),
        ("RUN a\nFROM b", "no build stage in current context"),
        ("FROM", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a b", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a AT b", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a AS b c", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        (
            "FROM a AS 1b",
            'dockerfile parse error on line 1: invalid name for build stage: "1b", '
            "name can't start with a number or contain symbols",
        ),
        (
            "FROM a AS b/c",
            'dockerfile parse error on line 1: invalid name for build stage: "b/c", '
            "name can't start with a number or contain symbols",
        ),
        ("FROM --platfrom=x a", "dockerfile parse error on line 1: unknown flag: --platfrom (did you mean platform?)"),
        ("FROM --platform a", "dockerfile parse error on line 1: missing a value on flag: --platform"),
        ("\n\nFORM a", "dockerfile parse error on line 3: unknown instruction: FORM (did you mean FROM?)"),
        ("form a", "dockerfile parse error on line 1: unknown instruction: form (did you mean from?)"),
        ("Form a", "dockerfile parse error on line 1: unknown instruction: Form (did you mean from?)"),
        ("FROM a\nXYZZY b", "dockerfile parse error on line 2: unknown instruction: XYZZY"),
        ("\\", "dockerfile parse error on line 1: unknown instruction: "),
    ],
)
def test_file_and_stage_errors(text: str, message: str) -> None:
    assert failure(text).message == message


def test_stages_own_what_follows_them_and_args_before_them_stand_alone() -> None:
    file = parse(b"ARG V=1\nARG W\nFROM a AS One\nRUN x\nFROM One AS two\nFROM b\nUSER u\nRUN y\n")
    assert [definition.name for arg in file.meta_args for definition in arg.definitions] == ["V", "W"]
    assert [(stage.base_name, len(stage.instructions)) for stage in file.stages] == [("a", 1), ("One", 0), ("b", 2)]
    assert (file.stages[0].name_as_written, file.stages[0].as_keyword) == ("One", "AS")
    assert [stage.location.start for stage in file.stages] == [3, 5, 6]


def test_descriptions_are_comments_that_begin_with_the_name() -> None:
    file = parse(
        b"# syntax=x\n# V the version\n# other\nARG V=1 W\n\n# base the base\nFROM a AS base\n#\nFROM b AS c\n"
    )
    assert [d.description for d in file.meta_args[0].definitions] == ["the version", ""]
    assert file.meta_args[0].comments == ("V the version", "other")
    assert [stage.description for stage in file.stages] == ["the base", ""]


# --- lines


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("RUN a b", "a b"),
        ("RUN   a   b  ", "a   b"),
        ("run a", "a"),
        ("RuN a", "a"),
        ("RUN a \\\n  b", "a   b"),
        ("RUN a\\\nb", "ab"),
        ("RUN a \\  \t\n b", "a  b"),
        ("RUN a \\\n# comment\n b", "a  b"),
        ("RUN a \\\n   # comment \\\n b", "a  b"),
        ("RUN a \\\n\n\n b", "a  b"),
        ("RUN a \\", "a"),
        ("RUN a \\\\", "a \\\\"),
        ("RUN a \\\\\n", "a \\\\"),
        ("\\\nRUN a", "a"),
        ("RUN a # b", "a # b"),
        ("RUN echo '# x'", "echo '# x'"),
        ("RUN \\\n a", "a"),
        ("RUN a\r\n", "a"),
        ("RUN a \\\r\n b\r\n", "a  b"),
        ("RUN --network=none a --flag", "a --flag"),
        ("RUN -- --network=none a", "--network=none a"),
        ("RUN a --network=none", "a --network=none"),
        ("RUN -x a", "-x a"),
        ("RUN \u3000a", "a"),
    ],
)
def test_joined_lines(text: str, command: str) -> None:
    run = only(text)
    assert isinstance(run, ast.Run)
    assert run.command == (command,)
    assert run.shell_form


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    file = parse(b"\xef\xbb\xbf# escape=`\nFROM a\nRUN a `\n b")
    assert file.directives.escape == "`"
    assert file.source.text.startswith("# escape")


def test_locations_span_all_lines_of_an_instruction() -> None:
    file = parse(b"FROM a\n\nRUN a \\\n\n # c\n b\nCOPY <<E /x\nbody\nE\nUSER u")
    spans = [(i.location.start, i.location.end) for i in file.stages[0].instructions]
    assert spans == [(3, 6), (7, 9), (10, 10)]
    assert [place.start for place in file.blank_continuations] == [6]


def test_original_text_is_kept_for_history() -> None:
    run = only("  rUN   a \\\n   b  ")
    assert run.original == "rUN   a    b"
    assert run.keyword == "rUN"


def test_bytes_that_are_not_utf8_survive() -> None:
    (stage,) = parse(b"# \xff\nFROM a\nENV A=\xe9\nRUN \xff\n").stages
    env, run = stage.instructions
    assert isinstance(env, ast.Env) and isinstance(run, ast.Run)
    assert env.pairs[0].value.encode("utf-8", "surrogateescape") == b"\xe9"
    assert run.command[0].encode("utf-8", "surrogateescape") == b"\xff"


def test_messages_can_always_be_printed() -> None:
    error = failure(b"FROM a\n\xff\xfe b")
    error.render().encode()
    error = failure(b"FROM a\nENV A=b \xff")
    error.render().encode()


def test_lines_have_a_longest_length() -> None:
    assert only("RUN " + "a" * 65531)
    error = failure("FROM a\nRUN " + "a" * 65532)
    assert error.message == "dockerfile line greater than max allowed size of 65535"
    assert error.location is not None and error.location.start == 2
    assert failure("FROM a\n# " + "\u00e9" * 32767).message.startswith("dockerfile line greater")


# --- directives


@pytest.mark.parametrize(
    ("text", "syntax", "escape"),
    [
        ("FROM a", None, "\\"),
        ("# syntax=docker/dockerfile:1", "docker/dockerfile:1", "\\"),
        ("#syntax=x", "x", "\\"),
        ("# SyNtAx = x y ", "x y", "\\"),
        ("# syntax=x\n# escape=`", "x", "`"),
        ("# escape=`\n# syntax=x", "x", "`"),
        ("# ESCAPE = `", None, "`"),
        ("  # escape=`", None, "`"),
        ("# escape=\\", None, "\\"),
        ("\n# escape=`", None, "\\"),
        ("# a comment\n# escape=`", None, "\\"),
        ("# unknown=x\n# escape=`", None, "\\"),
        ("#\n# syntax=x", None, "\\"),
        ("# syntax=\n# escape=`", None, "\\"),
        ("#!/usr/bin/x\n# syntax=y\n# escape=`", "y", "\\"),
        ("FROM a\n# syntax=x", None, "\\"),
    ],
)
def test_directives(text: str, syntax: str | None, escape: str) -> None:
    directives = parse(f"{text}\nFROM b".encode()).directives
    assert (directives.syntax.value if directives.syntax else None) == syntax
    assert directives.escape == escape


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("# syntax=a\n# syntax=b", "only one syntax parser directive can be used", 2),
        ("# escape=`\n# check=error=true\n# syntax=x\n# Escape=`", "only one escape parser directive can be used", 4),
        ("# escape=x", "invalid escape token 'x' does not match ` or \\", 1),
        ("# escape= ", "invalid escape token ' ' does not match ` or \\", 1),
        ("# check=foo=bar", 'failed to parse check options: invalid check option "foo"', 1),
        ("# check=skip", 'failed to parse check options: invalid check option "skip"', 1),
        (
            "# check=error=maybe",
            'failed to parse check options: failed to parse check option "error=maybe": strconv.ParseBool: parsing'
            ' "maybe": invalid syntax',
            1,
        ),
    ],
)
def test_directive_errors(text: str, message: str, line: int) -> None:
    error = failure(f"{text}\nFROM a")
    assert error.message == message
    assert error.location is not None and error.location.start == line


def test_check_directive() -> None:
    check = parse(b"# check=skip=A,B;error=true;experimental=all\nFROM a").directives.check
    assert check.skip == ("A", "B") and not check.skip_all
    assert check.experimental_all and check.error
    assert parse(b"# check=skip=all\nFROM a").directives.check.skip_all
    # Behind a space stands what people say about it.
    assert parse(b"# check=skip=A, B\nFROM a").directives.check.skip == ("A", "")
    assert parse(b"# check=skip=A // because\nFROM a").directives.check.skip == ("A",)


def test_backtick_as_the_escape_character() -> None:
    file = parse(b"# escape=`\nFROM a\nRUN dir `\n c:\\\nENV A=b` c D=e\nCOPY a c:\\\n")
    run, env, copy = file.stages[0].instructions
    assert isinstance(run, ast.Run) and run.command == ("dir  c:\\",)
    assert isinstance(env, ast.Env) and [pair.value for pair in env.pairs] == ["b` c", "e"]
    assert isinstance(copy, ast.Copy) and copy.destination == "c:\\"


# --- RUN, CMD, ENTRYPOINT, SHELL


@pytest.mark.parametrize("keyword", ["RUN", "CMD", "ENTRYPOINT"])
@pytest.mark.parametrize(
    ("arguments", "command", "shell_form"),
    [
        ('["a", "b c"]', ("a", "b c"), False),
        ('  [ "a" ,"b"]  ', ("a", "b"), False),
        ("[]", (), False),
        ("", (), True),
        ('["\\u00e9\\n"]', ("\u00e9\n",), False),
        ('["\\ud800"]', ("\ufffd",), False),
        ('["a"] # x', ('["a"] # x',), True),
        ("['a', 'b']", ("['a', 'b']",), True),
        ('["a",]', ('["a",]',), True),
        ('["a"', ('["a"',), True),
        ('["c:\\x"]', ('["c:\\x"]',), True),
        ("[NaN]", ("[NaN]",), True),
        ("[1e999]", ("[1e999]",), True),
        ("[ -f x ] && y", ("[ -f x ] && y",), True),
        ("a  'b' \"c\" \\d", ("a  'b' \"c\" \\d",), True),
    ],
)
def test_commands(keyword: str, arguments: str, command: tuple[str, ...], shell_form: bool) -> None:
    instruction = only(f"{keyword} {arguments}")
    assert isinstance(instruction, ast.CommandInstruction)
    assert (instruction.command, instruction.shell_form) == (command, shell_form)


@pytest.mark.parametrize("keyword", ["RUN", "CMD", "ENTRYPOINT", "SHELL", "COPY", "ADD", "VOLUME", "HEALTHCHECK CMD"])
@pytest.mark.parametrize("array", ["[1]", '["a", null]', '[["a"]]', '[{"a": "b"}]', "[true]"])
def test_arrays_hold_strings_only(keyword: str, array: str) -> None:
    message = "when using JSON array syntax, arrays must be comprised of strings only"
    assert failure(f"FROM a\n{keyword} {array}").message == message


def test_deep_nesting_is_no_array() -> None:
    text = "[" * 30000
    assert isinstance(run := only(f"RUN {text}"), ast.Run)
    assert run.command == (text,)


def test_run_flags() -> None:
    run = only(
        "RUN --mount=type=cache,target=/c --network=none --mount=from=b,target=/d --security=insecure "
        "--device=vendor.com/gpu=0,required x"
    )
    assert isinstance(run, ast.Run)
    assert [(mount.text, mount.from_name) for mount in run.mounts] == [
        ("type=cache,target=/c", ""),
        ("from=b,target=/d", "b"),
    ]
    assert (run.network, run.security) == ("none", "insecure")
    assert run.devices == (RunDevice("vendor.com/gpu=0", True),)
    assert run.command == ("x",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUN --network=x a", 'invalid network mode "x"'),
        ("RUN --security=x a", 'security "x" is not valid'),
        ("RUN --mount a", "missing a value on flag: --mount"),
        ("RUN --mount= a", "failed to parse csv mounts: EOF"),
        (
            'RUN --mount=a\\"b a',
            'failed to parse csv mounts: parse error on line 1, column 2: bare " in non-quoted-field',
        ),
        ("RUN --mount=from=$b a", "'from' doesn't support variable expansion, define alias stage instead"),
        ("RUN --mont=x a", "unknown flag: --mont (did you mean mount?)"),
        ("RUN --network=none --network=host a", "duplicate flag specified: --network"),
        ("RUN --device=a,b x", "invalid field 'b' must be a key=value pair"),
        ("RUN --device=name=a,name=b x", "device name already set to a"),
        ("RUN --device=a,requird=1 x", "unexpected key 'requird' in 'requird=1' (did you mean required?)"),
        ("CMD --x a", "unknown flag: --x"),
        ("ENTRYPOINT --x=y a", "unknown flag: --x"),
        ("SHELL a", "SHELL requires the arguments to be in JSON form"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("SHELL", "SHELL requires at least one argument"),
    ],
)
def test_command_errors(line: str, message: str) -> None:
    assert failure(f"FROM a\n{line}").message == f"dockerfile parse error on line 2: {message}"


def test_shell() -> None:
    shell = only('SHELL ["bash", "-c"]')
    assert isinstance(shell, ast.Shell) and shell.words == ("bash", "-c")


@pytest.mark.parametrize(
    ("flags", "parsed"),
    [
        ("--chown='a b'", "a b"),
        ('--chown="a b"', "a b"),
        ("--chown=a\\ b", "a b"),
        ("--chown=a'b'\"c\"", "abc"),
        ("--chown=\\'a", "'a"),
        ('--chown="a\\"b"', 'a"b'),
        ("--chown=a=b", "a=b"),
        ("--chown=", ""),
        ("--chown=\u00e9", "\u00e9"),
    ],
)
def test_quoting_in_flags(flags: str, parsed: str) -> None:
    copy = only(f"COPY {flags} x y")
    assert isinstance(copy, ast.Copy) and copy.chown == parsed
    assert copy.sources == ("x",)


# --- ENV, LABEL, ARG


@pytest.mark.parametrize("keyword", ["ENV", "LABEL"])
@pytest.mark.parametrize(
    ("arguments", "pairs"),
    [
        ("a=b", [("a", "b")]),
        ("a=b c=d", [("a", "b"), ("c", "d")]),
        ("a=", [("a", "")]),
        ('a="b c"', [("a", '"b c"')]),
        ("a='b c' d=e", [("a", "'b c'"), ("d", "e")]),
        ("a=b\\ c d=e", [("a", "b\\ c"), ("d", "e")]),
        ('a="b\\" c" d=e', [("a", '"b\\" c"'), ("d", "e")]),
        ("a='b\\' c=d", [("a", "'b\\'"), ("c", "d")]),
        ('a="b c', [("a", '"b c')]),
        ("a=b=c", [("a", "b=c")]),
        ('"a b"=c', [('"a b"', "c")]),
        ('a=\\"b c=d', [("a", '\\"b'), ("c", "d")]),
        ("a=$b c=${d:-e f}", None),
    ],
)
def test_pairs(keyword: str, arguments: str, pairs: list[tuple[str, str]] | None) -> None:
    if pairs is None:
        message = 'Syntax error - can\'t find = in "f}". Must be of the form: name=value'
        assert failure(f"FROM a\n{keyword} {arguments}").message == message
        return
    instruction = only(f"{keyword} {arguments}")
    assert isinstance(instruction, ast.PairsInstruction)
    assert instruction.pairs == tuple(KeyValue(name, value) for name, value in pairs)


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ("a b", "a", "b"),
        ("a b c=d  e", "a", "b c=d  e"),
        ("a \t b", "a", "b"),
        ('a "b c"', "a", '"b c"'),
    ],
)
def test_legacy_pairs(arguments: str, name: str, value: str) -> None:
    env = only(f"ENV {arguments}")
    assert isinstance(env, ast.Env)
    assert env.pairs == (KeyValue(name, value, legacy=True),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ENV", "dockerfile parse error on line 2: ENV requires at least one argument"),
        ("LABEL", "dockerfile parse error on line 2: LABEL requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("env a", "ENV must have two arguments"),
        ("ENV =b", "dockerfile parse error on line 2: ENV names can not be blank"),
        ("LABEL a=b =c", "dockerfile parse error on line 2: LABEL names can not be blank"),
        ("ENV a=b c", 'Syntax error - can\'t find = in "c". Must be of the form: name=value'),
        ("ENV --x a=b", "dockerfile parse error on line 2: unknown flag: --x"),
        ("ARG", "dockerfile parse error on line 2: ARG requires at least one argument"),
        ("ARG =b", "dockerfile parse error on line 2: ARG names can not be blank"),
    ],
)
def test_pair_errors(line: str, message: str) -> None:
    assert failure(f"FROM a\n{line}").message == message


@pytest.mark.parametrize(
    ("arguments", "definitions"),
    [
        ("a", [("a", None)]),
        ("a=b", [("a", "b")]),
        ("a=", [("a", "")]),
        ("a b=c d", [("a", None), ("b", "c"), ("d", None)]),
        ('a="b c" d', [("a", '"b c"'), ("d", None)]),
        ("a=b=c", [("a", "b=c")]),
        ("--flag=x a", [("a", None)]),
    ],
)
def test_arg(arguments: str, definitions: list[tuple[str, str | None]]) -> None:
    arg = only(f"ARG {arguments}")
    assert isinstance(arg, ast.Arg)
    assert [(definition.name, definition.default) for definition in arg.definitions] == definitions
