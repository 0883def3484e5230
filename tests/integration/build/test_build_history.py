"""What is remembered of builds: `stagewright history`, and what keeps it whole."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from explanations import explain
from workbench import Workbench, wait_for, wait_for_children


@pytest.fixture
def history(bench: Workbench) -> Callable[..., str]:
    """Runs a history command; answers what it prints."""
    return lambda *arguments: bench.stagewright.run("history", *arguments).stdout


def listed(history: Callable[..., str]) -> list[dict[str, Any]]:
    """All builds."""
    return [json.loads(line) for line in history("ls", "--format=json").splitlines()]


def test_builds_are_listed_with_how_they_ended(bench: Workbench, history: Callable[..., str]) -> None:
    bench.dockerfile("FROM busybox AS one\nRUN echo 1\nFROM one\nRUN false\n")
    bench.build("--target=one", "-t", "app:1")
    bench.fail()
    builds = listed(history)
    assert [(build["number"], build["status"]) for build in builds] == [(2, "failed"), (1, "completed")]
    assert "exit code: 1" in builds[0]["error"]
    assert builds[1]["inputs"]["tags"] == ["app:1"]
    assert builds[1]["outcome"]["image"].startswith("sha256:")
    table = history("ls").splitlines()
    assert table[0].split() == ["BUILD", "STATUS", "STARTED", "DURATION", "RAN", "CONTEXT", "TARGET", "TAGS"]
    assert table[2].split()[:2] == ["1", "completed"]


def test_a_build_is_shown_with_its_keys_and_what_they_are_made_of(
    bench: Workbench, history: Callable[..., str]
) -> None:
    bench.dockerfile("FROM busybox\nENV A=1\nCOPY one /\nRUN cat /one\n")
    bench.write("one", "1")
    bench.build("--secret=id=token,env=HOME", "--build-arg=B=2")
    build = json.loads(history("inspect", "--format=json", "1"))
    assert (build["inputs"]["secrets"], build["inputs"]["args"]) == (["token"], {"B": "2"})
    steps = {step["name"].partition("] ")[2]: step for step in build["steps"]}
    run, copy = steps["RUN cat /one"], steps["COPY one /"]
    assert (run["state"], run["lines"], run["op"]["args"][-1]) == ("ran", [4, 4], "cat /one")
    assert "A=1" in run["op"]["env"]
    assert run["inputs"] == [{"step": copy["index"], "name": copy["name"], "key": copy["key"]}]
    assert copy["inputs"][1]["content"].startswith("sha256:")
    text = history("inspect")
    assert "args:           B=2\n" in text
    assert "ran" in text and "[2/3] COPY one /" in text


def test_the_sizes_of_what_steps_made(bench: Workbench, history: Callable[..., str]) -> None:
    bench.dockerfile("""
        FROM busybox AS made
        RUN dd if=/dev/zero of=/a bs=1000 count=3 2>&- && ln /a /b && ln -s /a /c
        FROM scratch
        COPY --from=made /a /b /to/
        COPY --link one /
        COPY <<END /text
        hello
        END
        ADD archive.tar /
        RUN --mount=from=made,target=/bin,source=/bin [ "/bin/true" ]
        RUN --mount=from=made,target=/bin,source=/bin [ "/bin/false" ]
    """)
    bench.write("one", "12345")
    with tarfile.open(bench.context / "archive.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("folder/empty"))
        archive.add(bench.context / "one", "five")
    expected = {"RUN dd": 3000, "--from=made": 6000, "--link": 5, "<<END": 6, "ADD": 5, "true": 0, "false": None}

    def sizes() -> dict[str, int | None]:
        steps = json.loads(history("inspect", "--format=json"))["steps"]
        assert any(step["size"] > 100_000 for step in steps if step["name"].startswith("[made 1/2] FROM"))
        return {part: step.get("size") for part in expected for step in steps if part in step["name"]}

    bench.fail()
    assert sizes() == expected
    assert re.search(r"\n(ran +\d+\.\ds +)3\.00kB +\S+ +\[made 2/2\] RUN dd", history("inspect"))
    # What came from the cache has the size that it had when it was made.
    bench.fail()
    assert sizes() == expected


def test_records_can_be_read_whatever_became_of_the_rest(bench: Workbench, history: Callable[..., str]) -> None:
    bench.dockerfile("FROM busybox\nCOPY Dockerfile /\nRUN echo hello\n")
    bench.build()
    bench.build()
    root = bench.stagewright.root
    for path in root.glob("metadata.db*"):
        path.unlink()
    (root / "metadata.db").write_bytes(b"garbage")
    assert [(build["steps"], build["ran"]) for build in listed(history)] == [(3, 0), (3, 3)]
    assert "hello" in history("logs", "1")
    assert "RUN echo hello" in history("inspect")
    assert len(explain(bench, "1").ran) == 3


def test_records_are_a_row_of_what_takes_space_that_no_prune_takes(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY . /\n")
    bench.build()
    bench.build()
    stagewright = bench.stagewright

    def row() -> dict[str, Any]:
        (found,) = [
            found
            for line in stagewright.run("du", "--json").stdout.splitlines()
            if (found := json.loads(line))["kind"] == "history"
        ]
        return dict(found)

    assert row() | {"size": 0, "created": 0, "last_used": 0} == {
        "id": "history", "kind": "history", "type": "internal", "size": 0, "created": 0, "last_used": 0,
        "in_use": True, "reclaimable": False, "shared": False, "parent": None, "description": "records of 2 builds",
    }  # fmt: skip
    assert row()["size"] > 4096
    assert "History: " in stagewright.run("du").stdout
    stagewright.run("prune", "--force", "--max-used-space=1")
    assert row()["description"] == "records of 2 builds"


def test_logs_come_back_as_they_were_printed(bench: Workbench, history: Callable[..., str]) -> None:
    bench.dockerfile("FROM busybox\nRUN echo hello; echo 'to all' >&2\nRUN echo bye; false\n")
    bench.fail()
    logs = history("logs")
    assert "[2/3] RUN echo hello" in logs
    assert any(line.endswith(" hello") for line in logs.splitlines())
    assert any(line.endswith(" to all") for line in logs.splitlines())
    assert "ERROR: " in logs
    events = [json.loads(line) for line in history("logs", "--format=json").splitlines()]
    assert any("logs" in event for event in events)


def test_a_build_is_exported_whole(bench: Workbench, history: Callable[..., str], tmp_path: Path) -> None:
    bench.dockerfile("FROM busybox\nRUN echo hello\n")
    bench.build()
    target = tmp_path / "build.json"
    assert history("export", "-o", target) == ""
    document = json.loads(target.read_text())
    assert document == json.loads(history("export", "1")) | {"exported": document["exported"]}
    assert document["dockerfile"] == "FROM busybox\nRUN echo hello\n"
    assert document["explanation"]["steps"][-1]["kind"] == "first"
    assert any(line[2] == "hello\n" for log in document["logs"].values() for line in log)


def test_builds_are_forgotten(bench: Workbench, history: Callable[..., str]) -> None:
    bench.dockerfile("FROM scratch\nCOPY . /\n")
    for number in range(3):
        bench.write("file", str(number))
        bench.build()
    assert history("rm", "3", "1") == "Removed: 3\nRemoved: 1\n"
    assert [build["number"] for build in listed(history)] == [2]
    bench.build()
    assert [build["number"] for build in listed(history)] == [4, 2]
    assert history("rm", "--all") == "Removed: 4\nRemoved: 2\n"
    assert listed(history) == []
    folder = bench.stagewright.root / "history"
    assert [list((folder / name).iterdir()) for name in ("graphs", "files")] == [[], []]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["history", "lss"], "unknown command history lss"),
        (["history", "inspect", "x"], "'x' is no number of a build"),
        (["history", "inspect", "7"], "no build 7 is recorded"),
        (["history", "logs"], "no build is recorded"),
        (["history", "ls", "1"], "history ls takes no arguments"),
        (["history", "rm"], "history rm needs the number of a build, or --all"),
        (["history", "rm", "7"], "no build 7 is recorded"),
        (["explain", "7"], "no build 7 is recorded"),
        (["explain", "--dry-run"], "explain --dry-run needs the build context"),
    ],
)
def test_what_is_wrong_is_said(bench: Workbench, arguments: list[str], message: str) -> None:
    done = bench.stagewright.run(*arguments, check=False)
    assert done.returncode == 1
    assert f"ERROR: {message}" in done.stderr


def test_builds_that_are_canceled_or_killed_are_recorded_and_those_that_run(
    bench: Workbench, orphans: None, history: Callable[..., str]
) -> None:
    bench.dockerfile("FROM busybox\nRUN echo begun; sleep 600\nRUN echo 2\n")
    process = bench.start()
    wait_for(process, "begun")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert [build["status"] for build in listed(history)] == ["canceled"]
    process = bench.start()
    wait_for(process, "begun")
    assert [build["status"] for build in listed(history)] == ["running", "canceled"]
    assert history("ls").splitlines()[1].split()[:2] == ["2", "running"]
    assert "status:         running\n" in history("inspect", "2")
    # What has not come to its end has nothing to explain, so that the newest build is the one before.
    assert explain(bench).data["not_reached"] == 1
    assert f"build 2 of {bench.context} is still running: " in bench.stagewright.run("explain", "2").stdout
    process.kill()
    process.communicate()
    wait_for_children()
    # Behind the door there is still somebody, to whom it is canceled.
    status = "killed" if os.geteuid() == 0 else "canceled"
    (killed, _) = listed(history)
    assert (killed["number"], killed["status"], killed["inputs"]["context"]) == (2, status, str(bench.context))
    assert history("logs", "2") == "" or status == "canceled"


def test_builds_at_once_get_numbers_of_their_own(bench: Workbench, history: Callable[..., str]) -> None:
    bench.dockerfile("FROM scratch\nCOPY . /\n")
    bench.build()
    command = [sys.executable, "-m", "stagewright", "build", "--progress=quiet", "--output=type=cacheonly"]
    command += ["--root", str(bench.stagewright.root), "--config", str(bench.stagewright.config), str(bench.context)]
    running = [subprocess.Popen(command) for _ in range(8)]
    assert [process.wait() for process in running] == [0] * 8
    assert [build["number"] for build in listed(history)] == list(range(9, 0, -1))


def test_a_store_that_takes_no_record_fails_no_build(bench: Workbench, history: Callable[..., str]) -> None:
    bench.dockerfile("FROM scratch\nCOPY . /\n")
    bench.write("history-is-a-file")
    (bench.stagewright.root).mkdir()
    (bench.stagewright.root / "history").write_text("in the way")
    bench.build()
    assert listed(history) == []
