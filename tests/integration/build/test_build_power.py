"""Builds after the power has failed: the machine finds on its disk what had been written to it by then.

The disk is a file with a file system in it, and a copy of that file, while the file system is mounted, is what the disk
holds at the moment. What a build has written the kernel keeps in memory for half a minute, unless it is synced.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from git_servers import Repository, git_daemon
from harness import Build, Stagewright
from workbench import Workbench, wait_for

pytestmark = pytest.mark.root("mounts a disk of its own")
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
BOOT_ID = "/proc/sys/kernel/random/boot_id"
APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
# The first process of its machine waits for the sync that follows a build; nothing outlives it in any case.
FIRST = f'mount --bind "$0" {BOOT_ID} && exec "$@"'
SECOND = f'mount --bind "$0" {BOOT_ID}; "$@"; exit $?'


@dataclass
class Machine:
    """A machine that begins with an empty disk, and the context and configuration of its builds."""

    folder: Path
    config: Path
    context: Path
    boots: int = 0
    mounted: list[Path] = field(default_factory=list)

    def disk(self) -> Path:
        """What the disk of this boot is to the machine that it is in."""
        return self.folder / f"disk{self.boots}"

    def boot(self) -> None:
        """Mount the disk as this boot's."""
        where = self.folder / f"boot{self.boots}"
        where.mkdir()
        subprocess.run(["mount", "-o", "loop", self.disk(), where], check=True)
        self.mounted.append(where)
        (where / "boot_id").write_text(f"00000000-0000-4000-8000-{self.boots:012}\n")

    def fail(self) -> None:
        """Let the power fail, and start again."""
        old = self.disk()
        self.boots += 1
        subprocess.run(["cp", "--sparse=always", old, self.disk()], check=True)
        self.boot()

    def stop(self) -> None:
        for where in self.mounted:
            subprocess.run(["umount", where], check=True)

    def bench(self, how: str) -> Workbench:
        """The command line in this boot; nothing that it has started outlives it."""
        where = self.mounted[-1]
        program = (*APART, how, str(where / "boot_id"), sys.executable, "-m", "stagewright")
        return Workbench(Stagewright(where / "state", self.config, program=program), self.context)

    @property
    def synced(self) -> Workbench:
        """The command line, which comes back when all is synced."""
        return self.bench(FIRST)

    @property
    def hasty(self) -> Workbench:
        """The command line, whose sync does not come to its end."""
        return self.bench(SECOND)


@pytest.fixture
def machine(bench: Workbench, tmp_path: Path) -> Iterator[Machine]:
    """A machine that builds what `bench` does."""
    machine = Machine(tmp_path / "machine", bench.stagewright.config, bench.context)
    machine.folder.mkdir()
    with open(machine.disk(), "wb") as file:
        file.truncate(200 << 20)
    subprocess.run(["mkfs.ext4", "-q", machine.disk()], check=True)
    machine.boot()
    yield machine
    machine.stop()


@pytest.fixture
def example(bench: Workbench) -> Workbench:
    """A build with each kind of step, in a store that nothing ever happens to."""
    bench.dockerfile("""
        FROM busybox AS one
        COPY files /files
        RUN --mount=type=cache,target=/kept echo x >> /kept/count && cat /files/* > /one
        FROM busybox
        RUN echo first > /first
        COPY --from=one /one /
        COPY --link files/1 /linked
        RUN cat /one /one > /three
    """)
    for number in range(10):
        bench.write(f"files/{number}", f"{number}\n" * 1000)
    return bench


def build(bench: Workbench, target: Path) -> tuple[bytes, Build]:
    """Build into an OCI archive and the image store; the archive's bytes, and the build."""
    outputs = ("-o", f"type=oci,dest={target},rewrite-timestamp=true", "-o", "type=image,name=app:1")
    done = bench.build(*outputs, env=EPOCH)
    return target.read_bytes(), done


def assert_whole(machine: Machine) -> None:
    """Once the garbage is collected, which no process outlived a build to do, nothing is wrong."""
    stagewright = machine.synced.stagewright
    stagewright.run("prune")
    assert stagewright.run("check").stdout.endswith("Nothing is wrong.\n")


def test_what_a_build_has_made_is_synced_after_it(example: Workbench, machine: Machine, tmp_path: Path) -> None:
    clean, _ = build(example, tmp_path / "clean.tar")
    build(machine.synced, tmp_path / "first.tar")
    machine.fail()
    assert machine.synced.stagewright.run("check").stdout.endswith("Nothing is wrong.\n")
    again, done = build(machine.synced, tmp_path / "second.tar")
    assert again == clean
    assert (done.ran, done.warned) == ([], "")
    machine.synced.stagewright.run("save", "app:1", "-o", tmp_path / "app.tar")


def test_what_was_not_synced_is_made_again(example: Workbench, machine: Machine, tmp_path: Path) -> None:
    """What was made before stays, so that the first step is not run again."""
    build(machine.synced, tmp_path / "first.tar")
    example.write("files/1", "another\n" * 1000)
    clean, _ = build(example, tmp_path / "clean.tar")
    build(machine.hasty, tmp_path / "second.tar")
    machine.fail()
    stagewright = machine.synced.stagewright
    found = stagewright.run("check", check=False)
    assert found.returncode == 1
    assert "was not yet synced to the disk when the machine stopped\n" in found.stdout
    again, done = build(machine.synced, tmp_path / "third.tar")
    assert again == clean
    assert done.warned.startswith("the machine stopped before all of the last builds was on its disk: made anew is ")
    assert "snapshots, 1 cache mount, " in done.warned and "\n" not in done.warned
    assert done.step("RUN echo first").cached
    assert not done.step("RUN cat /one /one").cached
    assert_whole(machine)
    stagewright.run("save", "app:1", "-o", tmp_path / "app.tar")
    assert build(machine.synced, tmp_path / "fourth.tar")[1].ran == []


def test_a_first_build_that_was_not_synced(example: Workbench, machine: Machine, tmp_path: Path) -> None:
    """Next to nothing of it is on the disk; `check --repair` makes a whole store of that."""
    clean, _ = build(example, tmp_path / "clean.tar")
    build(machine.hasty, tmp_path / "first.tar")
    machine.fail()
    stagewright = machine.hasty.stagewright
    assert stagewright.run("check", "--repair", check=False).returncode == 0
    assert stagewright.run("check").stdout.endswith("Nothing is wrong.\n")
    again, done = build(machine.hasty, tmp_path / "second.tar")
    assert (again, done.warned) == (clean, "")
    # Power that fails once more, before anything is done.
    machine.fail()
    machine.fail()
    again, done = build(machine.synced, tmp_path / "third.tar")
    assert again == clean
    assert_whole(machine)


def test_power_that_fails_while_a_step_changes_a_cache_mount(bench: Workbench, machine: Machine) -> None:
    """On the disk the mount is noted before it changes, even if nothing else of the build is there."""
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/kept echo 1 > /kept/file\n")
    machine.synced.build()
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/kept echo 2 > /kept/file && echo written && sleep 1000
    """)
    hasty = machine.hasty.stagewright
    words = ("build", "--root", hasty.root, "--config", hasty.config, "--progress=plain", "-o", "type=cacheonly")
    process = subprocess.Popen([*hasty.program, *map(str, words), bench.context], stderr=subprocess.PIPE, text=True)
    wait_for(process, "written")
    machine.fail()
    process.kill()
    process.communicate()
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/kept test ! -e /kept/file
        RUN --mount=type=cache,target=/kept echo 3 > /kept/file
    """)
    assert machine.synced.build().warned.endswith("made anew is 1 cache mount")
    machine.fail()
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/kept grep 3 /kept/file\n")
    assert machine.synced.build().warned == ""


def test_a_repository_that_was_not_synced(bench: Workbench, machine: Machine, tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "served" / "r.git")
    repository.commit({"a/file": "1", "b/file": "2"})
    with git_daemon(repository.folder.parent) as address:
        bench.dockerfile(f"FROM scratch\nADD git://{address}/r.git#main:a /\n")
        machine.hasty.build()
        machine.fail()
        for folder in ("a", "b"):
            bench.dockerfile(f"FROM scratch\nADD git://{address}/r.git#main:{folder} /\n")
            assert machine.synced.files().text("/file") == {"a": "1", "b": "2"}[folder]
        assert_whole(machine)
