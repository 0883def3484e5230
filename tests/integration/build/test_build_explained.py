"""Why steps ran: a test for each reason that there is, with the sentence that is said of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from explanations import Explained, explain, explained, missed
from git_servers import Repository, git_daemon
from harness import files_holding
from registry_servers import ScriptedServer
from test_build_remote import serve
from workbench import Workbench

PLAIN = """
    FROM busybox
    WORKDIR /app
    COPY . .
    RUN cat one > two
    RUN echo done
"""


@pytest.fixture
def built(bench: Workbench) -> Workbench:
    """A context that was built."""
    bench.dockerfile(PLAIN)
    bench.write(".dockerignore", "Dockerfile\n.dockerignore\n*.log\n")
    for name in ("one", "a/b", "a/c", "a/d", "debug.log"):
        bench.write(name, name)
    bench.build()
    return bench


def test_a_first_build_has_nothing_to_compare_with(built: Workbench) -> None:
    told = explain(built)
    assert {step["kind"] for step in told.data["steps"]} == {"first"}
    assert told.why("RUN cat") == "no build of this context and Dockerfile was recorded before"
    assert told.data["compared_with"] is None


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_changed_file(built: Workbench) -> None:
    built.write("one", "1")
    build = built.build()
    told = explain(built)
    assert told.why("COPY") == "one changed"
    assert told.step("COPY")["details"]["files"] == [{"path": "one", "kind": "changed"}]
    assert missed(build.stderr)["[3/5] COPY . ."] == "one changed"


def test_what_stands_on_a_step_that_ran(built: Workbench) -> None:
    built.write("one", "1")
    build = built.build()
    told = explain(built)
    for step, parent in (("RUN cat", "[3/5] COPY . ."), ("RUN echo", "[4/5] RUN cat one > two")):
        assert told.why(step) == f"its parent step {parent} ran again"
        assert told.step(step)["because_of"] == "[3/5] COPY . ."
    assert missed(build.stderr)["[5/5] RUN echo done"] == "[4/5] ran"
    text = built.stagewright.run("explain").stdout
    assert text.count("one changed") == 1
    assert "so these, too:\n        [4/5] RUN cat one > two\n        [5/5] RUN echo done\n" in text


def test_an_added_and_a_removed_file(built: Workbench) -> None:
    built.write("a/e")
    (built.context / "a/b").unlink()
    assert explained(built).why("COPY") == "a/e was added and a/b was removed"


def test_many_changed_files_are_counted(built: Workbench) -> None:
    for number in range(9):
        built.write(f"new/{number}")
    told = explained(built)
    assert told.why("COPY") == "new/0 was added, new/1 was added, new/2 was added, and 7 more files differ"
    assert told.step("COPY")["details"]["count"] == 10


def test_another_mode(built: Workbench) -> None:
    (built.context / "one").chmod(0o755)
    assert explained(built).why("COPY") == "the mode of one went from 0644 to 0755"


def test_what_the_ignore_file_hides_now(built: Workbench) -> None:
    built.write(".dockerignore", "Dockerfile\n.dockerignore\n*.log\na\n")
    told = explained(built)
    assert (told.kind("COPY"), told.why("COPY")) == ("ignored", "the ignore file hides a/b and 3 more now")


def test_what_the_ignore_file_hides_no_more(built: Workbench) -> None:
    built.write(".dockerignore", "Dockerfile\n.dockerignore\n")
    assert explained(built).why("COPY") == "the ignore file does not hide debug.log any more"


def test_files_of_a_stage(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox AS tools
        COPY in /in
        RUN cp /in /out; echo same > /same
        FROM busybox
        COPY --from=tools /out /same /to/
        COPY --from=tools /same /
    """)
    bench.write("in", "1")
    bench.build()
    bench.write("in", "2")
    told = explained(bench)
    assert told.why("COPY --from=tools /out") == "what it takes from stage tools is not what it was: /out changed"
    assert told.step("COPY --from=tools /out")["because_of"] == "[tools 2/3] COPY in /in"
    parent = "[stage-1 2/3] COPY --from=tools /out /same /to/"
    assert told.why("COPY --from=tools /same") == f"its parent step {parent} ran again"


def test_files_of_a_bind_mount(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN --mount=type=bind,target=/src cat /src/one\n")
    bench.write("one", "1")
    bench.build()
    bench.write("one", "2")
    told = explained(bench)
    assert told.why("RUN") == "what it takes from [internal] load build context is not what it was: /one changed"


def test_a_named_context(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY --from=other . /\n")
    first, second = (bench.scratch / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    bench.build(f"--build-context=other={first}")
    (first / "file").write_text("changed")
    assert explained(bench, f"--build-context=other={first}").why("COPY") == "file changed in the named context other"
    told = explained(bench, f"--build-context=other={second}")
    assert told.why("COPY") == f"the named context other went from {first} to {second}"


# --- the Dockerfile ---------------------------------------------------------------------------------------------------


def test_another_text(built: Workbench) -> None:
    built.dockerfile(PLAIN.replace("cat one > two", "cat one > three"))
    told = explained(built)
    assert told.why("RUN cat") == "its own text changed"
    assert told.step("RUN cat")["details"]["diff"] == ["-RUN cat one > two", "+RUN cat one > three"]
    assert "        -RUN cat one > two\n        +RUN cat one > three\n" in built.stagewright.run("explain").stdout


def test_an_inserted_instruction(built: Workbench) -> None:
    built.dockerfile(PLAIN.replace("COPY", "RUN echo new\n    COPY"))
    told = explained(built)
    assert told.why("RUN echo new") == "this instruction is new: it comes after [2/6] WORKDIR /app"
    assert told.why("COPY") == "the instruction before it is new: [3/6] RUN echo new"
    assert told.why("RUN cat") == "its parent step [4/6] COPY . . ran again"
    assert told.step("RUN echo done")["because_of"] == "[3/6] RUN echo new"


def test_a_removed_instruction(built: Workbench) -> None:
    built.dockerfile(PLAIN.replace("RUN cat one > two\n", ""))
    assert explained(built).why("RUN echo") == "the instruction before it is gone: RUN cat one > two"


def test_another_order(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1\nRUN echo 2\nRUN echo 3\n")
    bench.build()
    bench.dockerfile("FROM busybox\nRUN echo 2\nRUN echo 1\nRUN echo 3\n")
    told = explained(bench)
    assert told.kind("echo 2") == "reordered"
    assert told.why("echo 2").startswith("it comes after [1/4] FROM docker.io/library/busybox")
    assert told.why("echo 2").endswith(" now, and came after RUN echo 1 before")
    assert told.step("echo 3")["because_of"] == told.step("echo 2")["name"]


def test_a_new_stage(built: Workbench) -> None:
    text = PLAIN.replace("FROM busybox", "FROM busybox AS base")
    built.dockerfile(f"{text}    FROM base AS more\n    RUN echo more\n")
    told = explained(built)
    assert told.ran == ["[more 1/1] RUN echo more"]
    assert told.why("more") == "the stage more never ran before: no recorded build has it"


def test_a_shell_a_user_and_a_folder(bench: Workbench) -> None:
    text = 'FROM busybox\nSHELL ["/bin/sh", "-c"]\nUSER root\nRUN echo 1\n'
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace('"-c"', '"-ec"'))
    assert explained(bench).why("RUN") == 'SHELL (line 2) went from "/bin/sh -c" to "/bin/sh -ec"'
    bench.dockerfile(text.replace("USER root", "USER nobody"))
    assert explained(bench).why("RUN") == 'USER (line 3) went from "root" to "nobody"'
    bench.dockerfile(text.replace("USER root", "USER root\nWORKDIR /tmp"))
    assert 'WORKDIR (line 4) went from "/" to "/tmp"' in explained(bench).step("RUN")["also"]


def test_a_variable_of_the_dockerfile(bench: Workbench) -> None:
    text = "FROM busybox\nARG LEVEL=1\nENV MODE=dev KIND=$LEVEL\nRUN echo $MODE\n"
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace("dev", "production"))
    assert explained(bench).why("RUN") == 'ENV MODE (line 3) went from "dev" to "production"'
    bench.dockerfile(text.replace("LEVEL=1", "LEVEL=2"))
    told = explained(bench)
    assert told.why("RUN") == 'ARG LEVEL (line 2) went from "1" to "2"'
    bench.dockerfile(text.replace("LEVEL=1", "LEVEL=2").replace("MODE=dev", "MODE=dev MORE=yes"))
    assert explained(bench).why("RUN") == 'ENV MORE (line 3) is now "yes", and was not given before'


def test_a_mount(bench: Workbench) -> None:
    text = "FROM busybox\nARG SIZE=1000000\nRUN --mount=type=tmpfs,target=/t,size=$SIZE echo 1\n"
    bench.dockerfile(text)
    bench.build()
    told = explained(bench, "--build-arg=SIZE=2000000")
    assert told.why("RUN") == 'build argument SIZE went from "1000000" to "2000000"'
    assert "the tmpfs mount at /t changed: size from 1000000 to 2000000" in told.step("RUN")["also"]


def test_an_inline_document(bench: Workbench) -> None:
    text = "FROM busybox\nCOPY <<EOF /file\nhello\nEOF\n"
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace("hello", "goodbye"))
    told = explained(bench)
    assert told.why("COPY") == "its own text changed"
    assert told.step("COPY")["details"]["diff"] == [" COPY <<EOF /file", "-hello", "+goodbye", " EOF"]
    assert told.step("COPY")["also"] == []


# --- what the build is given ------------------------------------------------------------------------------------------


def test_a_build_argument(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nARG V=0\nRUN echo $V\n")
    bench.build("--build-arg=V=1")
    build = bench.build("--build-arg=V=2")
    assert explain(bench).why("RUN") == 'build argument V went from "1" to "2"'
    assert 'build argument V went from "1" to "2"' in missed(build.stderr).values()


def test_a_build_argument_of_a_copy_and_of_a_base_image(bench: Workbench) -> None:
    bench.dockerfile("ARG BASE=busybox\nFROM $BASE\nARG WHAT=one\nCOPY $WHAT /file\n")
    bench.write("one", "1")
    bench.write("two", "2")
    bench.build()
    told = explained(bench, "--build-arg=WHAT=two")
    assert told.why("COPY") == 'build argument WHAT is now "two", and was not given before'
    bench.build()
    told = explained(bench, "--build-arg=BASE=scratch")
    assert told.why("COPY") == "it starts from other files than before"


def test_a_build_argument_that_looks_like_a_secret(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nARG API_TOKEN\nRUN echo $API_TOKEN > /dev/null\n")
    bench.build("--build-arg=API_TOKEN=first-value-of-it")
    told = explained(bench, "--build-arg=API_TOKEN=second-value-of-it")
    assert told.why("RUN") == "build argument API_TOKEN has another value (which is not recorded)"
    for command in (["history", "export"], ["history", "inspect", "--format=json"], ["explain", "--json"]):
        assert "value-of-it" not in bench.stagewright.run(*command).stdout


def test_a_network(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1\n")
    bench.build()
    assert explained(bench, "--network=none").why("RUN") == "the network went from default to none"
    told = explained(bench, "--network=none", "--add-host=db:1.2.3.4")
    assert told.why("RUN") == '--add-host went from none to [["db", "1.2.3.4"]]'


def test_a_date(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY one /\n")
    bench.write("one")
    bench.build("--build-arg=SOURCE_DATE_EPOCH=1")
    told = explained(bench, env={"SOURCE_DATE_EPOCH": "2"})
    assert told.why("COPY") == 'SOURCE_DATE_EPOCH went from "1" to "2"'


def test_no_cache(built: Workbench) -> None:
    told = explained(built, "--no-cache")
    assert told.why("COPY") == "--no-cache was given"
    assert {step["kind"] for step in told.data["steps"]} == {"no-cache"}


def test_no_cache_of_a_stage(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox AS one\nRUN echo 1\nFROM one\nRUN echo 2\n")
    bench.build()
    told = explained(bench, "--no-cache-filter=one")
    assert told.why("echo 1") == "--no-cache-filter names its stage one"
    assert told.why("echo 2") == "its parent step [one 2/2] RUN echo 1 ran again"


# --- base images and other sources ------------------------------------------------------------------------------------


def make_base(bench: Workbench, text: str, *flags: str) -> None:
    """An image of the store, base:1, with a file of this text."""
    folder = bench.scratch / "base"
    folder.mkdir(exist_ok=True)
    (folder / "text").write_text(text)
    (folder / "Dockerfile").write_text(f"FROM busybox\nCOPY text /\nENV TEXT={text}\n")
    bench.stagewright.build(folder, "-t", "base:1", *flags)


def test_a_base_image_that_moved(bench: Workbench) -> None:
    make_base(bench, "one")
    bench.dockerfile("FROM base:1\nRUN cat /text\nRUN echo 2\n")
    bench.build()
    make_base(bench, "two")
    build = bench.build()
    told = explain(bench)
    sentence = told.why("FROM")
    assert sentence.startswith("the base image base:1 moved from sha256:") and " to sha256:" in sentence
    assert told.why("RUN cat") == "its base image base:1 is not what it was"
    assert told.step("RUN cat")["also"] == []
    for step in ("RUN cat", "echo 2"):
        assert told.step(step)["because_of"] == told.step("FROM")["name"]
    assert "base image base:1 moved" in missed(build.stderr).values()


def test_another_base_image(bench: Workbench) -> None:
    make_base(bench, "one")
    bench.dockerfile("FROM busybox\nRUN echo 1\n")
    bench.build()
    bench.dockerfile("FROM base:1\nRUN echo 1\n")
    told = explained(bench)
    assert told.why("FROM") == "the base image went from busybox:latest to base:1"
    assert told.why("RUN") == "its base image base:1 is not what it was"


def test_a_base_image_by_a_build_argument(bench: Workbench) -> None:
    make_base(bench, "one")
    bench.dockerfile("ARG BASE=busybox\nFROM $BASE\nRUN echo 1\n")
    bench.build("--build-arg=BASE=busybox")
    told = explained(bench, "--build-arg=BASE=base:1")
    assert told.why("FROM") == 'build argument BASE went from "busybox" to "base:1"'


def test_what_is_behind_a_url(bench: Workbench, server: ScriptedServer) -> None:
    url = serve(server, "file", b"one", etag='"1"')
    bench.dockerfile(f"FROM scratch\nADD {url} /\n")
    bench.build()
    serve(server, "file", b"two", etag='"2"')
    told = explained(bench)
    assert told.why("ADD").startswith(f"what is behind {url} changed from sha256:")


def test_a_branch_that_moved(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    repository = Repository.create(tmp_path / "served" / "r.git")
    first = repository.commit({"file": "1"})
    with git_daemon(repository.folder.parent) as address:
        bench.dockerfile(f"FROM scratch\nADD git://{address}/r.git#main /\n")
        bench.build()
        second = repository.commit({"file": "2"})
        told = explained(bench)
    assert told.why("ADD").endswith(f"moved from commit {first} to {second}")


def test_another_platform(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nWORKDIR /app\n")
    bench.build()
    told = explained(bench, "--platform=linux/arm64")
    assert told.why("WORKDIR").startswith("the platform went from linux/amd64")


# --- a key that is known, and no result -------------------------------------------------------------------------------


def test_a_step_that_failed_before_and_what_came_after(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/c test -e /c/x || { touch /c/x; false; }
        RUN echo 2
    """)
    bench.fail()
    told = explained(bench)
    assert told.why("type=cache") == "it failed in build 1"
    assert told.why("echo 2") == "build 1 ended before it was done"


def test_pruned(built: Workbench) -> None:
    built.stagewright.run("prune", "--all", "--force")
    told = explained(built)
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
    assert told.why("RUN echo") == "its result of build 1 was lost: the store does not have it any more"


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
    assert copy["reason"] == "it runs if what it takes from stage tools comes out otherwise"
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
    assert told.kind("RUN echo more") == "not-imported"
    assert told.why("RUN echo more") == f"the cache source {cache} did not give it"
