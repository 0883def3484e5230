"""`--check` and `--call` on the command line: nothing is built, and the status says what was found."""

from __future__ import annotations

import json

from workbench import Workbench

FROM_BASE = "FROM busybox as base\nRUN false\nFROM base\nCMD true\n"


def test_a_check_builds_nothing(bench: Workbench) -> None:
    bench.dockerfile(FROM_BASE)
    done = bench.stagewright.run("build", "--check", "--progress=none", bench.context, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("Check complete, 2 warnings have been found!\n\nWARNING: FromAsCasing - https://")
    assert f"\n{bench.context}/Dockerfile:4\n" in done.stdout
    flags = ("--target=base", "--call=check,format=json")
    target = bench.stagewright.run("build", *flags, bench.context, check=False)
    assert [warning["ruleName"] for warning in json.loads(target.stdout)["warnings"]] == ["FromAsCasing"]


def test_a_dockerfile_that_says_what_is_an_error(bench: Workbench) -> None:
    bench.dockerfile("# check=error=true;skip=FromAsCasing\n" + FROM_BASE)
    done = bench.stagewright.run("build", "--check", "--progress=none", bench.context, check=False)
    assert done.returncode == 1
    assert done.stderr == "ERROR: lint violation found for rules: JSONArgsRecommended\n"


def test_what_keeps_a_dockerfile_from_being_built(bench: Workbench) -> None:
    bench.dockerfile("FROM registry.invalid/nowhere:1\n")
    done = bench.stagewright.run("build", "--check", "--offline", "--progress=none", bench.context, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ERROR: registry.invalid/nowhere:1: not known here")
    assert "   1 | >>> FROM registry.invalid/nowhere:1\n" in done.stderr


def test_a_dockerfile_without_fault(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n")
    done = bench.stagewright.run("build", "--check", bench.context)
    assert done.stdout == "Check complete, no warnings found.\n"


def test_an_outline_and_targets(bench: Workbench) -> None:
    bench.dockerfile("""
        # app the application
        FROM busybox AS app
        # WHO who is greeted
        ARG WHO=world
        RUN --mount=type=secret,id=token false
    """)
    outline = bench.stagewright.run("build", "--call=outline", "--build-arg=WHO=you", bench.context)
    assert outline.stdout.splitlines() == [
        "TARGET:      app",
        "DESCRIPTION: the application",
        "",
        "BUILD ARG   VALUE   DESCRIPTION",
        "WHO         you     who is greeted",
        "",
        "SECRET   REQUIRED",
        "token    ",
        "",
    ]
    targets = bench.stagewright.run("build", "--call=targets", bench.context)
    assert targets.stdout.splitlines() == ["TARGET        DESCRIPTION", "app (default) the application"]


def test_another_platform_can_be_checked(bench: Workbench) -> None:
    bench.dockerfile("FROM --platform=$BUILDPLATFORM busybox\nARG TARGETARCH\nRUN echo $TARGETARCH\n")
    done = bench.stagewright.run("build", "--check", "--platform=linux/s390x", bench.context)
    assert done.stdout == "Check complete, no warnings found.\n"
