"""Builds without mounts and namespaces: by each snapshotter, in a chroot, and in a container without privileges."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PROJECT, Stagewright, StandinImages, output_of, runner
from workbench import Workbench, wait_for

from stagewright.snapshots import fuse

pytestmark = pytest.mark.root("gives up capabilities of the machine's root")

CONTAINED = (sys.executable, str(PROJECT / "tests" / "integration" / "contained.py"))
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}

# What steps do to files, in all the ways in which layers of one way of merging could differ from those of another.
DOCKERFILE = """
    FROM debian:trixie-slim AS base
    RUN mkdir -p /app/lib && echo one > /app/lib/one && chmod 2775 /app && ln -s lib /app/link
    RUN echo more >> /app/lib/one; rm -r /usr/share/doc; touch /tmp/x; rm /tmp/x
    COPY here /app/
    WORKDIR /work
    RUN useradd -m someone && sed -i s/someone/another/ /etc/group && rm -rf /app/lib && mkdir /app/lib
    RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch \
        touch /scratch/x && echo y >> /cache/log && cat /cache/log > log
    FROM base AS other
    RUN --mount=type=bind,from=base,target=/b,rw sh -c 'ls /b/app > list; echo z > /b/z' && ls /b/z
    RUN --mount=type=bind,from=base,source=/etc/passwd,target=/run/deep/passwd wc -l < /run/deep/passwd > count
    RUN --mount=type=secret,id=token,mode=0444 --mount=type=secret,id=token,env=TOKEN \
        test "$(cat /run/secrets/token)" = "$TOKEN" && stat -c %a%U /run/secrets/token > mode
    USER someone:another
    RUN id -un > ~/id 2>/dev/null || id -u > /tmp/id; umask > /tmp/umask; pwd > /tmp/cwd
    FROM scratch AS bare
    COPY --from=busybox /bin/busybox /bin/sh
    RUN ["/bin/sh", "-c", "exit 0"]
    FROM debian:trixie-slim
    COPY --from=other /work /home /tmp /all/
    COPY --from=bare / /bare/
    RUN test "$(echo /bare/*)" = "/bare/bin /bare/dev /bare/proc /bare/sys"
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "here").write_text("here")
    return folder


@pytest.fixture(scope="module")
def contained(standin_images: StandinImages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stagewright]:
    """The command line in what a container without privileges is."""
    for command in runner(tmp_path_factory.mktemp("contained") / "state", standin_images.config):
        yield dataclasses.replace(command, program=CONTAINED)


@pytest.fixture
def box(contained: Stagewright, context: Path) -> Workbench:
    return Workbench(contained, context)


def configured(images: StandinImages, folder: Path, setting: str) -> Stagewright:
    config = folder / f"{setting}.toml"
    config.write_text(f"{images.config.read_text()}\n[worker]\n{setting}\n")
    return Stagewright(folder / f"state {setting}".replace('"', ""), config)


def manifest(command: Stagewright, context: Path, archive: Path) -> str:
    """The digest of the image that a build makes."""
    secret = archive.with_suffix(".secret")
    secret.write_text("a-token-of-some-length")
    command.build(context, "--secret", f"id=token,src={secret}", "-o", f"type=oci,dest={archive}", env=EPOCH)
    return str(json.loads(output_of("skopeo", "inspect", f"oci-archive:{archive}"))["Digest"])


@pytest.fixture(scope="module")
def reference(standin_images: StandinImages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The digest of the image of DOCKERFILE by the kernel's overlayfs."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "here").write_text("here")
    bench = Workbench(Stagewright(folder / "state", standin_images.config), folder)
    bench.dockerfile(DOCKERFILE)
    for command in runner(folder / "state", standin_images.config):
        yield manifest(command, folder, folder / "image.tar")


@pytest.mark.parametrize("setting", ['snapshotter = "fuse-overlayfs"', 'snapshotter = "copies"', 'runtime = "chroot"'])
def test_the_image_is_the_same(
    standin_images: StandinImages, tmp_path: Path, context: Path, reference: str, setting: str
) -> None:
    if "fuse" in setting and (refused := fuse.refusal()):
        pytest.skip(refused)
    command = configured(standin_images, tmp_path, setting)
    Workbench(command, context).dockerfile(DOCKERFILE)
    assert manifest(command, context, tmp_path / "image.tar") == reference
    drafts = command.root / "snapshots" / "drafts"
    assert os.listdir(drafts) == []


def test_the_image_is_the_same_without_privileges(box: Workbench, tmp_path: Path, reference: str) -> None:
    box.dockerfile(DOCKERFILE)
    assert manifest(box.stagewright, box.context, tmp_path / "image.tar") == reference
    assert os.listdir(box.stagewright.root / "snapshots" / "drafts") == []


def test_it_says_once_what_is_missing(box: Workbench) -> None:
    box.dockerfile("FROM busybox\nRUN echo said\nRUN echo twice")
    text = box.build("--no-cache", "--progress=plain").stderr
    assert text.count("WARN: steps run in a chroot only") == 1
    facts = json.loads(box.stagewright.run("info", "--format", "json").stdout)
    assert (facts["snapshotter"], facts["runtime"]) == ("copies", "chroot")
    assert "no user namespace can be made" in facts["missing"]["isolation of steps"]
    assert facts["missing"]["snapshotter overlay"] == "mounts are not allowed in this process"


def test_a_machine_that_can_is_not_asked(standin_images: StandinImages, tmp_path: Path) -> None:
    for command in runner(tmp_path / "state", standin_images.config):
        facts = json.loads(command.run("info", "--format", "json").stdout)
        assert (facts["snapshotter"], facts["runtime"], facts["missing"]) == ("overlay", "native", {})


@pytest.mark.parametrize(
    ("capabilities", "lacking"), [("0", "CAP_CHOWN"), ("a00424fb", None), ("a80025fb", "CAP_SYS_CHROOT")]
)
def test_what_a_chroot_takes(box: Workbench, capabilities: str, lacking: str | None) -> None:
    command = dataclasses.replace(box.stagewright, program=(*CONTAINED, "--capabilities", capabilities))
    box.dockerfile("FROM busybox\nRUN echo ran")
    build = command.build(box.context, "--no-cache", "-o", "type=cacheonly", check=False)
    if lacking is None:
        # Docker's, less CAP_MKNOD and some more.
        assert build.status == 0, build.stderr
        return
    assert build.status == 1
    assert "no user namespace can be made" in build.stderr
    assert f"lacking: {lacking}" in build.stderr


def test_a_namespace_that_cannot_have_a_proc_is_no_better(box: Workbench) -> None:
    command = dataclasses.replace(box.stagewright, program=(*CONTAINED, "--unfiltered"))
    box.dockerfile("FROM busybox\nRUN echo ran")
    command.build(box.context, "--no-cache", "-o", "type=cacheonly")
    facts = json.loads(command.run("info", "--format", "json").stdout)
    assert facts["runtime"] == "chroot"
    assert "cannot mount /proc here" in facts["missing"]["isolation of steps"]


def test_no_network_is_refused(box: Workbench) -> None:
    box.dockerfile("FROM busybox\nRUN --network=none true")
    text = box.fail("--no-cache")
    assert "takes a network namespace, and this build runs its steps in a chroot" in text
    assert "Dockerfile:2" in text


def test_an_oci_runtime_is_refused(box: Workbench) -> None:
    box.dockerfile("FROM busybox\nRUN true")
    assert "cannot run by" in box.fail("--no-cache", "--oci-runtime", "runc")


def test_a_step_stays_inside(box: Workbench) -> None:
    box.dockerfile(f"""
        FROM busybox
        RUN ! chroot / true 2>/dev/null
        RUN ! unshare -m true 2>/dev/null && ! mount -t tmpfs none /mnt 2>/dev/null
        RUN ! ls {box.context} 2>/dev/null && ls -d /../bin
        RUN echo x > /dev/null && test "$(head -c 3 /dev/zero | wc -c)" = 3 && ! touch /dev/sda/x 2>/dev/null
        RUN test -z "$(ls /proc | grep -x 1)" && grep -q processor /proc/cpuinfo
        RUN ulimit -n > /limit && echo $$ > /dev/shm/x
    """)
    files = box.files("--no-cache", "--ulimit", "nofile=77:88")
    assert files.text("/limit") == "77\n"
    assert not [path for path in files.members if path.startswith(("/dev/", "/proc/"))]


def test_nothing_that_a_step_started_is_left(box: Workbench) -> None:
    mark = f"{os.getpid()}{time.monotonic_ns() % 100000}"
    box.dockerfile(f"FROM busybox\nRUN setsid sleep {mark} & (sleep {mark} &) ; true")
    box.build("--no-cache")
    assert not processes(f"sleep\0{mark}")


def processes(command: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{pid}/cmdline").read_text().startswith(command):
                found.append(pid)
        except OSError:
            continue
    return found


def test_a_failed_step_leaves_no_secret_and_keeps_its_cache(box: Workbench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-in-no-layer")
    box.dockerfile("""
        FROM busybox
        RUN --mount=type=secret,id=s --mount=type=cache,id=fails,target=/cache \
            ln /run/secrets/s /copy-by-link; echo kept >> /cache/log; exit 3
    """)
    assert "exit code: 3" in box.fail("--no-cache", "--secret", f"id=s,src={secret}")
    root = box.stagewright.root
    assert os.listdir(root / "snapshots" / "drafts") == []
    found = subprocess.run(["grep", "-rl", "hidden-in-no-layer", root], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    box.dockerfile("FROM busybox\nRUN --mount=type=cache,id=fails,target=/cache cat /cache/log > /log")
    assert box.files("--no-cache").text("/log") == "kept\n"


def test_a_secret_that_a_step_links_is_empty(box: Workbench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-in-no-layer")
    box.dockerfile("FROM busybox\nRUN --mount=type=secret,id=s ln /run/secrets/s /link && mv /run/secrets/s /moved")
    files = box.files("--no-cache", "--secret", f"id=s,src={secret}")
    assert (files.text("/link"), files.text("/moved")) == ("", "")
    assert "/run/secrets" not in files


def test_a_cache_that_a_step_removes_or_moves(box: Workbench) -> None:
    mount = "--mount=type=cache,id=moved,target=/cache,mode=0750"
    box.dockerfile(f"FROM busybox\nRUN {mount} echo x > /cache/x && rm -rf /cache && mkdir /cache && touch /cache/y")
    files = box.files("--no-cache")
    assert "/cache" not in files
    box.dockerfile(f"FROM busybox\nRUN {mount} ls -a /cache | wc -l > /n; stat -c %a /cache >> /n; touch /cache/z")
    assert box.files("--no-cache").lines("/n") == ["2", "750"]
    box.dockerfile(f"FROM busybox\nRUN {mount} mv /cache /elsewhere")
    assert "the step moved the cache mount /cache to another place" in box.fail("--no-cache")
    box.dockerfile(f"FROM busybox\nRUN {mount} ls /cache > /n")
    assert box.files("--no-cache").text("/n") == "z\n"


def test_caches_shared_by_stages_that_run_at_once(box: Workbench) -> None:
    box.dockerfile("""
        FROM busybox AS one
        RUN --mount=type=cache,id=both,target=/cache echo 1 >> /cache/log; sleep 0.2; cp /cache/log /one
        FROM busybox AS two
        RUN --mount=type=cache,id=both,target=/cache --mount=type=cache,id=both,target=/again \
            echo 2 >> /again/log; sleep 0.2; cp /cache/log /two
        FROM busybox
        COPY --from=one /one /
        COPY --from=two /two /
        RUN --mount=type=cache,id=both,target=/cache sort /cache/log > /all
    """)
    assert box.files("--no-cache").text("/all") == "1\n2\n"


def test_a_killed_build_loses_no_cache_and_leaves_no_secret(box: Workbench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("killed-with-its-build")
    mount = "--mount=type=cache,id=killed,target=/deep/cache --mount=type=secret,id=s"
    mark = f"9{os.getpid()}"
    box.dockerfile(f"FROM busybox\nRUN {mount} echo kept > /deep/cache/x; echo reached; sleep {mark}")
    command = [*CONTAINED, "build", "--root", box.stagewright.root, "--config", box.stagewright.config, "--no-cache"]
    process = subprocess.Popen(
        [*command, "--progress=plain", "--secret", f"id=s,src={secret}", "-o", "type=cacheonly", box.context],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(process, "reached")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    deadline = time.monotonic() + 30
    while processes(f"sleep\0{mark}"):
        assert time.monotonic() < deadline, "the step outlives its build"
        time.sleep(0.05)
    box.dockerfile(f"FROM busybox\nRUN {mount} cat /deep/cache/x > /x")
    assert box.files("--no-cache").text("/x") == "kept\n"
    root = box.stagewright.root
    found = subprocess.run(["grep", "-rl", "killed-with-its-build", root], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_pruning_first_brings_a_killed_builds_cache_back(box: Workbench) -> None:
    from stagewright.state import State

    state = State(str(box.stagewright.root), {})
    with state.cache_mounts.use("pruned", "locked", lambda folder: None, None) as folder:
        draft = Path(box.stagewright.root, "snapshots", "drafts", "dead")
        (draft / "tree").mkdir(parents=True)
        state.cache_mounts.lent(folder, str(draft / "tree" / "cache"))
        os.rename(folder, draft / "tree" / "cache")
        (draft / "tree" / "cache" / "x").write_text("kept")
    state.close()
    box.stagewright.run("prune")
    assert not draft.exists()
    assert Path(folder, "x").read_text() == "kept"
    assert not Path(f"{folder}.lent").exists()
