"""What a Dockerfile that cannot be built is told: the message, the place, and what was perhaps meant."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stagewright.dockerfile.ignore import Matcher, read_patterns
from stagewright.dockerfile.instructions import parse
from stagewright.dockerfile.suggest import similar_name, suggest
from stagewright.dockerfile.wildcard import SourcePattern
from stagewright.errors import DockerfileError, NotFoundError, StagewrightError
from stagewright.frontend.checks import misspelt_arguments
from stagewright.frontend.convert import convert
from stagewright.frontend.options import BaseImage, ImageRequest, Options
from stagewright.graph.ops import CopyAction
from stagewright.image.config import ImageConfig
from stagewright.image.platform import Platform
from stagewright.ops.chmod import apply_mode
from stagewright.ops.selection import mount_digest, select
from stagewright.progress.failure import render_failure
from stagewright.sources.tree import Tree

AMD64 = Platform("linux", "amd64")


def resolve(requests: Sequence[ImageRequest]) -> list[BaseImage]:
    digest = hashlib.sha256(b"").hexdigest()
    config = ImageConfig(AMD64, diff_ids=(f"sha256:{digest}",))
    return [BaseImage(f"{request.name}@sha256:{digest}", config) for request in requests]


def refused(text: str, **options: object) -> StagewrightError:
    with pytest.raises(StagewrightError) as caught:
        convert(parse(text.encode()), Options(**{"platform": AMD64, **options}), resolve)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("", "the Dockerfile cannot be empty", 1),
        ("FORM a", "dockerfile parse error on line 1: unknown instruction: FORM (did you mean FROM?)", 1),
        ("from a\ncoppy b c", "dockerfile parse error on line 2: unknown instruction: coppy (did you mean copy?)", 2),
        ("FROM a\nCOPY --chwon=1 b c",
         "dockerfile parse error on line 2: unknown flag: --chwon (did you mean chown?)", 2),
        ("FROM a\nRUN --network=hots x",
         'dockerfile parse error on line 2: invalid network mode "hots" (did you mean host?)', 2),
        ("FROM a\nRUN --security=insecur x",
         'dockerfile parse error on line 2: security "insecur" is not valid (did you mean insecure?)', 2),
        ("FROM a\nRUN --mount=type=cach,target=/x y", 'unsupported mount type "cach" (did you mean cache?)', 2),
        ("FROM a\nRUN --mount=type=cache,taget=/x y",
         "unexpected key 'taget' in 'taget=/x' (did you mean target?)", 2),
        ("FROM a\nRUN --mount=type=cache,target=/x,sharing=lockd y",
         'unsupported sharing value "lockd" (did you mean locked?)', 2),
        ('FROM a\nRUN ["x", "<<E"]\ny', "dockerfile parse error on line 3: unknown instruction: y", 3),
        ("FROM a\nSTOPSIGNAL SIGTREM", "invalid signal: SIGTREM (did you mean SIGTERM?)", 2),
        ("FROM a\nEXPOSE x", "invalid containerPort: x", 2),
        ("FROM a\nEXPOSE 2-1", "invalid containerPort: 2-1", 2),
        ("FROM a\nEXPOSE 65536", "invalid containerPort: 65536", 2),
        ("FROM a\nEXPOSE x:80", "invalid hostPort: x", 2),
        ("FROM a\nEXPOSE 1.2.3:80:80", "invalid IP address: 1.2.3", 2),
        ("FROM a\nEXPOSE 1-2:3-5", "invalid ranges specified for container and host Ports: 3-5 and 1-2", 2),
        ("FROM a\nEXPOSE /tcp", 'invalid port: "/tcp": no port specified', 2),
        ("FROM a\nEXPOSE 80/tpc", 'invalid port: "80/tpc": invalid proto: tpc', 2),
        ("FROM a\nVOLUME $x", "VOLUME specified can not be an empty string", 2),
        ("FROM a AS base\nFROM $X", "base name ($X) should not be blank", 2),
        ("FROM --platform=$X a", "empty platform value from expression $X", 1),
        ("FROM --platform=$TARGETPLATFROM a",
         "empty platform value from expression $TARGETPLATFROM (did you mean TARGETPLATFORM?)", 1),
        ("FROM --platform=a/b/c/d a",
         'failed to parse platform a/b/c/d: invalid platform "a/b/c/d"', 1),
        ("FROM a\nCOPY --from=7 b c", "invalid stage index 7", 2),
        ("FROM a\nCOPY --from=$X b c", "variable expansion is not supported for --from", 2),
        ("FROM a AS b\nCOPY --from=b c d", 'stage "b" cannot copy from itself', 2),
        ("FROM a AS b\nCOPY --from=c d e\nFROM b AS c",
         'cannot copy from stage "c", it needs to be defined before current stage "b"', 2),
        ("FROM a\nCOPY https://example.com/x /", "source can't be a URL for COPY", 2),
        ("FROM a\nCOPY https://example.com/x.git /", "source can't be a git ref for COPY", 2),
        ("FROM a\nADD --checksum=x https://example.com/x /", "invalid checksum x", 2),
        ("FROM a\nADD --checksum=sha256:0 b /", "checksum requires HTTP(S) or Git sources", 2),
        ("FROM a\nADD --checksum=sha256:0 b c /", "checksum can't be specified for multiple sources", 2),
        ("FROM a\nCOPY --chmod=9 b /", "invalid chmod parameter: '9'", 2),
        ("FROM a\nENV a=${b", 'failed to process "${b": syntax error: missing \'}\'', 2),
        ("FROM a\nENV a=${b:?missing}", 'failed to process "${b:?missing}": b: missing', 2),
        ("ARG a=${b:?}\nFROM a", 'failed to process "${b:?}": b: is not allowed to be unset', 1),
    ],
)  # fmt: skip
def test_dockerfiles(text: str, message: str, line: int) -> None:
    error = refused(text)
    assert error.message == message
    assert error.location is not None and error.location.start == line


@pytest.mark.parametrize(
    ("text", "options", "message", "hint"),
    [
        ("FROM a AS builder", {"target": "bulder"}, 'target stage "bulder" could not be found (did you mean builder?)',
         "the stages are: builder"),
        ("FROM a", {"target": "x"}, 'target stage "x" could not be found', None),
        ("FROM a", {"build_args": {"SOURCE_DATE_EPOCH": "soon"}}, "invalid SOURCE_DATE_EPOCH: soon",
         "give seconds since 1970"),
        ("FROM a\nCOPY --from=1 b c", {}, "invalid stage index 1", "there is one stage, index 0"),
        ("FROM a\nFROM b\nCOPY --from=2 b c", {}, "invalid stage index 2", "the stages have the indexes 0 to 1"),
    ],
)  # fmt: skip
def test_what_a_build_asks_for(text: str, options: dict[str, object], message: str, hint: str | None) -> None:
    error = refused(text, **options)
    assert (error.message, error.hint) == (message, hint)


@pytest.mark.parametrize(
    ("text", "build_args", "said"),
    [
        ("ARG VERSION\nFROM a", ["VERSON"], ["no ARG takes the build argument VERSON (did you mean VERSION?)"]),
        ("FROM a\nARG NAME\nFROM b", ["NAM", "OTHER"], ["no ARG takes the build argument NAM (did you mean NAME?)"]),
        ("FROM a\nARG NAME", ["NAME"], []),
        ("ARG HTTPS_PROXY\nFROM a", ["HTTP_PROXY"], []),
        ("FROM a", ["X"], []),
    ],
)
def test_build_arguments_that_nothing_takes(text: str, build_args: list[str], said: list[str]) -> None:
    assert misspelt_arguments(parse(text.encode()), build_args) == said


@pytest.mark.parametrize("text", ["[", "[]", "[a", "[a-", "[a-]", "[-a]", "[^", "[\\"])
def test_patterns(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        SourcePattern(text)
    assert caught.value.message == f'syntax error in pattern "{text}"'.replace("\\", "\\\\")


@pytest.mark.parametrize("text", ["10000", "u", "u=z", "x+r", "u=r,"])
def test_modes(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        apply_mode(text, 0o644, is_dir=False)
    assert caught.value.message == f"invalid chmod parameter: '{text}'"
    assert caught.value.hint == "use an octal number or a form like u=rwX,go=rX"


def test_an_ignore_file() -> None:
    with pytest.raises(DockerfileError) as caught:
        Matcher(read_patterns(b"a\nb[\n", "x/.dockerignore"))
    assert caught.value.render() == (
        'x/.dockerignore:2: syntax error in pattern "b["\n'
        "--------------------\n1 |     a\n2 | >>> b[\n--------------------"
    )


# --- names that are nearly right ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        ("chwon", ["chmod", "chown"], "chown"),
        ("ab", ["ac", "ad"], "ac"),
        ("exact", ["exact", "exacd"], None),
        ("far", ["away"], None),
    ],
)
def test_the_nearest_of_names(value: str, options: list[str], expected: str | None) -> None:
    assert suggest(value, options) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("readme.md", "README.md"), ("pakage.json", "package.json"), ("a", None), ("setup.cfg", None)],
)
def test_the_nearest_of_files(value: str, expected: str | None) -> None:
    assert similar_name(value, ["README.md", "package.json", "b", "src"]) == expected


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    for name in ("hello.txt", "src/main.py", "secrets/key.pem", "src/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("src")
    handle = os.open(tmp_path, os.O_RDONLY)
    yield Tree(handle, exclusion=Matcher(read_patterns(b"secrets\n")))
    os.close(handle)


@pytest.mark.parametrize(
    ("source", "missing", "hint"),
    [
        ("helo.txt", "helo.txt", "did you mean hello.txt?"),
        ("/HELLO.txt", "HELLO.txt", "did you mean hello.txt?"),
        ("src/man.py", "src/man.py", "did you mean src/main.py?"),
        ("link/man.py", "src/man.py", "did you mean src/main.py?"),
        ("scr/main.py", "scr/main.py", None),
        ("srcs/main.py", "srcs/main.py", "did you mean src/main.py?"),
        ("srcs/other.py", "srcs/other.py", "did you mean src?"),
        ("secret/x", "secret/x", None),
        ("hello.txt/x", "hello.txt/x", None),
        ("secrets/key.pem", "secrets/key.pem", "a pattern in the ignore file excludes secrets/key.pem"),
        ("nothing-like-it", "nothing-like-it", None),
        ("hellos.txt/*", "hellos.txt", "did you mean hello.txt?"),
    ],
)
def test_files_that_are_not_there(tree: Tree, source: str, missing: str, hint: str | None) -> None:
    with pytest.raises(NotFoundError) as caught:
        select(tree, CopyAction(0, source, "/"))
    assert (caught.value.message, caught.value.hint) == (f'"/{missing}": not found', hint)


def test_a_mount_of_what_is_not_there(tree: Tree) -> None:
    with pytest.raises(NotFoundError) as caught:
        mount_digest(tree, ["srcs/"], None, lambda: None, None)  # type: ignore[arg-type]
    assert (caught.value.message, caught.value.hint) == ('"/srcs": not found', "did you mean src?")


def test_an_empty_dockerfile_has_no_lines_to_show() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(b"", "Dockerfile")
    assert render_failure(caught.value) == "ERROR: the Dockerfile cannot be empty\n"
