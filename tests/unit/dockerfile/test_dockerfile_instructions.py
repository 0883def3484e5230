"""The Dockerfile language row by row: COPY and ADD, here-documents, and the instructions that set configuration."""

from __future__ import annotations

import pytest
from dockerfile_reading import failure, only

from stagewright.dockerfile import ast
from stagewright.dockerfile.instructions import parse_trigger
from stagewright.errors import DockerfileError, SourceRange, SourceText

# --- COPY and ADD


def test_copy_flags() -> None:
    copy = only("COPY --from=b --chown=1:2 --chmod=u+x --link --parents --exclude=*.o --exclude=!a.o x y/ /z/")
    assert isinstance(copy, ast.Copy)
    assert (copy.from_name, copy.chown, copy.chmod, copy.link, copy.parents) == ("b", "1:2", "u+x", True, True)
    assert copy.exclude == ("*.o", "!a.o")
    assert (copy.sources, copy.destination) == (("x", "y/"), "/z/")


def test_add_flags() -> None:
    add = only("ADD --keep-git-dir=true --checksum=sha256:a --unpack=False --link=false --exclude=b x y")
    assert isinstance(add, ast.Add)
    assert (add.keep_git_dir, add.checksum, add.unpack, add.link, add.exclude) == (
        True, "sha256:a", False, False, ("b",),
    )  # fmt: skip
    plain = only("ADD x y")
    assert isinstance(plain, ast.Add)
    assert (plain.keep_git_dir, plain.unpack) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "sources", "destination"),
    [
        ("a b", ("a",), "b"),
        ("a   b\tc", ("a", "b"), "c"),
        ('["a b", "c"]', ("a b",), "c"),
        ('["a", "b", "c d"]', ("a", "b"), "c d"),
        ('"a b" c', ('"a', 'b"'), "c"),
        ("[a] b", ("[a]",), "b"),
    ],
)
def test_copy_words(arguments: str, sources: tuple[str, ...], destination: str) -> None:
    for keyword in ("COPY", "ADD"):
        instruction = only(f"{keyword} {arguments}")
        assert isinstance(instruction, ast.TransferInstruction)
        assert (instruction.sources, instruction.destination) == (sources, destination)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "COPY a",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("ADD", "ADD requires at least two arguments, but only one was provided. Destination could not be determined"),
        ("COPY --form=a b c", "unknown flag: --form (did you mean from?)"),
        ("COPY --checksum=a b c", "unknown flag: --checksum"),
        ("ADD --from=a b c", "unknown flag: --from"),
        ("ADD --parents a b", "unknown flag: --parents"),
        ("COPY --link=maybe a b", "expecting boolean value for flag --link, not: maybe"),
        ("COPY --link= a b", "missing a value on flag: --link"),
        ("COPY --chown a b", "missing a value on flag: --chown"),
        ("COPY --chown=a --chown=b c d", "duplicate flag specified: --chown"),
        ("COPY --CHOWN=a b c", "unknown flag: --CHOWN"),
        ("COPY a <<E\nE", "COPY cannot accept a heredoc as a destination"),
    ],
)
def test_copy_errors(line: str, message: str) -> None:
    assert failure(f"FROM a\n{line}").message == f"dockerfile parse error on line 2: {message}"


# --- here-documents


@pytest.mark.parametrize(
    ("opening", "body", "expand", "text"),
    [
        ("<<E", "a $b\n c\nE", True, "a $b\n c\n"),
        ("<<E", "E", True, ""),
        ("<<'E'", "a\nE", False, "a\n"),
        ('<<"E"', "a\nE", False, "a\n"),
        ("<<E'O'F", "a\nEOF", False, "a\n"),
        ("<<-E", "\ta\n\t\tb\n\tE", True, "a\nb\n"),
        ("<<E", "\ta\n\tE\nE", True, "\ta\n\tE\n"),
        ("<<E", "# a\n\n\\\nRUN x \\\nE", True, "# a\n\n\\\nRUN x \\\n"),
        ("<<E", "a\r\nE\r\n", True, "a\r\n"),
        ("<<a.txt", "x\na.txt", True, "x\n"),
        ("<<$E", "x\n$E", True, "x\n"),
        ("0<<E", "x\nE", True, "x\n"),
    ],
)
def test_copy_heredocs(opening: str, body: str, expand: bool, text: str) -> None:
    copy = only(f"COPY {opening} /d\n{body}")
    assert isinstance(copy, ast.Copy)
    (content,) = copy.contents
    assert (content.expand, content.text) == (expand, text)
    assert copy.sources == ()


def test_several_heredocs_and_paths() -> None:
    copy = only("COPY a <<B <<-C d /e/\n1\nB\n\t2\nC\nRUN x".removesuffix("\nRUN x"))
    assert isinstance(copy, ast.Copy)
    assert [(content.path, content.text) for content in copy.contents] == [("B", "1\n"), ("C", "2\n")]
    assert copy.sources == ("a", "d")


def test_run_heredocs() -> None:
    run = only("RUN <<A cat <<-'B' > x\n1\nA\n\t2\nB")
    assert isinstance(run, ast.Run)
    assert run.command == ("<<A cat <<-'B' > x",)
    assert [(doc.name, doc.content, doc.expand, doc.chomp) for doc in run.heredocs] == [
        ("A", "1\n", True, False),
        ("B", "\t2\n", False, True),
    ]


def test_blanks_before_a_delimiter() -> None:
    run = only("RUN cat <<  EOF > x\nbody\nEOF")
    assert run.heredocs[0].name == "EOF"


@pytest.mark.parametrize(
    "line",
    [
        "RUN cat<<E",
        "RUN echo '<<E'",
        'RUN echo "a <<E"',
        "RUN cat <<<E",
        "RUN cat << ",
        "RUN echo \\<<E",
        "RUN echo 'unfinished <<E",
        "RUN cat <<- E",
        'RUN ["<<E"]',
        "CMD cat <<E",
        "ENTRYPOINT <<E",
        "ENV A <<E",
    ],
)
def test_what_begins_no_heredoc(line: str) -> None:
    assert only(line).heredocs == ()


@pytest.mark.parametrize("text", ["RUN <<E", "RUN <<E\n E", "COPY <<A <<B /x\nA\n", "ONBUILD RUN <<E\nx"])
def test_unterminated_heredocs(text: str) -> None:
    error = failure(f"FROM a\n{text}")
    assert error.message == "unterminated heredoc"
    assert error.location is not None and error.location.start == 2


# --- the rest


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("WORKDIR /a b", ast.Workdir, "/a b"),
        ('WORKDIR "/a b"', ast.Workdir, '"/a b"'),
        ("WORKDIR c:\\windows", ast.Workdir, "c:\\windows"),
        ("USER a:b", ast.User, "a:b"),
        ("USER  $u ", ast.User, "$u"),
        ("STOPSIGNAL 9", ast.StopSignal, "9"),
        ("STOPSIGNAL --x SIGKILL", ast.StopSignal, "SIGKILL"),
        ("MAINTAINER A B <a@b>", ast.Maintainer, "A B <a@b>"),
        ("ONBUILD RUN a \\\n b", ast.Onbuild, "RUN a  b"),
        ("onbuild\tcopy a b", ast.Onbuild, "copy a b"),
        ("ONBUILD RUN <<E\nx\nE", ast.Onbuild, "RUN <<E\nx\nE"),
        ("ONBUILD UNKNOWN x", ast.Onbuild, "UNKNOWN x"),
    ],
)
def test_instructions_of_one_text(line: str, kind: type[ast.TextInstruction], text: str) -> None:
    instruction = only(line)
    assert type(instruction) is kind
    assert instruction.text == text


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("EXPOSE 80", ast.Expose, ("80",)),
        ("EXPOSE 9 80/tcp 100-102/udp $P", ast.Expose, ("$P", "100-102/udp", "80/tcp", "9")),
        ("VOLUME /a", ast.Volume, ("/a",)),
        ("VOLUME /a  /b", ast.Volume, ("/a", "/b")),
        ('VOLUME ["/a b", " /c "]', ast.Volume, ("/a b", "/c")),
    ],
)
def test_instructions_of_words(line: str, kind: type[ast.WordsInstruction], words: tuple[str, ...]) -> None:
    instruction = only(line)
    assert type(instruction) is kind
    assert instruction.words == words


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("USER", "USER requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
        ("USER --x a", "unknown flag: --x"),
        ("WORKDIR --x a", "unknown flag: --x"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("EXPOSE --x 80", "unknown flag: --x"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD ONBUILD RUN a", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD from a", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD MAINTAINER a", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("ONBUILD --x RUN a", "unknown flag: --x"),
    ],
)
def test_errors_of_the_rest(line: str, message: str) -> None:
    assert failure(f"FROM a\n{line}").message == f"dockerfile parse error on line 2: {message}"


def test_a_row_of_onbuilds_does_not_exhaust_the_stack() -> None:
    assert "Chaining" in failure("FROM a\n" + "ONBUILD " * 8000).message


def test_healthcheck() -> None:
    check = only(
        "HEALTHCHECK --interval=5m30s --timeout=3s --start-period=1.5s --start-interval=10ms --retries=2 CMD curl -f x"
    )
    assert isinstance(check, ast.Healthcheck)
    assert check.test == ("CMD-SHELL", "curl -f x")
    assert (check.interval_ns, check.timeout_ns, check.start_period_ns, check.start_interval_ns, check.retries) == (
        330_000_000_000, 3_000_000_000, 1_500_000_000, 10_000_000, 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "test"),
    [
        ("HEALTHCHECK NONE", ("NONE",)),
        ("HEALTHCHECK none", ("NONE",)),
        ("HEALTHCHECK --interval=1s NONE", ("NONE",)),
        ('HEALTHCHECK CMD ["a", "b"]', ("CMD", "a", "b")),
        ("HEALTHCHECK cmd  a  b", ("CMD-SHELL", "a  b")),
        ("HEALTHCHECK --interval=0s --retries=0 CMD a", ("CMD-SHELL", "a")),
        ("HEALTHCHECK \\\n  --interval=1s \\\n  CMD a", ("CMD-SHELL", "a")),
    ],
)
def test_healthcheck_forms(line: str, test: tuple[str, ...]) -> None:
    check = only(line)
    assert isinstance(check, ast.Healthcheck) and check.test == test


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE a", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK CMD []", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK curl", 'Unknown type "CURL" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK --interval=1 CMD a", 'time: missing unit in duration "1"'),
        ("HEALTHCHECK --interval=1x CMD a", 'time: unknown unit "x" in duration "1x"'),
        ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'),
        ("HEALTHCHECK --interval=1us CMD a", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --timeout=-1s CMD a", 'Interval "timeout" cannot be less than 1ms'),
        ("HEALTHCHECK --retries=-1 CMD a", "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --retries=a CMD a", 'strconv.ParseInt: parsing "a": invalid syntax'),
        ("HEALTHCHECK --retries=9999999999 CMD a", 'strconv.ParseInt: parsing "9999999999": value out of range'),
        ("HEALTHCHECK --retry=1 CMD a", "unknown flag: --retry"),
    ],
)
def test_healthcheck_errors(line: str, message: str) -> None:
    assert failure(f"FROM a\n{line}").message == f"dockerfile parse error on line 2: {message}"


# --- triggers


def test_triggers_are_parsed_where_they_are_set_off() -> None:
    place = SourceRange(SourceText("Dockerfile", "FROM a\n"), 1, 1)
    run = parse_trigger("RUN <<E\nx\nE", place)
    assert isinstance(run, ast.Run)
    assert run.heredocs[0].content == "x\n"
    assert run.location is place


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
        ("", "the Dockerfile cannot be empty"),
        ("FROM a", "FROM isn't allowed as an ONBUILD trigger"),
        ("UNKNOWN a", "unknown instruction: UNKNOWN"),
    ],
)
def test_trigger_errors(expression: str, message: str) -> None:
    place = SourceRange(SourceText("Dockerfile", "FROM a\n"), 1, 1)
    with pytest.raises(DockerfileError) as caught:
        parse_trigger(expression, place)
    assert (caught.value.message, caught.value.location) == (message, place)
