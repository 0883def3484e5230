"""What is said of steps is true, each thing once, and nothing else is said."""

from __future__ import annotations

import subprocess

from explanations import explain, explained
from harness import PROGRAM
from tars import tar_of
from workbench import Workbench


def test_what_was_said_of_the_root_is_not_said_again(bench: Workbench) -> None:
    text = "FROM busybox\nENV A=1\nRUN echo 1\nENV B=2\nRUN echo 2\nWORKDIR /x\nUSER 1\nRUN echo $A\n"
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace("A=1", "A=9").replace("USER 1", "USER 2"))
    told = explained(bench)
    assert told.why("echo 1") == 'ENV A (line 2) went from "1" to "9"'
    assert [told.also(step) for step in ("echo 1", "echo 2", "WORKDIR")] == [[], [], []]
    assert told.also("echo 9") == ['USER (line 7) went from "1" to "2"']


def test_the_own_text_of_what_stands_on_another_one_is_shown(bench: Workbench) -> None:
    text = "FROM busybox\nRUN echo 1\nRUN echo 2\n"
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace("echo 1", "echo one").replace("echo 2", "echo two"))
    told = explained(bench)
    (also,) = told.step("echo two")["also"]
    assert also["details"] == {"diff": ["-RUN echo 2", "+RUN echo two"]}
    shown = bench.stagewright.run("explain").stdout
    assert "        [3/3] RUN echo two\n            also: its own text changed\n                -RUN echo 2\n" in shown


def test_a_file_that_the_ignore_file_hides_is_not_called_removed(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY . /\n")
    for name in ("a", "b", "c"):
        bench.write(name)
    bench.write(".dockerignore", "c\n")
    bench.build()
    bench.write(".dockerignore", "b\n")
    told = explained(bench)
    assert (told.kind("COPY"), told.why("COPY")) == ("ignored", "the ignore file hides b now")
    assert told.also("COPY") == ["the ignore file does not hide c any more", ".dockerignore changed"]


def test_what_another_text_reads_is_not_called_added(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY a /x/\n")
    bench.write("a", "1")
    bench.write("b", "2")
    bench.build()
    bench.dockerfile("FROM scratch\nCOPY b /x/\n")
    assert (explained(bench).why("COPY"), explain(bench).also("COPY")) == ("its own text changed", [])
    bench.dockerfile("FROM scratch\nCOPY a b /x/\n")
    bench.write("b", "3")
    assert explained(bench).also("COPY") == ["b changed"]


def test_what_another_text_takes_of_a_stage_is_not_called_added(bench: Workbench) -> None:
    text = "FROM busybox AS one\nRUN echo 1 > /a; echo 2 > /b\nFROM scratch\nCOPY --from=one /a /\n"
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace("/a /\n", "/b /\n"))
    assert (explained(bench).why("COPY"), explain(bench).also("COPY")) == ("its own text changed", [])


def test_a_file_that_became_a_folder_or_a_link(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY . /\n")
    bench.write(".dockerignore", "Dockerfile\n")
    bench.write("a")
    bench.write("b")
    bench.build()
    for name in ("a", "b"):
        (bench.context / name).unlink()
    bench.write("a/x")
    (bench.context / "b").symlink_to("a")
    why = "a went from a file to a folder, b went from a file to a link and a/x was added"
    assert explained(bench).why("COPY") == why


def test_names_that_break_lines_do_not(bench: Workbench) -> None:
    bench.dockerfile("FROM scratch\nCOPY . /\n")
    bench.build()
    bench.write("a\nb\x1b[31m")
    assert explained(bench).why("COPY") == r"a\nb\x1b[31m was added"


def test_a_bind_mount_of_the_context_before_it_runs(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN --mount=type=bind,source=s,target=/s cat /s/a\nRUN echo 2\n")
    bench.write("s/a", "1")
    bench.build()
    bench.write("s/a", "2")
    told = explain(bench, "--dry-run", bench.context)
    assert (told.step("cat")["state"], told.why("cat")) == ("would run", "s/a changed")
    assert len(told.ran) == 2


def test_a_bind_mount_of_a_named_context(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN --mount=type=bind,from=other,target=/s cat /s/a\n")
    folder = bench.scratch / "other"
    folder.mkdir()
    (folder / "a").write_text("1")
    bench.build(f"--build-context=other={folder}")
    (folder / "a").write_text("2")
    told = explained(bench, f"--build-context=other={folder}")
    assert (len(told.ran), told.why("RUN")) == (1, "a changed in the named context other")


def test_a_stage_that_only_another_target_needs(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox AS one\nRUN echo 1\nFROM one AS two\nRUN echo 2\nFROM one AS three\nRUN echo 3\n")
    bench.build("--target=two")
    told = explained(bench, "--target=three")
    assert told.why("echo 3") == "the stage three never ran before: no recorded build has it"


def test_a_stage_of_another_file_that_only_another_target_needs(bench: Workbench) -> None:
    text = "FROM busybox AS two\nRUN echo 2\nFROM busybox AS three\nRUN echo 3\nFROM busybox\nRUN echo 4\n"
    bench.dockerfile(text)
    bench.build("--target=two")
    bench.dockerfile(f"{text}RUN echo more\n")
    assert explained(bench, "--target=three").kind("echo 3") == "new-stage"


def test_an_argument_that_looks_like_a_secret_in_the_name_of_a_file(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nARG API_TOKEN\nCOPY file-$API_TOKEN /\n")
    for value in ("first-value", "second-value"):
        bench.write(f"file-{value}")
    bench.build("--build-arg=API_TOKEN=first-value")
    told = explained(bench, "--build-arg=API_TOKEN=second-value")
    assert told.why("COPY") == "build argument API_TOKEN has another value (which is not recorded)"
    assert told.also("COPY") == []
    assert "second-value" not in bench.stagewright.run("history", "export").stdout


def test_an_argument_that_goes_from_its_default(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nARG V=1\nRUN echo $V\nCOPY file-$V /\n")
    bench.write("file-1")
    bench.write("file-2")
    bench.build()
    told = explained(bench, "--build-arg=V=2")
    assert told.why("RUN") == 'build argument V went from "1" to "2"'
    assert told.also("COPY") == []


def test_an_argument_that_goes_back_to_its_default(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nARG V=1\nCOPY file-$V /\n")
    bench.write("file-1")
    bench.write("file-2")
    bench.build("--build-arg=V=2")
    assert explained(bench).why("COPY") == 'build argument V went from "2" to "1"'


def test_a_base_image_is_named_without_its_digest(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo 1\n")
    bench.build()
    bench.dockerfile("FROM busybox\nRUN echo new\nRUN echo 1\n")
    assert explained(bench).why("echo new").endswith("it comes after [1/3] FROM docker.io/library/busybox:latest")


def test_an_archive_on_standard_input(bench: Workbench) -> None:
    files = {"Dockerfile": "FROM scratch\nCOPY src /\n", "src/a": "1", "src/b": "1"}
    tool = bench.stagewright
    command = [*PROGRAM, "build", "--root", tool.root, "--config", tool.config, "-o", "type=cacheonly", "-"]
    for text in ("1", "2"):
        subprocess.run(command, input=tar_of({**files, "src/a": text}), check=True, capture_output=True)
    told = explain(bench)
    assert told.why("COPY") == "src/a changed in the archive on standard input"
