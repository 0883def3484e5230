"""Stages: what a target needs, what runs at once, and errors in how stages refer to each other."""

from __future__ import annotations

import datetime
import os
from itertools import pairwise

import pytest
from harness import Build, Vertex
from workbench import Workbench

SHARED_BASE = """
    FROM busybox AS base
    RUN echo base > /base
    FROM base AS development
    RUN echo development > /kind
    FROM base AS production
    COPY --from=base /base /copied
    RUN echo production > /kind
    FROM base AS last
    RUN echo last > /kind
"""


def span(vertex: Vertex) -> tuple[datetime.datetime, datetime.datetime]:
    """When a vertex that ran started and ended."""
    assert vertex.started is not None
    assert vertex.completed is not None
    return vertex.started, vertex.completed


def most_at_once(build: Build, text: str) -> int:
    """How many of the steps whose names hold the text ran at the same time at most."""
    spans = [span(vertex) for vertex in build.vertices.values() if text in vertex.name]
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


@pytest.mark.parametrize(
    ("target", "kind"), [("development", "development"), ("PRODUCTION", "production"), (None, "last")]
)
def test_each_target_has_its_own_result(bench: Workbench, target: str | None, kind: str) -> None:
    bench.dockerfile(SHARED_BASE)
    files = bench.files(*([f"--target={target}"] if target else []))
    assert files.text("/kind") == f"{kind}\n"
    assert files.text("/base") == "base\n"


def test_targets_share_their_base(bench: Workbench) -> None:
    bench.dockerfile(SHARED_BASE)
    assert len(bench.build("--target=development").ran) == 3
    assert bench.build("--target=production").ran == [
        "[production 1/2] COPY --from=base /base /copied",
        "[production 2/2] RUN echo production > /kind",
    ]


def test_what_the_target_does_not_need_is_never_touched(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM registry.invalid/nowhere:1 AS unresolvable
        FROM busybox AS failing
        RUN exit 3
        FROM busybox AS missing
        COPY does-not-exist /
        FROM failing AS built-on-it
        RUN true
        FROM nginx AS unneeded
        FROM busybox AS target
        RUN echo done
        FROM target AS after
        RUN exit 4
    """)
    build = bench.build("--target=target")
    assert build.ran == [build.step("FROM ").name, build.step("RUN echo done").name]
    assert not build.has_step("nginx")
    assert not build.has_step("registry.invalid")


def test_independent_stages_run_at_once(bench: Workbench) -> None:
    # Each stage waits for the other one: one after the other they would not end.
    bench.dockerfile("""
        FROM busybox AS base
        FROM base AS one
        RUN --mount=type=cache,target=/meet touch /meet/one; until [ -e /meet/two ]; do sleep 0.02; done
        FROM base AS two
        RUN --mount=type=cache,target=/meet touch /meet/two; until [ -e /meet/one ]; do sleep 0.02; done
        FROM scratch
        COPY --from=one /bin/busybox /one
        COPY --from=two /bin/busybox /two
    """)
    assert most_at_once(bench.build("--jobs=2"), "/meet") == 2


def test_waiting_steps_hold_no_core(bench: Workbench) -> None:
    # All of them wait until all of them are there.
    count = 3 * (os.cpu_count() or 1)
    meet = f"until [ $(ls /meet | wc -l) = {count} ]; do sleep 0.05; done"
    mount = "--mount=type=cache,target=/meet"
    stages = [f"FROM busybox AS s{number}\nRUN {mount} touch /meet/{number}; {meet}\n" for number in range(count)]
    copies = [f"COPY --from=s{number} /etc/passwd /{number}\n" for number in range(count)]
    bench.dockerfile("".join([*stages, "FROM scratch\n", *copies]))
    assert most_at_once(bench.build(), "/meet") == count


def test_jobs_bound_the_steps_at_once(bench: Workbench) -> None:
    stages = [f"FROM busybox AS s{number}\nRUN sleep 0.1 && echo {number} > /out\n" for number in range(4)]
    copies = [f"COPY --from=s{number} /out /{number}\n" for number in range(4)]
    bench.dockerfile("".join([*stages, "FROM scratch\n", *copies]))
    build = bench.build("--jobs=1")
    spans = sorted(span(vertex) for vertex in build.vertices.values() if "sleep" in vertex.name)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_a_diamond_and_a_chain_of_many_stages(bench: Workbench) -> None:
    chain = [f"FROM s{number} AS s{number + 1}\nCOPY Dockerfile /{number}\n" for number in range(60)]
    bench.dockerfile(
        "".join(["FROM scratch AS s0\nCOPY Dockerfile /first\n", *chain, "FROM scratch\nCOPY --from=s60 / /\n"])
    )
    assert len(bench.files().below("/")) == 61


def test_equal_steps_of_two_stages_run_once(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox AS one
        RUN head -c 8 /dev/urandom | od -x > /random
        FROM busybox AS two
        RUN head -c 8 /dev/urandom | od -x > /random
        FROM scratch
        COPY --from=one /random /one
        COPY --from=two /random /two
    """)
    files = bench.files()
    assert files.text("/one") == files.text("/two")


@pytest.mark.parametrize(
    ("dockerfile", "flags", "words"),
    [
        ("FROM busybox AS builder\n", ["--target=bulder"], ["bulder", "builder"]),
        ("FROM busybox AS a\nCOPY --from=a / /\n", [], ["Dockerfile:2", "itself"]),
        ("FROM busybox AS a\nCOPY --from=later / /\nFROM busybox AS later\nFROM a\n", [], ["Dockerfile:2", "later"]),
        ("FROM busybox\nCOPY --from=5 / /\n", [], ["Dockerfile:2", "5", "index"]),
        ("FROM busybox\nCOPY --from=0 / /\n", [], ["Dockerfile:2", "itself"]),
        ("FROM busybox AS builder\nFROM scratch\nCOPY --from=biulder / /\n", [], ["Dockerfile:3", "builder"]),
        ("FROM busybox\nRUN --mount=from=missing,target=/x true\nFROM scratch AS missin\n", ["--target=0"], []),
        ("FROM $UNSET\n", [], ["Dockerfile:1", "UNSET"]),
        ("COPY a b\nFROM busybox\n", [], ["Dockerfile:1", "FROM"]),
        ("ARG X\n", [], ["stage"]),
        ("", [], ["empty"]),
        ("FROM --platform=linux/a/b/c busybox\n", [], ["Dockerfile:1", "linux/a/b/c"]),
        ("FROM busybox:no-such-tag\n", [], ["Dockerfile:1", "no-such-tag"]),
        ("FROM busyboks\n", [], ["Dockerfile:1", "busybox"]),
    ],
)
def test_errors_name_the_line_and_what_was_perhaps_meant(
    bench: Workbench, dockerfile: str, flags: list[str], words: list[str]
) -> None:
    bench.dockerfile(dockerfile)
    text = bench.fail(*flags)
    assert [word for word in words if word not in text] == []


def test_a_stage_named_like_an_image_is_the_stage(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox AS nginx
        RUN echo stage > /which
        FROM busybox
        COPY --from=nginx /which /copied
        RUN --mount=from=nginx,source=/which,target=/mounted cat /mounted > /bound
    """)
    files = bench.files()
    assert files.text("/copied") == files.text("/bound") == "stage\n"
