"""Dockerfiles and ignore files that were made to fill the memory or to take for ever: each ends soon, with its line."""

from __future__ import annotations

import pytest

from limited import limited
from stagewright.dockerfile.ignore import Matcher, read_patterns
from stagewright.dockerfile.instructions import parse
from stagewright.dockerfile.wildcard import SourcePattern
from stagewright.errors import DockerfileError

CONVERT = """
from stagewright.dockerfile.instructions import parse
from stagewright.errors import DockerfileError
from stagewright.frontend.convert import convert
from stagewright.frontend.options import BaseImage, Options
from stagewright.image.config import ImageConfig
from stagewright.image.platform import Platform
amd64 = Platform("linux", "amd64")
def resolve(requests):
    return [BaseImage("a@sha256:" + "a" * 64, ImageConfig(amd64)) for _ in requests]
x = "x" * 60000
try:
    convert(parse((TEXT).encode()), Options(amd64), resolve)
    print("converted")
except DockerfileError as error:
    print(error.location.start, error.message)
"""

DOUBLING = '"FROM a\\nENV A=" + x + "\\nENV B=" + "$A" * 30 + "\\n" + '
DOCKERFILES = {
    "one line of 16 MB": ('"x" * (16 << 20)', "1 dockerfile line greater than max allowed size of 65535"),
    "half a million continued lines": ('"FROM a\\nRUN x" + " \\\\\\n y" * 500000', "converted"),
    "a body of a million lines": ('"FROM a\\nRUN <<E\\n" + "x\\n" * (1 << 20) + "E\\n"', "converted"),
    "a body without an end": ('"FROM a\\nRUN <<E\\n" + "x\\n" * (1 << 20)', "unterminated heredoc"),
    "100000 stages": (
        '"".join(f"FROM a AS s{n}\\n" for n in range(100000))',
        "50001 the Dockerfile has more than 50000 instructions",
    ),
    "a chain of stages": (
        '"FROM a AS s0\\n" + "".join(f"FROM s{n} AS s{n + 1}\\n" for n in range(20000))',
        "converted",
    ),
    "20000 triggers": (
        '"FROM a\\n" + "ONBUILD RUN x\\n" * 20000',
        "5002 the image has more than 5000 ONBUILD triggers",
    ),
    "a variable that doubles": ('"FROM a\\nENV A=aa\\n" + "ENV A=$A$A\\n" * 40', "what is substituted is too long"),
    "an argument that doubles": ('"FROM a\\nARG A=aa\\n" + "ARG A=$A$A\\n" * 40', "what is substituted is too long"),
    "many large variables": (
        DOUBLING + '"".join(f"ENV C{n}=$B\\n" for n in range(500))',
        "what is substituted in all of the Dockerfile is too long",
    ),
    "many large labels": (
        DOUBLING + '"".join(f"LABEL C{n}=$B\\n" for n in range(500))',
        "what is substituted in all of the Dockerfile is too long",
    ),
    "many large bodies": (
        DOUBLING + '"COPY <<E /x\\n$B\\nE\\n" * 500',
        "what is substituted in all of the Dockerfile is too long",
    ),
    "many steps with a large environment": (
        DOUBLING + '"RUN y\\n" * 500',
        "what is substituted in all of the Dockerfile is too long",
    ),
    "many variables": (
        '"FROM a\\nENV" + "".join(f" a{n}=b \\\\\\n" for n in range(100000))',
        "the image has more than 5000 variables",
    ),
    "many labels": (
        '"FROM a\\nLABEL" + "".join(f" a{n}=b \\\\\\n" for n in range(100000))',
        "the image has more than 5000 labels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DOCKERFILES)
def test_dockerfiles(case: str) -> None:
    text, expected = DOCKERFILES[case]
    assert expected in limited(CONVERT.replace("TEXT", text))


IGNORE_FILES = {
    "one line of 16 MB": (b"*a" * (8 << 20), "1: a line of the ignore file is longer than 65535 characters"),
    "100000 patterns": (b"*\n" * 100_000, "10001: the ignore file has more than 10000 patterns"),
    "many patterns across folders": (
        b"".join(b"a**b%d\n" % number for number in range(2000)),
        '1001: more than 1000 patterns match across folders, such as "a**b1000"',
    ),
}


@pytest.mark.parametrize("case", IGNORE_FILES)
def test_ignore_files_that_are_too_large(case: str) -> None:
    data, message = IGNORE_FILES[case]
    with pytest.raises(DockerfileError) as caught:
        Matcher(read_patterns(data))
    assert caught.value.location is not None
    assert f"{caught.value.location.start}: {caught.value.message}" == message


@pytest.mark.parametrize(
    "line",
    ["**/" * 9999 + "b", "*a" * 30000 + "b", "*?" * 30000, "a**" * 5000 + "b", "[a-z]" * 13000, "**/*a*/" * 3000 + "b"],
)
def test_patterns_that_take_no_longer_than_their_length(line: str) -> None:
    matcher = Matcher(read_patterns(f"{line}\n".encode()))
    assert not matcher.matches("a" * 4000 + "/c")
    assert not matcher.matches("a/" * 500 + "c")
    assert not SourcePattern(line).matches("a" * 4000 + "/c")


def test_any_number_of_folders_twice_is_any_number_of_folders() -> None:
    matcher = Matcher(read_patterns(b"a/**/**/**/b\n**/**/c/**/**\n"))
    for path, excluded in {"a/b": True, "a/x/y/b": True, "a": False, "x/c/d": True, "c": False, "x/b": False}.items():
        assert matcher.matches(path) == excluded, path


def test_a_dockerfile_of_the_allowed_size_is_read() -> None:
    assert len(parse(b"FROM a\n" + b"RUN x\n" * 49_999).stages[0].instructions) == 49_999
