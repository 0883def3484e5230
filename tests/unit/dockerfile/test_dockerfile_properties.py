"""Any bytes are a Dockerfile or an error with a place; a printed Dockerfile reads back as the same one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagewright.dockerfile import ast
from stagewright.dockerfile.instructions import parse
from stagewright.dockerfile.printer import print_dockerfile
from stagewright.errors import DockerfileError

KEYWORDS = (
    "FROM a", "FROM a AS b", "ARG", "RUN", "COPY", "ADD", "ENV", "LABEL", "CMD", "ENTRYPOINT", "SHELL", "USER",
    "WORKDIR", "EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK CMD", "HEALTHCHECK NONE", "ONBUILD RUN", "ONBUILD COPY",
    "MAINTAINER", "# syntax=x", "# escape=`", "# check=skip=all", "# a comment", "run", "unknown",
)  # fmt: skip
PIECES = (
    " ", "a", "b=c", "$V", "${V:-d}", "'q r'", '"s"', "\\", "`", "\\\n", "`\n", "\n", "\r\n", "\t", "\v", "[", "/",
    '["a","b"]', "<<E", "<<-'E'", "\nE\n", "E", "#", "--mount=type=cache,target=/x", "--from=a", "--link", "--",
    "\u00e9", "\udcff",
)  # fmt: skip

texts = st.lists(
    st.one_of(st.sampled_from(PIECES), st.sampled_from(KEYWORDS).map(lambda keyword: f"\n{keyword} ")), max_size=25
).map(lambda pieces: ("FROM x" + "".join(pieces)).encode("utf-8", "surrogateescape"))


def check(data: bytes) -> None:
    try:
        file = parse(data)
    except DockerfileError as error:
        assert error.location is not None
        assert 1 <= error.location.start <= error.location.end <= max(1, data.count(b"\n") + 1)
        error.render().encode()
        return
    again = parse(print_dockerfile(file))
    assert again == file
    assert [stage.comments for stage in again.stages] == [stage.comments for stage in file.stages]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    check(data)


@settings(max_examples=600, deadline=None)
@given(texts)
def test_anything_like_a_dockerfile(data: bytes) -> None:
    check(data)


@pytest.mark.parametrize(
    "text",
    [
        "# syntax=x\n# escape=`\n# check=skip=A,B;error=true\nARG V=1\nFROM a:$V AS b\nRUN x `\n y\n",
        "#!x\n# syntax=y\nFROM a",
        "\n# syntax=x\nFROM a",
        "FROM a\nRUN a\\ \\",
        "FROM a\nRUN a\\\u00a0\nUSER b",
        "FROM a\nCOPY <<E <<-F /x\na\\\nE\n\tb\nF\nONBUILD RUN <<G\n# c\nG\nUSER d",
        "FROM a\nRUN " + "a \\\n" * 40000 + "b",
        "FROM a\nRUN " + "#a\\ \\\n #b \\\n" * 20000 + "b",
        "FROM a\nRUN x\\\n" + (" " * 65000 + "x\\\n") * 3 + "y",
    ],
)
def test_printing(text: str) -> None:
    check(text.encode())
    file = parse(text.encode())
    again = parse(print_dockerfile(file))
    assert again.directives.check == file.directives.check
    assert again.directives.escape == file.directives.escape


def test_thousands_of_stages() -> None:
    text = "".join(f"FROM b{n} AS s{n}\nARG A\nENV B=c\nRUN x\nCOPY --from=s{n} a b\n" for n in range(4000))
    file = parse(text.encode())
    assert len(file.stages) == 4000
    assert file.stages[-1].location.start == 19996
    assert isinstance(file.stages[-1].instructions[-1], ast.Copy)


def test_long_instructions_and_comments_cost_no_more_than_their_length() -> None:
    comments = "# c\n" * 100_000
    continued = "RUN x" + " \\\n y" * 100_000 + "\n"
    body = "COPY <<E /x\n" + "line\n" * 100_000 + "E\n"
    pairs = "ENV " + " ".join(f"a{n}=b" for n in range(6000)) + "\n"
    file = parse(f"{comments}FROM a\n{continued}{body}{pairs}".encode())
    assert len(file.stages[0].instructions) == 3
    quotes = 'ENV a="' + "\\\"'" * 20000
    spaces = "RUN <<" + " " * 60000 + "<"
    flags = "RUN " + "--mount=type=bind " * 3000 + "x"
    directive = "# escape=" + " " * 60000 + "x"
    for line in (quotes, spaces, flags):
        assert parse(f"FROM a\n{line}".encode())
    with pytest.raises(DockerfileError):
        parse(f"{directive}\nFROM a".encode())
