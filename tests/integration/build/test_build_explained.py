"""Why steps ran: a test for each reason that there is, with the sentence that is said of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from explanations import PLAIN, as_documented, build_plain, examples, explain, explained, missed
from git_servers import Repository, git_daemon
from registry_servers import ScriptedServer
from test_build_remote import serve
from workbench import Workbench

from stagewright.history.causes import Kind


@pytest.fixture
def built(bench: Workbench) -> Workbench:
    """A context that was built."""
    return build_plain(bench)


def test_a_first_build_has_nothing_to_compare_with(built: Workbench) -> None:
    told = explain(built)
    assert {step["kind"] for step in told.data["steps"]} == {"first"}
    assert as_documented(told, "RUN cat", "first")
    assert told.data["compared_with"] is None


def test_the_document_has_each_reason_and_a_test_shows_it() -> None:
    documented = list(examples())
    assert documented == list(get_args(Kind))
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_build_explained*.py"))
    assert set(re.findall(r'as_documented\(.+, "([\w-]+)"\)', tests)) == set(documented)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_changed_file(built: Workbench) -> None:
    built.write("one", "1")
    build = built.build()
    told = explain(built)
    assert as_documented(told, "COPY", "files")
    assert told.why("COPY") == "one changed"
    assert told.step("COPY")["details"]["files"] == [{"path": "one", "kind": "changed"}]
    assert missed(build.stderr)["[3/5] COPY . ."] == "one changed"


def test_what_stands_on_a_step_that_ran(built: Workbench) -> None:
    built.write("one", "1")
    build = built.build()
    told = explain(built)
    assert as_documented(told, "RUN cat", "parent")
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
    assert as_documented(told, "COPY", "ignored")
    assert told.why("COPY") == "the ignore file hides a/b and 3 more now"


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
    assert as_documented(told, "COPY --from=tools /out", "copied")
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
    assert (len(told.ran), told.why("RUN")) == (1, "one changed")


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
    assert as_documented(told, "COPY", "named-context")
    assert told.why("COPY") == f"the named context other went from {first} to {second}"


# --- the Dockerfile ---------------------------------------------------------------------------------------------------


def test_another_text(built: Workbench) -> None:
    built.dockerfile(PLAIN.replace("cat one > two", "cat one > three"))
    told = explained(built)
    assert as_documented(told, "RUN cat", "text")
    assert told.step("RUN cat")["details"]["diff"] == ["-RUN cat one > two", "+RUN cat one > three"]
    assert "        -RUN cat one > two\n        +RUN cat one > three\n" in built.stagewright.run("explain").stdout


def test_an_inserted_instruction(built: Workbench) -> None:
    built.dockerfile(PLAIN.replace("COPY", "RUN echo new\n    COPY"))
    told = explained(built)
    assert as_documented(told, "RUN echo new", "new")
    assert told.why("RUN echo new") == "this instruction is new: it comes after [2/6] WORKDIR /app"
    assert as_documented(told, "COPY", "inserted")
    assert told.why("COPY") == "the instruction before it is new: [3/6] RUN echo new"
    assert told.why("RUN cat") == "its parent step [4/6] COPY . . ran again"
    assert told.step("RUN echo done")["because_of"] == "[3/6] RUN echo new"


def test_a_removed_instruction(built: Workbench) -> None:
    built.dockerfile(PLAIN.replace("RUN cat one > two\n", ""))
    assert as_documented(explained(built), "RUN echo", "removed")


def test_another_order(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1\nRUN echo 2\nRUN echo 3\n")
    bench.build()
    bench.dockerfile("FROM busybox\nRUN echo 2\nRUN echo 1\nRUN echo 3\n")
    told = explained(bench)
    assert as_documented(told, "echo 2", "reordered")
    assert told.why("echo 2").startswith("it comes after [1/4] FROM docker.io/library/busybox")
    assert told.why("echo 2").endswith(" now, and came after RUN echo 1 before")
    assert told.step("echo 3")["because_of"] == told.step("echo 2")["name"]


def test_a_new_stage(built: Workbench) -> None:
    text = PLAIN.replace("FROM busybox", "FROM busybox AS base")
    built.dockerfile(f"{text}    FROM base AS more\n    RUN echo more\n")
    told = explained(built)
    assert told.ran == ["[more 1/1] RUN echo more"]
    assert as_documented(told, "more", "new-stage")


def test_stages_without_a_name_are_known_by_what_they_do(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1\nFROM busybox\nRUN echo 2 > /two\nRUN echo 3\n")
    bench.build()
    bench.dockerfile("""
        FROM busybox
        RUN echo new > /new
        FROM busybox
        RUN echo 1
        FROM busybox
        RUN echo 2 > /two
        COPY --from=0 /new /
        RUN echo 3
    """)
    told = explained(bench)
    assert [name.partition("]")[0] for name in told.ran] == ["[stage-0 2/2", "[stage-2 3/4", "[stage-2 4/4"]
    assert told.kind("echo new") == "new-stage"
    assert told.why("COPY") == "this instruction is new: it comes after [stage-2 2/4] RUN echo 2 > /two"
    assert told.kind("echo 3") == "inserted"


def test_a_shell_a_user_and_a_folder(bench: Workbench) -> None:
    text = 'FROM busybox\nSHELL ["/bin/sh", "-c"]\nUSER root\nRUN echo 1\n'
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace('"-c"', '"-ec"'))
    assert as_documented(explained(bench), "RUN", "shell")
    bench.dockerfile(text.replace("USER root", "USER nobody"))
    assert as_documented(explained(bench), "RUN", "user")
    bench.dockerfile(text.replace("USER root", "USER root\nWORKDIR /tmp"))
    assert 'WORKDIR (line 4) went from "/" to "/tmp"' in explained(bench).also("RUN")


def test_a_variable_of_the_dockerfile(bench: Workbench) -> None:
    text = "FROM busybox\nARG LEVEL=1\nENV MODE=dev KIND=$LEVEL\nRUN echo $MODE\n"
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace("dev", "production"))
    assert as_documented(explained(bench), "RUN", "env")
    bench.dockerfile(text.replace("LEVEL=1", "LEVEL=2"))
    assert as_documented(explained(bench), "RUN", "arg")
    bench.dockerfile(text.replace("LEVEL=1", "LEVEL=2").replace("MODE=dev", "MODE=dev MORE=yes"))
    assert explained(bench).why("RUN") == 'ENV MORE (line 3) is now "yes", and was not given before'


def test_the_order_of_variables(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nENV A=1 B=2\nRUN echo 1\n")
    bench.build()
    bench.dockerfile("FROM busybox\nENV B=2 A=1\nRUN echo 1\n")
    assert explained(bench).why("RUN") == "its variables are set in another order"


def test_a_variable_of_the_stage_below(bench: Workbench) -> None:
    text = "ARG BASE=one\nFROM busybox AS one\nENV MODE=dev\nFROM {}\nRUN echo $MODE\n"
    bench.dockerfile(text.format("$BASE"))
    bench.build()
    bench.dockerfile(text.format("$BASE").replace("dev", "production"))
    assert explained(bench).why("RUN") == 'ENV MODE (line 3) went from "dev" to "production"'
    # Which stage it is, is not worked out here: then the line is not told.
    bench.dockerfile(text.format("${BASE:-one}"))
    bench.build()
    bench.dockerfile(text.format("${BASE:-one}").replace("dev", "test"))
    assert explained(bench).why("RUN") == 'the variable MODE went from "dev" to "test"'


def test_variables_of_a_copy(bench: Workbench) -> None:
    text = "FROM busybox\nARG NUMBER=1\nENV OTHER=a NAME=file-$NUMBER\nCOPY $NAME /file\n"
    for number in (1, 2, 3):
        bench.write(f"file-{number}")
    bench.dockerfile(text)
    bench.build()
    told = explained(bench, "--build-arg=NUMBER=2")
    assert told.why("COPY") == 'build argument NUMBER went from "1" to "2"'
    bench.dockerfile(text.replace("NUMBER=1", "NUMBER=3"))
    assert explained(bench).why("COPY") == 'ARG NUMBER (line 2) went from "1" to "3"'
    bench.dockerfile(text.replace("OTHER=a NAME=file-$NUMBER", "OTHER=b NAME=./file-$NUMBER"))
    assert explained(bench).why("COPY") == 'ENV NAME (line 3) went from "file-$NUMBER" to "./file-$NUMBER"'


def test_the_folder_of_a_linked_copy(bench: Workbench) -> None:
    text = "FROM busybox\nWORKDIR /tmp\nCOPY --link one here/\n"
    bench.write("one")
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace("/tmp", "/var"))
    told = explained(bench)
    assert as_documented(told, "[3/3] COPY", "workdir")
    assert told.why("LINK COPY") == "its parent step [2/3] WORKDIR /var ran again"
    assert told.also("LINK COPY") == ["its parent step [3/3] COPY --link one here/ ran again"]


def test_a_mount(bench: Workbench) -> None:
    text = "FROM busybox\nARG SIZE=1000000\nRUN --mount=type=tmpfs,target=/t,size=$SIZE echo 1\n"
    bench.dockerfile(text)
    bench.build()
    told = explained(bench, "--build-arg=SIZE=2000000")
    assert told.why("RUN") == 'build argument SIZE went from "1000000" to "2000000"'
    assert told.also("RUN") == []


def test_an_inline_document(bench: Workbench) -> None:
    text = "FROM busybox\nCOPY <<EOF /file\nhello\nEOF\n"
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace("hello", "goodbye"))
    told = explained(bench)
    assert told.why("COPY") == "its own text changed"
    assert told.step("COPY")["details"]["diff"] == [" COPY <<EOF /file", "-hello", "+goodbye", " EOF"]
    assert told.also("COPY") == []


# --- what the build is given ------------------------------------------------------------------------------------------


def test_a_build_argument(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nARG V=0\nRUN echo $V\n")
    bench.build("--build-arg=V=1")
    build = bench.build("--build-arg=V=2")
    assert as_documented(explain(bench), "RUN", "build-arg")
    assert 'build argument V went from "1" to "2"' in missed(build.stderr).values()


def test_a_build_argument_of_a_copy_and_of_a_base_image(bench: Workbench) -> None:
    bench.dockerfile("ARG BASE=busybox\nFROM $BASE\nARG WHAT=one\nCOPY $WHAT /file\n")
    bench.write("one", "1")
    bench.write("two", "2")
    bench.build()
    told = explained(bench, "--build-arg=WHAT=two")
    assert told.why("COPY") == 'build argument WHAT went from "one" to "two"'
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
    assert as_documented(explained(bench, "--network=none"), "RUN", "option")
    told = explained(bench, "--network=none", "--add-host=db:1.2.3.4")
    assert told.why("RUN") == "--add-host went from none to db:1.2.3.4"


def test_limits(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1\n")
    bench.build()
    told = explained(bench, "--ulimit=nofile=100:200", "--ulimit=core=0")
    assert told.why("RUN") == "--ulimit went from none to nofile=100:200, core=0:0"
    told = explained(bench, "--shm-size=1m")
    assert told.why("RUN") == "--ulimit went from nofile=100:200, core=0:0 to none"
    assert told.also("RUN") == ["--shm-size went from the default to 1048576"]


def test_an_argument_of_a_trigger(bench: Workbench) -> None:
    folder = bench.scratch / "base"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM busybox\nONBUILD ARG V=1\nONBUILD RUN echo $V\n")
    bench.stagewright.build(folder, "-t", "base:1")
    bench.dockerfile("FROM base:1\n")
    bench.build("--build-arg=V=2")
    told = explained(bench, "--build-arg=V=3")
    assert (told.why("RUN"), told.also("RUN")) == ('build argument V went from "2" to "3"', [])


def test_a_date(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY one /\n")
    bench.write("one")
    bench.build("--build-arg=SOURCE_DATE_EPOCH=1")
    told = explained(bench, env={"SOURCE_DATE_EPOCH": "2"})
    assert told.why("COPY") == 'SOURCE_DATE_EPOCH went from "1" to "2"'


def test_no_cache(built: Workbench) -> None:
    told = explained(built, "--no-cache")
    assert as_documented(told, "COPY", "no-cache")
    together = "\n[3/5] COPY . .\n[4/5] RUN cat one > two\n[5/5] RUN echo done\n    --no-cache was given\n"
    assert built.stagewright.run("explain").stdout.endswith(together)
    assert {step["kind"] for step in told.data["steps"]} == {"no-cache"}


def test_no_cache_of_a_stage(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox AS one\nRUN echo 1\nFROM one\nRUN echo 2\n")
    bench.build()
    told = explained(bench, "--no-cache-filter=one")
    assert as_documented(told, "echo 1", "no-cache-filter")
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
    assert as_documented(told, "FROM", "base-moved")
    assert told.why("RUN cat") == "its base image base:1 is not what it was"
    assert told.also("RUN cat") == []
    for step in ("RUN cat", "echo 2"):
        assert told.step(step)["because_of"] == told.step("FROM")["name"]
    assert "base image base:1 moved" in missed(build.stderr).values()


def test_another_base_image(bench: Workbench) -> None:
    make_base(bench, "one")
    bench.dockerfile("FROM busybox\nRUN echo 1\n")
    bench.build()
    bench.dockerfile("FROM base:1\nRUN echo 1\n")
    told = explained(bench)
    assert as_documented(told, "FROM", "base-changed")
    assert told.why("RUN") == "its base image base:1 is not what it was"


def test_a_new_base_image(bench: Workbench) -> None:
    make_base(bench, "one")
    bench.dockerfile("FROM busybox\nRUN echo 1\n")
    bench.build()
    bench.dockerfile("FROM base:1 AS texts\nFROM busybox\nRUN echo 1\nCOPY --from=texts /text /\n")
    told = explained(bench)
    assert as_documented(told, "FROM", "new-source")
    assert told.why("COPY") == "this instruction is new: it comes after [stage-1 2/3] RUN echo 1"


def test_an_image_that_is_copied_from(bench: Workbench) -> None:
    make_base(bench, "one")
    bench.dockerfile("FROM busybox\nCOPY --from=base:1 /text /\n")
    bench.build()
    make_base(bench, "two")
    told = explained(bench)
    assert told.kind("FROM") == "base-moved"
    assert told.why("COPY") == "what it takes from the image base:1 is not what it was: /text changed"
    assert told.step("COPY")["because_of"] == told.step("FROM")["name"]


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
    assert as_documented(told, "ADD", "url-changed")
    serve(server, "file", b"two", modified="Thu, 22 Oct 2015 07:28:00 GMT")
    assert explained(bench).why("ADD") == f"the server gives {url} another date"


def test_another_url(bench: Workbench, server: ScriptedServer) -> None:
    first, second = (serve(server, name, name.encode()) for name in ("first", "second"))
    bench.dockerfile(f"FROM scratch\nADD {first} /\n")
    bench.build()
    bench.dockerfile(f"FROM scratch\nADD {second} /\n")
    told = explained(bench)
    assert (told.kind("ADD"), told.also("ADD")) == ("text", [])
    bench.dockerfile("FROM scratch\nCOPY --from=site . /\n")
    bench.build(f"--build-context=site={first}")
    told = explained(bench, f"--build-context=site={second}")
    assert told.why("COPY") == f"the named context site went from {first} to {second}"


def test_a_branch_that_moved(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    repository = Repository.create(tmp_path / "served" / "r.git")
    first = repository.commit({"file": "1"})
    with git_daemon(repository.folder.parent) as address:
        bench.dockerfile(f"FROM scratch\nADD git://{address}/r.git#main /\n")
        bench.build()
        second = repository.commit({"file": "2"})
        told = explained(bench)
    assert as_documented(told, "ADD", "git-moved")
    assert told.why("ADD").endswith(f"moved from commit {first} to {second}")


def test_another_branch_for_the_context(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    repository = Repository.create(tmp_path / "served" / "r.git")
    repository.commit({"Dockerfile": "FROM scratch\nCOPY file /\n", "file": "1"})
    repository.git("checkout", "--quiet", "-b", "other")
    repository.commit({"file": "2"})
    with git_daemon(repository.folder.parent) as address:
        url = f"git://{address}/r.git"
        for branch in ("main", "other"):
            bench.stagewright.build(f"{url}#{branch}", "-o", "type=cacheonly")
    assert as_documented(explain(bench), "COPY", "source")


def test_another_platform(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nWORKDIR /app\n")
    bench.build()
    told = explained(bench, "--platform=linux/arm64")
    assert as_documented(told, "WORKDIR", "platform")
