"""`RUN --mount=type=cache`: what persists, for whom, and who waits for whom."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest
from harness import Build
from workbench import Workbench, wait_for

COUNT = "echo x >> /c/count; wc -l < /c/count"


def printed(build: Build, text: str) -> str:
    """What the step with the text in its name wrote."""
    return build.step(text).log.decode().strip()


def counts(bench: Workbench, *mounts: str) -> list[str]:
    """What a counter in each of the mounts, which stand at /c, says after a build that uses them one after another."""
    runs = [
        f"RUN --mount=type=cache,target=/c,{mount} : step-{number}; {COUNT}\n" for number, mount in enumerate(mounts)
    ]
    bench.dockerfile("".join(["FROM busybox\n", *runs]))
    build = bench.build("--no-cache")
    return [printed(build, f"step-{number}") for number in range(len(mounts))]


def test_a_cache_persists_and_its_id_names_it(bench: Workbench) -> None:
    assert counts(bench, "id=a", "id=b", "id=a", "sharing=shared") == ["1", "1", "2", "1"]
    assert counts(bench, "id=a", "id=/c") == ["3", "2"]


def test_a_cache_survives_a_failed_step_and_is_in_no_layer(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c echo kept > /c/file; exit 1\n")
    bench.fail()
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c cat /c/file > /copy\n")
    files = bench.files()
    assert files.text("/copy") == "kept\n"
    assert files.below("/c") == []


def test_several_in_one_step(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/one --mount=type=cache,target=/two,id=second \\
            --mount=type=tmpfs,target=/three --mount=type=cache,target=/one/inner \\
            touch /one/a /two/b /three/c /one/inner/d && ls /one /two > /seen
        RUN --mount=type=cache,target=/x,id=second ls /x > /seen-later
        RUN --mount=type=cache,target=/x,id=/one/inner ls /x >> /seen-later
    """)
    files = bench.files()
    assert files.lines("/seen") == ["/one:", "a", "inner", "", "/two:", "b"]
    assert files.lines("/seen-later") == ["b", "d"]
    assert "/three/c" not in files


def test_content_from_a_stage_owner_and_mode(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox AS seed
        RUN mkdir -p /deep/er && echo seeded > /deep/er/file && chown -R 5:6 /deep
        FROM busybox
        RUN --mount=type=cache,target=/c,from=seed,source=/deep/er cat /c/file > /seen && echo more >> /c/file
        RUN --mount=type=cache,target=/c,from=seed,source=/deep/er cat /c/file >> /seen
        RUN --mount=type=cache,target=/owned,mode=0750,uid=7,gid=8 stat -c '%a %u %g' /owned > /stat
        USER 7
        RUN --mount=type=cache,target=/owned,mode=0750,uid=7,gid=8 touch /owned/mine
    """)
    files = bench.files()
    assert files.lines("/seen") == ["seeded", "seeded", "more"]
    assert files.lines("/stat") == ["750 7 8"]


def test_a_read_only_cache(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/c echo written > /c/file
        RUN --mount=type=cache,target=/c,ro cat /c/file > /seen; ! echo again > /c/file
        RUN --mount=type=cache,target=/c cat /c/file >> /seen
    """)
    assert bench.files().lines("/seen") == ["written", "written"]


def test_a_changed_cache_is_no_change_of_the_step(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c echo x >> /c/count\nRUN echo after\n")
    bench.build()
    assert bench.build().ran == []


def test_variables_in_mounts(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox
        ARG PLACE=/place
        RUN --mount=type=cache,id=cache-$PLACE,target=$PLACE/x touch $PLACE/x/made
        RUN --mount=type=cache,id=cache-/place,target=/y ls /y > /seen
    """)
    assert bench.files().lines("/seen") == ["made"]


MEET = """
FROM busybox
ARG WHO
ARG OTHER
RUN --mount=type=cache,target=/meet,sharing=shared --mount=type=cache,target=/c,sharing={sharing} \\
    set -e; echo $WHO >> /c/who; touch /meet/$WHO; tries=0; \\
    until [ -e /meet/$OTHER ] || [ $tries = {tries} ]; do sleep 0.02; tries=$((tries+1)); done; \\
    [ -e /meet/$OTHER ] && echo met || echo alone; cat /c/who; {leave}
"""


def both(bench: Workbench, sharing: str, *, tries: int, leave: str) -> list[str]:
    """What the steps of two builds print that run at the same time in two processes."""
    bench.write("Dockerfile", MEET.format(sharing=sharing, tries=tries, leave=leave))
    logs: dict[str, str] = {}

    def build(who: str, other: str) -> Callable[[], None]:
        flags = ("-o", "type=cacheonly", "--build-arg", f"WHO={who}", "--build-arg", f"OTHER={other}")

        def run() -> None:
            logs[who] = printed(bench.stagewright.build(bench.context, *flags), "/meet")

        return run

    threads = [threading.Thread(target=build(*names)) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [logs["a"], logs["b"]]


@pytest.mark.parametrize("sharing", ["shared", "private"])
def test_two_builds_at_once_meet(bench: Workbench, sharing: str) -> None:
    # They wait for each other for as long as a test may take, so a lock between them would fail the test.
    logs = both(bench, sharing, tries=3000, leave="true")
    assert [log.splitlines()[0] for log in logs] == ["met", "met"]
    if sharing == "private":
        assert [log.splitlines()[1:] for log in logs] == [["a"], ["b"]]
    else:
        assert max(len(log.splitlines()[1:]) for log in logs) == 2


def test_two_builds_at_once_exclude_each_other_from_a_locked_cache(bench: Workbench) -> None:
    logs = both(bench, "locked", tries=25, leave="rm /meet/$WHO")
    assert [log.splitlines()[0] for log in logs] == ["alone", "alone"]
    assert sorted(len(log.splitlines()[1:]) for log in logs) == [1, 2]


def test_a_step_that_waits_for_a_locked_cache_can_be_stopped(bench: Workbench) -> None:
    mount = "--mount=type=cache,target=/c,sharing=locked"
    bench.dockerfile(f"FROM busybox\nRUN {mount} echo I am; sleep 1000\n")
    first = bench.start()
    wait_for(first, " I am")
    bench.dockerfile(f"FROM busybox\nRUN {mount} echo another one\n")
    second = bench.start()
    wait_for(second, "echo another one")
    second.send_signal(signal.SIGINT)
    assert " another one\n" not in second.communicate()[1]
    assert second.returncode == 130
    third = bench.start()
    wait_for(third, "echo another one")
    first.kill()
    first.communicate()
    wait_for(third, " another one")
    third.communicate()
    assert third.returncode == 0
