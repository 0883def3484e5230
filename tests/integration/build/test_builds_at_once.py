"""Many builds in one store from many processes: shared steps run once, the dead hand over, nothing is corrupted."""

from __future__ import annotations

import hashlib
import subprocess
import time
from pathlib import Path

from workbench import Workbench, wait_for

BUILDS = 12


def start(bench: Workbench, number: int, *flags: str) -> subprocess.Popen[str]:
    target = bench.scratch / f"{number}.tar"
    return bench.start("-o", f"type=oci,dest={target}", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", *flags)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_many_builds_share_their_steps(bench: Workbench) -> None:
    """Each step that all have runs in one of them; those that are a build's own run in each; all images are right."""
    bench.dockerfile("""
        FROM busybox AS base
        RUN --mount=type=cache,target=/count,sharing=locked echo base >> /count/runs
        FROM base AS shared
        COPY files /files
        RUN --mount=type=cache,target=/count,sharing=locked echo shared >> /count/runs && cat /files/* > /all
        FROM base
        COPY --from=shared /all /all
        ARG NUMBER
        RUN --mount=type=cache,target=/count,sharing=locked echo "own $NUMBER" >> /count/runs && echo $NUMBER > /own
    """)
    for number in range(10):
        bench.write(f"files/{number}", f"{number}\\n" * 100)
    # Two of a kind, so that also what only some of them share is done once.
    builds = [start(bench, number, "--build-arg", f"NUMBER={number // 2}") for number in range(BUILDS)]
    for build in builds:
        said = build.communicate()[1]
        assert build.returncode == 0, said
    (runs,) = bench.stagewright.root.glob("mounts/*/runs")
    counts = lines(runs)
    assert sorted(counts) == sorted(["base", "shared", *(f"own {number}" for number in range(BUILDS // 2))])
    digests = [hashlib.sha256((bench.scratch / f"{number}.tar").read_bytes()).digest() for number in range(BUILDS)]
    assert digests[::2] == digests[1::2]
    assert len(set(digests)) == BUILDS // 2
    assert bench.stagewright.run("check").returncode == 0


def test_prunes_and_checks_beside_builds(bench: Workbench) -> None:
    """What frees space or looks for damage takes nothing from builds that run, and finds nothing wrong in them."""
    bench.dockerfile("""
        FROM busybox
        ARG NUMBER
        RUN echo $NUMBER > /one
        RUN cp /one /two
        FROM busybox
        COPY --from=0 /two /
    """)
    builds = []
    for number in range(6):
        builds.append(start(bench, number, "--build-arg", f"NUMBER={number}"))
        bench.stagewright.run("prune", "--all", "--force")
        bench.stagewright.run("prune", "--filter", "until=0s", "--max-used-space=1", "--force")
        bench.stagewright.run("du")
        bench.stagewright.run("check", "--repair")
    for number, build in enumerate(builds):
        said = build.communicate()[1]
        assert build.returncode == 0, said
        assert (bench.scratch / f"{number}.tar").exists()
    assert bench.stagewright.run("check").returncode == 0


def test_builds_that_wait_for_a_step_of_one_that_dies(bench: Workbench) -> None:
    """One of those that wait runs it anew, and the others go on waiting, however many die one after another."""
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/count echo begun >> /count/runs && echo begun \\
            && until test -e /count/go; do sleep 0.1; done && echo made > /made
        RUN --mount=type=cache,target=/count echo next >> /count/runs
    """)
    first = start(bench, 0)
    wait_for(first, " begun")
    others = [start(bench, number) for number in range(1, 7)]
    for build in others:
        wait_for(build, "until test -e /count/go; do sleep 0.1; done && echo made > /made")
    (runs,) = bench.stagewright.root.glob("mounts/*/runs")
    kill(first)
    while len(lines(runs)) < 2:
        time.sleep(0.05)
    # Among these may be the one that runs the step now, and the one that does after it.
    for build in others[:3]:
        kill(build)
    (runs.parent / "go").touch()
    for build in others[3:]:
        said = build.communicate()[1]
        assert build.returncode == 0, said
    assert lines(runs).count("next") == 1
    assert len({(bench.scratch / f"{number}.tar").read_bytes() for number in range(4, 7)}) == 1


def kill(build: subprocess.Popen[str]) -> None:
    build.kill()
    build.communicate()
