"""Why steps ran that are what they were, what a dry run says, and what no explanation says."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from explanations import PLAIN, Explained, as_documented, build_plain, explain, explained
from harness import files_holding
from registry_servers import ScriptedServer
from test_build_remote import serve
from workbench import Workbench, wait_for

# Runs the program as a version whose keys were made otherwise.
EARLIER_VERSION = """
import sys
import stagewright.solver.keys, stagewright.version
stagewright.version.VERSION = "0.0.9"
stagewright.solver.keys._GENERATION = 0
from stagewright.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def built(bench: Workbench) -> Workbench:
    """A context that was built."""
    return build_plain(bench)


# --- a key that is known, and no result -------------------------------------------------------------------------------


def test_a_step_that_failed_before_and_what_came_after(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/c test -e /c/x || { touch /c/x; false; }
        RUN echo 2
    """)
    bench.fail()
    told = explained(bench)
    assert as_documented(told, "type=cache", "failed-before")
    assert as_documented(told, "echo 2", "not-reached")


def test_a_context_that_changed_while_it_was_copied(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/c echo begun; while ! test -e /c/go; do sleep 0.1; done
        COPY one /
    """)
    bench.write("one", "1")
    process = bench.start()
    wait_for(process, "begun")
    bench.write("one", "2")
    (mount,) = (bench.stagewright.root / "mounts").iterdir()
    (mount / "go").touch()
    assert "this step is not kept in the cache" in process.communicate()[1]
    bench.write("one", "1")
    assert as_documented(explained(bench), "COPY", "inexact")


@pytest.mark.root("an ordinary user's build goes on in a process of its own, which is of this version")
def test_a_build_by_another_version(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY one /\n")
    bench.write("one", "1")
    stagewright = bench.stagewright
    command = [sys.executable, "-c", EARLIER_VERSION, "build", "-o", "type=cacheonly"]
    command += ["--root", str(stagewright.root), "--config", str(stagewright.config), str(bench.context)]
    subprocess.run(command, check=True, capture_output=True)
    assert as_documented(explained(bench), "COPY", "version")


def test_pruned(built: Workbench) -> None:
    built.stagewright.run("prune", "--all", "--force")
    told = explained(built)
    assert as_documented(told, "RUN cat", "pruned")
    assert told.why("RUN cat").startswith(f"its result was pruned at {time.strftime('%Y-%m-%d')}")


def test_pruned_by_a_filter(built: Workbench) -> None:
    with sqlite3.connect(built.stagewright.root / "metadata.db") as db:
        ((snapshot,),) = db.execute("SELECT snapshot FROM cache_results WHERE name LIKE '%RUN echo done%'")
    built.stagewright.run("prune", "--force", "--filter", f"id={snapshot}")
    told = explained(built)
    assert told.ran == ["[5/5] RUN echo done"]
    assert told.why("RUN echo").startswith(f"its result was pruned at {time.strftime('%Y-%m-%d')}")


def test_a_lost_result(built: Workbench) -> None:
    with sqlite3.connect(built.stagewright.root / "metadata.db") as db:
        db.execute("DELETE FROM cache_results WHERE name LIKE '%RUN echo done%'")
        db.execute("DELETE FROM cache_keys WHERE canonical NOT IN (SELECT canonical FROM cache_results)")
    told = explained(built)
    assert told.ran == ["[5/5] RUN echo done"]
    assert as_documented(told, "RUN echo", "lost")


# --- which build to compare with --------------------------------------------------------------------------------------


def test_the_same_project_in_another_folder(built: Workbench, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(built.context, other)
    (other / "one").write_text("changed")
    built.stagewright.build(other, "-o", "type=cacheonly")
    told = explain(built)
    assert told.data["compared_with"] == 1
    assert told.why("COPY") == "one changed"


def test_the_build_with_the_same_arguments_is_compared_with(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nARG V\nCOPY one /\nRUN echo $V\n")
    bench.write("one", "1")
    bench.build("--build-arg=V=1")
    bench.build("--build-arg=V=2")
    bench.write("one", "2")
    told = explained(bench, "--build-arg=V=1")
    assert told.data["compared_with"] == 1
    assert told.why("RUN") == "its parent step [2/3] COPY one / ran again"


def test_a_file_that_was_changed_back(built: Workbench) -> None:
    built.write("one", "1")
    built.build()
    built.write("one", "one")
    assert explained(built).ran == []
    built.dockerfile(PLAIN.replace("echo done", "echo end"))
    told = explained(built)
    assert (told.ran, told.why("RUN echo end")) == (["[5/5] RUN echo end"], "its own text changed")


# --- secrets ----------------------------------------------------------------------------------------------------------

SECRET = "hunter2-and-some-more"


def test_no_secret_is_in_a_record(bench: Workbench) -> None:
    bench.dockerfile(f"""
        FROM busybox
        ARG GIVEN
        COPY . .
        RUN --mount=type=secret,id=token cat /run/secrets/token; echo {SECRET}
        RUN echo $GIVEN && false
    """)
    bench.write(f"files/{SECRET}", SECRET)
    bench.write("token", SECRET)
    flags = ["--secret", f"id=token,src={bench.context}/token", f"--build-arg=GIVEN={SECRET}", "--secret-leak=off"]
    bench.fail(*flags)
    bench.write(f"files/{SECRET}", "changed")
    bench.fail(*flags, f"--build-arg=OTHER=https://user:{SECRET}@host/")
    told = explain(bench)
    assert told.why("COPY") == "files/*** changed"
    printed = [
        bench.stagewright.run(*command).stdout
        for command in (
            ["explain"],
            ["explain", "--json"],
            ["history", "ls", "--format=json"],
            ["history", "inspect"],
            ["history", "inspect", "--format=json"],
            ["history", "logs"],
            ["history", "export"],
        )
    ]
    assert not any(SECRET in text for text in printed)
    assert "***" in printed[5]
    # Records are compressed: what is in them is what the commands show.
    assert files_holding(SECRET.encode(), bench.stagewright.root / "history") == []
    for path in (bench.stagewright.root / "history").rglob("*"):
        if path.is_file() and path.parent.name != "builds":
            assert SECRET.encode() not in zlib.decompress(path.read_bytes())


def test_credentials_in_a_url_are_in_no_record(bench: Workbench, server: ScriptedServer) -> None:
    url = serve(server, "file", b"one").replace("http://", f"http://user:{SECRET}@")
    bench.dockerfile(f"FROM scratch\nADD {url} /\n")
    bench.build()
    serve(server, "file", b"two")
    told = explained(bench)
    assert "***@" in told.why("ADD")
    assert SECRET not in bench.stagewright.run("history", "export").stdout


# --- without running --------------------------------------------------------------------------------------------------


def foretold(bench: Workbench, *flags: object) -> Explained:
    """What a build of the context would run."""
    return Explained(json.loads(bench.stagewright.run("explain", "--dry-run", "--json", *flags, bench.context).stdout))


def test_a_dry_run_says_what_would_run_and_runs_nothing(built: Workbench) -> None:
    built.write("one", "1")
    before = built.stagewright.run("history", "ls", "--format=json").stdout
    told = foretold(built)
    assert {step["name"]: step["state"] for step in told.data["steps"]} == dict.fromkeys(
        ("[3/5] COPY . .", "[4/5] RUN cat one > two", "[5/5] RUN echo done"), "would run"
    )
    assert told.why("COPY") == "one changed"
    assert told.data["compared_with"] == 1
    assert foretold(built).data["steps"] == told.data["steps"]
    assert built.stagewright.run("history", "ls", "--format=json").stdout == before
    assert explained(built).ran == told.ran
    assert {step["reason"] for step in foretold(built, "--no-cache").data["steps"]} == {"--no-cache was given"}


def test_a_dry_run_where_all_is_cached(built: Workbench) -> None:
    told = foretold(built)
    assert (told.ran, told.data["cached"]) == ([], 5)
    text = built.stagewright.run("explain", "--dry-run", built.context).stdout
    assert text == f"this build of {built.context}: 0 steps would run, 5 cached\n"


def test_a_dry_run_of_what_was_never_built(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1\nRUN false\n")
    told = foretold(bench)
    assert [step["kind"] for step in told.data["steps"]] == ["first", "first", "first"]
    assert bench.stagewright.run("history", "ls", "--format=json").stdout == ""


def test_a_dry_run_does_not_know_what_a_stage_will_give(bench: Workbench) -> None:
    text = """
        FROM busybox AS tools
        COPY in /in
        RUN cp /in /out; echo same > /same
        FROM busybox
        COPY --from=tools /same /
        RUN echo 1
        RUN echo 2
    """
    bench.dockerfile(text)
    bench.write("in", "1")
    bench.build()
    bench.write("in", "2")
    told = foretold(bench)
    copy = told.step("COPY --from=tools")
    assert copy["state"] == "may run"
    assert as_documented(told, "COPY --from=tools", "depends")
    assert copy["because_of"] == "[tools 2/3] COPY in /in"
    assert told.why("echo 1") == "it runs if [stage-1 2/4] COPY --from=tools /same / does"
    bench.dockerfile(text.replace("echo 2", "echo 3"))
    told = foretold(bench)
    assert (told.step("echo 3")["state"], told.why("echo 3")) == ("would run", "its own text changed")
    assert told.step("echo 1")["state"] == "may run"
    assert explained(bench).ran == ["[tools 2/3] COPY in /in", told.step("RUN cp")["name"], told.step("echo 3")["name"]]


def test_flags_of_a_build_go_with_a_dry_run_only(bench: Workbench) -> None:
    done = bench.stagewright.run("explain", "--no-cache", check=False)
    assert (done.returncode, "--no-cache goes with --dry-run only" in done.stderr) == (1, True)


# --- imported caches --------------------------------------------------------------------------------------------------


def test_what_an_imported_cache_does_not_have(built: Workbench) -> None:
    cache = built.scratch / "cache"
    built.build(f"--cache-to=type=local,dest={cache}")
    second = replace(built, stagewright=replace(built.stagewright, root=built.scratch / "second"))
    built.dockerfile(PLAIN + "    RUN echo more\n")
    told = explained(second, f"--cache-from=type=local,src={cache}")
    assert told.ran[-1] == "[6/6] RUN echo more"
    assert as_documented(told, "RUN echo more", "not-imported")
    assert told.why("RUN echo more") == f"the cache source {cache} did not give it"


def test_imported_caches_that_cannot_be_read(built: Workbench) -> None:
    cache, missing = built.scratch / "cache", built.scratch / "missing"
    built.build(f"--cache-to=type=local,dest={cache}")
    second = replace(built, stagewright=replace(built.stagewright, root=built.scratch / "second"))
    told = explained(second, f"--cache-from=type=local,src={missing}")
    assert told.kind("RUN echo") == "not-imported"
    assert told.why("RUN echo") == f"the cache source {missing} could not be read"
    built.dockerfile(PLAIN + "    RUN echo more\n")
    third = replace(built, stagewright=replace(built.stagewright, root=built.scratch / "third"))
    flags = [f"--cache-from=type=local,src={folder}" for folder in (missing, cache)]
    told = explained(third, *flags)
    why = f"the cache source {cache} did not give it, and the cache source {missing} could not be read"
    assert told.why("RUN echo more") == why
