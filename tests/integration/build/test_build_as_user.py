"""What an ordinary user's build shows and leaves: the same as root's, and nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from harness import Image, Stagewright, as_root
from images_world import Layer, image_of
from registry_servers import ScriptedServer
from workbench import Workbench, wait_for, wait_for_children

pytestmark = pytest.mark.skipif(os.geteuid() == 0, reason="about users who are not root")

STEPS = """
    FROM busybox
    RUN echo first; echo one > /one && chown 33:34 /one
    COPY --chown=5:6 file /
    RUN echo second
"""


def strangers_files(folder: Path, *but: Path) -> list[Path]:
    """What of other owners lies below a folder, but for the contents of some."""
    found = []
    for here, folders, files in os.walk(folder, onerror=lambda error: pytest.fail(str(error))):
        folders[:] = [name for name in folders if Path(here, name) not in but]
        found += [path for name in folders + files if (path := Path(here, name)).lstat().st_uid != os.geteuid()]
    return found


# --- what it leaves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["success", "failure", "interrupt", "kill"])
def test_nothing_is_left(
    bench: Workbench, orphans: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    mounts = Path("/proc/self/mountinfo").read_text()
    last = {"success": "true", "failure": "exit 3"}.get(end, "echo I am; sleep 1000")
    bench.dockerfile(f"FROM busybox\nRUN echo x > /x && chown 33:34 /x\nRUN {last}\n")
    process = bench.start("-o", f"type=local,dest={tmp_path}/result", "-o", f"type=tar,dest={tmp_path}/result.tar")
    if end in ("interrupt", "kill"):
        wait_for(process, " I am")
        process.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGKILL)
    process.communicate()
    assert process.returncode == {"success": 0, "failure": 1, "interrupt": 130, "kill": -signal.SIGKILL}[end]
    wait_for_children()
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert strangers_files(tmp_path, bench.stagewright.root) == []
    assert (tmp_path / "result").exists() == (tmp_path / "result.tar").exists() == (end == "success")
    if end != "kill":
        assert list(scratch.iterdir()) == []
    # The state directory serves the next build.
    bench.dockerfile("FROM busybox\nRUN echo x > /x && chown 33:34 /x\n")
    assert bench.files().owner("/x") == (33, 34)


def test_an_exported_folder_is_the_users(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile("""
        FROM busybox AS made
        RUN mkdir -p /made/kept && echo x > /made/kept/file && chmod 640 /made/kept/file && chown -R 33:34 /made/kept
        FROM scratch
        COPY --from=made /made /
        COPY --chown=5:6 file /
    """)
    bench.write("file", "x")
    bench.build("-o", tmp_path / "folder")
    assert strangers_files(tmp_path / "folder") == []
    assert (tmp_path / "folder/kept/file").stat().st_mode & 0o7777 == 0o640
    shutil.rmtree(tmp_path / "folder")


# --- the door ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line each time when a user namespace is given its users."""
    log, folder = tmp_path / "door.log", tmp_path / "bin"
    log.touch()
    folder.mkdir()
    script = folder / "newuidmap"
    script.write_text(f'#!/bin/sh\necho opened >>"{log}"\nexec {shutil.which("newuidmap")} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


def test_the_door_is_opened_once_and_not_where_all_is_cached(bench: Workbench, door: Path, tmp_path: Path) -> None:
    bench.dockerfile(STEPS)
    bench.write("file", "x")
    outputs = ("-t", "app", "-o", "type=image", "-o", f"type=oci,dest={tmp_path}/image.tar")
    bench.build(*outputs)
    assert door.read_text() == "opened\n"
    first = (tmp_path / "image.tar").read_bytes()
    bench.build(*outputs)
    assert door.read_text() == "opened\n"
    assert (tmp_path / "image.tar").read_bytes() == first
    bench.write("file", "changed")
    bench.build(*outputs)
    assert door.read_text() == "opened\n" * 2


@pytest.mark.parametrize(
    "text", ["FORM busybox\n", "FROM scratch\nCOPY missing /\n", "FROM scratch AS a\nFROM a\nCOPY --from=none / /\n"]
)
def test_what_cannot_be_built_does_not_open_it(bench: Workbench, door: Path, text: str) -> None:
    bench.dockerfile(text)
    bench.fail()
    assert door.read_text() == ""


def test_a_build_beside_another_ones_open_door(bench: Workbench) -> None:
    """Each has a user namespace of its own; they share a cache mount of one store."""
    bench.dockerfile("""
        FROM busybox AS waits
        RUN --mount=type=cache,target=/c echo I am; while ! [ -e /c/go ]; do sleep 0.01; done; cat /c/go
        FROM busybox AS tells
        RUN --mount=type=cache,target=/c echo told > /c/go && chown 33:34 /c/go
    """)
    first = bench.start("--target=waits")
    wait_for(first, " I am")
    assert bench.build("--target=tells").status == 0
    _, said = first.communicate()
    assert first.returncode == 0, said
    assert re.search(r"^#\d+ \d+\.\d+ told$", said, re.MULTILINE)


# --- what it shows ----------------------------------------------------------------------------------------------------


def test_each_step_is_told_once(bench: Workbench) -> None:
    bench.dockerfile(STEPS)
    bench.write("file", "x")
    build = bench.build()
    statuses = [json.loads(line) for line in build.stderr.splitlines() if line.startswith("{")]
    events = [event for status in statuses for event in status.get("vertexes") or ()]
    ends = Counter(event["digest"] for event in events if event.get("completed"))
    starts = Counter(event["digest"] for event in events if event.get("started") and not event.get("completed"))
    assert set(ends) == set(build.vertices)
    assert set(ends.values()) == {1}
    assert max(starts.values()) == 1
    assert build.step("echo first").log == b"first\n"
    assert build.step("echo second").log == b"second\n"


def test_what_lacks_privilege_at_first_is_no_error(bench: Workbench) -> None:
    """Something else fails while the base image would be pulled, which takes privilege."""
    bench.dockerfile("FROM busybox\nCOPY missing /\n")
    build = bench.stagewright.build(bench.context, check=False)
    assert build.status == 1
    errors = {vertex.name: vertex.error for vertex in build.vertices.values()}
    assert errors.pop("[2/2] COPY missing /") == '"/missing": not found'
    assert set(errors.values()) <= {"", "context canceled"}


def shown(command: list[str]) -> tuple[int, list[str]]:
    """The status of a command and what it prints, without what differs from run to run."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    text = re.sub(r"\b\d+\.\d+(s| )", r"T\1", done.stderr)
    text = re.sub(r"\d+(\.\d+)?[kMG]?B", "SIZE", text)
    # What has its turn beside others has no fixed number, and sizes are told as often as there is time for it.
    lines = {re.sub(r"^#\d+ ", "#N ", line) for line in text.splitlines()} - {"#N ..."}
    return done.returncode, sorted(line for line in lines if "SIZE" not in line and " transferring " not in line)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (STEPS, ()),
        (STEPS, ("--progress=quiet",)),
        ("FROM busybox\nRUN echo said; exit 7\nRUN true\n", ()),
        ("FROM busybox\nUSER nobody-knows\nRUN true\n", ()),
        ("FROM scratch\nCOPY missing /\n", ()),
        ("FROM busybox\nFORM x\n", ()),
        ("FROM busybox\nRUN --mount=type=secret,id=none,required true\n", ()),
        ("FROM busybox:never-pushed\nRUN true\n", ()),
        ("FROM busybox\nRUN true\n", ("--target=none",)),
        ("FROM busybox\nRUN true\n", ("--output=type=mystery",)),
        ("FROM busybox\nRUN true\n", ("--nonsense",)),
        ("FROM busybox\nRUN true\n", ("--oci-runtime=missing",)),
    ],
)
def test_it_prints_what_root_sees(bench: Workbench, text: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    bench.dockerfile(text)
    bench.write("file", "x")
    stagewright = bench.stagewright

    def command(root: Path) -> list[str]:
        where = ["--root", str(root), "--config", str(stagewright.config)]
        build = [sys.executable, "-m", "stagewright", "build", "--progress=plain", *where]
        return [*build, "--output=type=cacheonly", "--network=host", *flags, str(bench.context)]

    roots = shown(as_root(*command(tmp_path / "roots")))
    subprocess.run(as_root("rm", "-rf", tmp_path / "roots"), check=True)
    assert shown(command(stagewright.root)) == roots


def test_cached_layers_that_are_packed_anew_keep_their_owners(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile("FROM scratch\nCOPY --chown=33:34 file /\n")
    bench.write("file", "x")
    for number, form in enumerate(("compression=gzip", "compression=uncompressed", "rewrite-timestamp=true")):
        archive = tmp_path / f"{number}.tar"
        build = bench.build("-o", f"type=oci,dest={archive},{form}")
        assert build.ran == ([] if number else ["[1/1] COPY --chown=33:34 file /"])
        (tmp_path / str(number)).mkdir()
        assert Image.load(archive, tmp_path / str(number)).tree.owner("/file") == (33, 34)


@pytest.mark.parametrize("step", ["COPY --chown=9999999 file /", "ADD --chown=7:9999999 file.tar /"])
def test_owners_beyond_the_users_ids_say_so(bench: Workbench, step: str) -> None:
    bench.write("file", "x")
    bench.write("file.tar", Layer().file("member").to_bytes())
    bench.dockerfile(f"FROM scratch\n{step}\n")
    said = bench.fail()
    assert "Dockerfile:2" in said
    assert re.search(r"the owner (9999999|7):9999999 lies outside the ids of this user", said)
    assert "hint: give the user more of them in /etc/subuid and /etc/subgid" in said


def test_an_image_with_owners_beyond_the_users_ids_says_so(bench: Workbench, server: ScriptedServer) -> None:
    server.serve_image(image_of(Layer().file("strange", uid=9_999_999)))
    bench.dockerfile(f"FROM {server.address}/app:1\nCOPY Dockerfile /\n")
    assert "cannot write archive member 'strange': the owner 9999999:0 lies outside the ids" in bench.fail()


# --- the store --------------------------------------------------------------------------------------------------------


def test_the_state_directory_is_in_the_users_home(stagewright: Stagewright, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    environment = os.environ | {"XDG_DATA_HOME": f"{tmp_path}/data", "XDG_CONFIG_HOME": f"{tmp_path}/config"}
    environment = {name: value for name, value in environment.items() if not name.startswith("STAGEWRIGHT_")}
    command = [sys.executable, "-m", "stagewright"]
    subprocess.run([*command, "build", "--progress=quiet", "-t", "app", tmp_path], check=True, env=environment)
    listed = subprocess.run(
        [*command, "images"], check=True, env=environment, capture_output=True, text=True
    ).stdout
    assert "app" in listed
    assert (tmp_path / "data/stagewright").is_dir()
    subprocess.run([*command, "rm", "app"], check=True, env=environment)
    subprocess.run([*command, "prune", "--all", "--force"], check=True, env=environment)
    assert strangers_files(tmp_path) == []


def test_an_engine_that_the_user_may_not_use(bench: Workbench) -> None:
    """Docker's socket is for its group: whose folder it is, which root of a user namespace may not enter either."""
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n")
    said = bench.fail("-t", "app", "--load", env={"DOCKER_HOST": "unix:///root/docker.sock"})
    assert "cannot load the image into the Docker engine at unix:///root/docker.sock: Permission denied" in said
    assert "hint: may this user use Docker? usermod --append --groups docker USER" in said
