"""What a build that fails says: the place with its lines, what is wrong and was perhaps meant; and its status is 1."""

from __future__ import annotations

import pytest
from workbench import Workbench

RULE = "-" * 20


@pytest.mark.parametrize(
    ("text", "flags", "said", "hint"),
    [
        # Names that are nearly right.
        ("FROM scratch\nCOPY helo.txt /", "", '"/helo.txt": not found', "did you mean hello.txt?"),
        ("FROM scratch\nADD folder/fiel /", "", '"/folder/fiel": not found', "did you mean folder/file?"),
        ("FROM scratch AS a\nCOPY . /\nFROM scratch\nCOPY --from=a /folders/file /", "",
         '"/folders/file": not found', "did you mean folder/file?"),
        ("FROM scratch AS a\nCOPY . /\nFROM scratch\nCOPY --from=a /foldre /", "",
         '"/foldre": not found', "did you mean folder?"),
        ("FROM busybox\nRUN --mount=target=/x,source=foldr true", "", '"/foldr": not found', "did you mean folder?"),
        ("FROM scratch AS builder\nFROM scratch\nCOPY --from=bulider / /", "--offline",
         "bulider:latest: not known here, and --offline forbids asking its registry",
         "did you mean the stage builder?"),
        ("FROM busybox\nRUN --mount=type=secret,id=token,required true", "--secret=id=tokne,src={scratch}/value",
         "secret token: not found", "give it with --secret id=token,src=FILE; it is not tokne"),
        ("FROM busybox\nRUN --mount=type=secret,id=token,required true", "",
         "secret token: not found", "give it with --secret id=token,src=FILE"),
        # What the ignore file hides.
        ("FROM scratch\nCOPY hidden /", "", '"/hidden": not found', "a pattern in the ignore file excludes hidden"),
        # What cannot be written where it was to go.
        ("FROM scratch\nCOPY hello.txt /x\nCOPY folder /x", "", "cannot copy to non-directory: /x", None),
        ("FROM scratch\nCOPY folder /x/\nCOPY <<x /\ny\nx", "", "cannot replace to directory /x with file", None),
        ("FROM scratch\nCOPY --chown=nobody hello.txt /", "", None, None),
        # Steps.
        ("FROM busybox\nRUN --mount=type=secret,id=token,env=TOKEN true", "--secret=id=token,src={scratch}/zero",
         "secret token: the variable TOKEN cannot hold its NUL bytes", None),
        ("FROM busybox\nRUN --mount=type=cache,target=/c,from=busybox,source=/bin/sh true", "",
         "cache mount /c: its source /bin/sh is not a folder", None),
        ('FROM busybox\nRUN ["no-such-program"]', "", None, None),
        ("FROM busybox\nRUN exit 7", "", None, None),
        # What is started ahead of the first step fails for that step.
        ("FROM busybox\nRUN true", "--oci-runtime=/no/such", "there is no OCI runtime '/no/such'", None),
    ],
)  # fmt: skip
def test_failing_builds(bench: Workbench, text: str, flags: str, said: str | None, hint: str | None) -> None:
    bench.write("hello.txt")
    bench.write("folder/file")
    bench.write("hidden")
    bench.write(".dockerignore", "hidden\n")
    (bench.scratch / "value").write_text("a secret value")
    (bench.scratch / "zero").write_bytes(b"a secret\0value")
    bench.dockerfile(text)
    printed = bench.fail(*flags.format(scratch=bench.scratch).split())
    assert f"{RULE}\nERROR: failed to build: " in printed
    assert " | >>> " in printed
    end = printed.partition("ERROR: failed to build: ")[2].splitlines()
    if said is not None:
        assert end[0].endswith(said)
        assert end[1:] == ([f"hint: {hint}"] if hint else [])


def test_the_whole_of_it(bench: Workbench) -> None:
    bench.write("hello.txt")
    bench.dockerfile("FROM scratch\nCOPY \\\n  helo.txt \\\n  /\n" + "COPY hello.txt /\n" * 3)
    assert bench.fail().splitlines()[-11:] == [
        "Dockerfile:2",
        RULE,
        "1 |     FROM scratch",
        "2 | >>> COPY \\",
        "3 | >>>   helo.txt \\",
        "4 | >>>   /",
        "5 |     COPY hello.txt /",
        "6 |     COPY hello.txt /",
        RULE,
        'ERROR: failed to build: "/helo.txt": not found',
        "hint: did you mean hello.txt?",
    ]


def test_a_dockerfile_by_nearly_its_name(bench: Workbench) -> None:
    bench.write("web.Dockerfile", "FROM scratch\n")
    path = f"{bench.context}/wbe.Dockerfile"
    assert bench.fail("-f", path).splitlines()[-2:] == [
        f"ERROR: failed to build: failed to read Dockerfile: open {path}: no such file or directory",
        f"hint: did you mean {bench.context}/web.Dockerfile?",
    ]


def test_a_build_argument_by_nearly_its_name(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nARG VERSION\nCOPY Dockerfile /\n")
    flags = ("--progress=plain", "-o", "type=cacheonly", bench.context)
    done = bench.stagewright.run("build", "--build-arg=VERSON=1", *flags)
    said = "no ARG takes the build argument VERSON (did you mean VERSION?)"
    assert done.stderr.endswith(f"\n 1 warning found (use --debug to expand):\n - {said}\n")
    assert "warning" not in bench.stagewright.run("build", "--build-arg=VERSION=1", *flags).stderr
