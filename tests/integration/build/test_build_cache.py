"""The build cache: what reruns after which change, and what does not."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from harness import Build, Stagewright, StandinImages, output_of
from workbench import Workbench, wait_for

APP = """
    FROM busybox
    WORKDIR /app
    COPY requirements.txt .
    RUN echo installing && cp requirements.txt installed
    COPY app.py .
    RUN echo compiling && cp app.py compiled
"""
COPY_REQUIREMENTS, INSTALL, COPY_CODE, COMPILE = (
    "COPY requirements.txt",
    "RUN echo inst",
    "COPY app.py",
    "RUN echo comp",
)


def reran(build: Build, *texts: str) -> list[str]:
    """Those of the texts whose step was not cached."""
    return [text for text in texts if not build.step(text).cached]


def app(bench: Workbench) -> Workbench:
    """A context with the application, built once."""
    bench.dockerfile(APP)
    bench.write("requirements.txt", "a==1\n")
    bench.write("app.py", "print(1)\n")
    bench.build()
    return bench


def test_nothing_reruns_without_a_change(bench: Workbench) -> None:
    build = app(bench).build()
    assert build.ran == []
    assert all(v.cached for v in build.vertices.values() if v.name.startswith("[") and "internal" not in v.name)


def test_a_touched_file_is_a_hit(bench: Workbench) -> None:
    app(bench)
    for path in bench.context.iterdir():
        os.utime(path, (1, 1))
    assert bench.build().ran == []


def test_a_rewritten_file_of_the_same_bytes_is_a_hit(bench: Workbench) -> None:
    app(bench)
    (bench.context / "app.py").unlink()
    bench.write("app.py", "print(1)\n")
    assert bench.build().ran == []


def test_another_copy_of_the_context_is_a_hit(bench: Workbench) -> None:
    app(bench)
    elsewhere = bench.scratch / "elsewhere"
    output_of("cp", "-r", bench.context, elsewhere)
    assert bench.stagewright.build(elsewhere, "-o", "type=cacheonly").ran == []


def test_a_change_of_the_same_size_within_a_clock_tick_is_seen(bench: Workbench) -> None:
    app(bench)
    path = bench.context / "app.py"
    before = path.stat()
    path.write_text("print(2)\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reran(bench.build(), INSTALL, COPY_CODE, COMPILE) == [COPY_CODE, COMPILE]


def test_changed_code_reruns_no_installation(bench: Workbench) -> None:
    app(bench)
    bench.write("app.py", "print(2)\n")
    assert reran(bench.build(), COPY_REQUIREMENTS, INSTALL, COPY_CODE, COMPILE) == [COPY_CODE, COMPILE]


def test_a_changed_mode_is_a_change(bench: Workbench) -> None:
    app(bench)
    (bench.context / "app.py").chmod(0o755)
    assert reran(bench.build(), INSTALL, COPY_CODE) == [COPY_CODE]


def test_going_back_is_a_hit(bench: Workbench) -> None:
    app(bench)
    bench.write("app.py", "print(2)\n")
    bench.build()
    bench.write("app.py", "print(1)\n")
    assert bench.build().ran == []


def test_files_that_no_step_reads_do_not_count(bench: Workbench) -> None:
    app(bench)
    bench.write("notes.txt")
    bench.write("deep/er/file")
    assert bench.build().ran == []


def test_a_renamed_stage_and_comments_do_not_count(bench: Workbench) -> None:
    app(bench)
    bench.dockerfile(APP.replace("FROM busybox", "# a comment\n    FROM busybox AS renamed"))
    assert bench.build().ran == []


def test_arguments_count_where_a_step_can_see_them(bench: Workbench) -> None:
    bench.dockerfile("""
        ARG GLOBAL=1
        FROM busybox
        RUN echo first
        ARG SEEN=1
        RUN echo second
        FROM busybox AS other
        RUN echo third
        ARG UNSET
        RUN echo fourth
        COPY --from=0 /etc/group /group
    """)
    steps = ("echo first", "echo second", "echo third", "echo fourth")
    bench.build()
    assert reran(bench.build("--build-arg", "SEEN=2"), *steps) == ["echo second"]
    assert reran(bench.build("--build-arg", "SEEN=2", "--build-arg", "GLOBAL=2"), *steps) == []
    assert reran(bench.build("--build-arg", "UNSET=2"), *steps) == ["echo fourth"]
    assert reran(bench.build("--build-arg", "UNKNOWN=2"), *steps) == []
    assert reran(bench.build("--build-arg", "HTTP_PROXY=http://127.0.0.1:9"), *steps) == []


def test_environment_and_metadata(bench: Workbench) -> None:
    text = "FROM busybox\nLABEL a=1\nENV A=1\nRUN echo step\nCMD one\n"
    bench.dockerfile(text)
    bench.build()
    bench.dockerfile(text.replace("a=1", "a=2").replace("CMD one", "CMD two"))
    assert bench.build().ran == []
    bench.dockerfile(text.replace("A=1", "A=2"))
    assert reran(bench.build(), "RUN echo step") == ["RUN echo step"]


def test_a_moved_base_tag(
    registry: str, stagewright: Stagewright, tmp_path: Path, standin_images: StandinImages
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    base = Workbench(Stagewright(stagewright.root, standin_images.config), context)
    image = f"{registry}/moved/base:1"
    stagewright.config.write_text(f'[registry."{registry}"]\nhttp = true\n')
    user = Workbench(stagewright, tmp_path / "user")
    user.dockerfile(f"FROM {image}\nRUN cat /version > /seen\n")
    results = []
    for version in ("1", "1", "2", "1"):
        base.dockerfile(f"FROM busybox\nRUN echo {version} > /version\n")
        base.build("-o", f"type=image,name={image},push=true,store=false,registry.insecure=true")
        results.append((user.build().step("RUN cat").cached, user.files().text("/seen")))
    assert results == [(False, "1\n"), (True, "1\n"), (False, "2\n"), (True, "1\n")]


def test_a_rebuilt_stage_of_the_same_bytes_leaves_its_users_cached(bench: Workbench) -> None:
    text = """
        FROM busybox AS builder
        COPY source /source
        RUN head -c 4 /source > /built && date > /unrelated
        FROM busybox
        COPY --from=builder /built /built
        RUN echo after > /after
        RUN --mount=from=builder,source=/built,target=/mnt cat /mnt > /bound
    """
    bench.dockerfile(text)
    bench.write("source", "same, and a tail")
    bench.build()
    bench.write("source", "same, and another tail")
    users = ("COPY --from", "echo after", "/mnt")
    build = bench.build()
    assert reran(build, "head -c", *users) == ["head -c"]
    bench.write("source", "other, and a tail")
    assert reran(bench.build(), "head -c", *users) == ["head -c", *users]


def test_no_cache(bench: Workbench) -> None:
    app(bench)
    assert reran(bench.build("--no-cache"), INSTALL, COPY_CODE, COMPILE) == [INSTALL, COPY_CODE, COMPILE]
    assert bench.build().ran == []


def test_no_cache_for_some_stages(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox AS one
        RUN echo 1
        FROM busybox AS two
        RUN echo 2
        FROM busybox
        COPY --from=one /etc/passwd /one
        COPY --from=two /etc/passwd /two
    """)
    bench.build()
    assert reran(bench.build("--no-cache-filter=two"), "echo 1", "echo 2") == ["echo 2"]
    assert reran(bench.build("--no-cache-filter=ONE,two"), "echo 1", "echo 2") == ["echo 1", "echo 2"]


def test_a_rerun_step_reruns_what_is_built_on_it(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox AS a\nRUN date +%N > /t\nFROM a AS b\nRUN cp /t /t2\n")
    bench.build()
    assert reran(bench.build("--no-cache-filter=a"), "date", "cp /t") == ["date", "cp /t"]
    files = bench.files()
    assert files.text("/t") == files.text("/t2")


def test_a_failed_step_is_not_cached_and_those_before_it_are(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo good\nRUN --mount=type=secret,id=go test -e /run/secrets/go\n")
    bench.fail()
    secret = bench.scratch / "go"
    secret.touch()
    build = bench.build("--secret", f"id=go,src={secret}")
    assert reran(build, "echo good", "test -e") == ["test -e"]


def test_two_builds_at_once_do_the_same_work_once(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN sleep 0.5; head -c 8 /dev/urandom | od -x > /random\n")
    archives = [bench.scratch / f"{number}.tar" for number in range(2)]
    builds: list[Build] = []

    def build(archive: Path) -> None:
        builds.append(
            bench.stagewright.build(bench.context, "-o", f"type=oci,dest={archive}", env={"SOURCE_DATE_EPOCH": "0"})
        )

    threads = [threading.Thread(target=build, args=(archive,)) for archive in archives]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [build.status for build in builds] == [0, 0]
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_a_build_does_the_work_that_another_one_left_undone(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo I am; sleep 1000\n")
    first = bench.start()
    wait_for(first, " I am")
    second = bench.start()
    wait_for(second, "RUN echo I am; sleep 1000")
    first.kill()
    first.communicate()
    wait_for(second, " I am")
    second.send_signal(signal.SIGINT)
    second.communicate()
    assert second.returncode == 130


def test_a_build_that_waits_for_anothers_work_can_be_stopped(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN echo I am; sleep 1000\n")
    first = bench.start()
    wait_for(first, " I am")
    second = bench.start()
    wait_for(second, "RUN echo I am; sleep 1000")
    for process in (second, first):
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == 130


def test_a_pruned_cache_is_built_again(bench: Workbench) -> None:
    app(bench)
    bench.stagewright.run("prune", "--all", "--force")
    assert reran(bench.build(), INSTALL, COMPILE) == [INSTALL, COMPILE]
