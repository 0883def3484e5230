"""Attempts, from public advisories, by way of a Dockerfile, a base image or what a step prints."""

from __future__ import annotations

import errno
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from workbench import Workbench

RUNTIMES = pytest.mark.parametrize("runtime", [(), ("--oci-runtime=runc",)], ids=["native", "oci"])
OTHER_USER = 20_000


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder of the host that no build is given, and which none may have changed."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "secret").write_text("secret of the host")
    (folder / "empty").touch()
    before = look(folder)
    yield folder
    assert look(folder) == before


def look(folder: Path) -> dict[str, object]:
    paths = (folder, *folder.rglob("*"))
    return {str(path): (path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_mtime_ns) for path in paths}


@RUNTIMES
def test_identities_of_cache_mounts(shared_bench: Workbench, victim: Path, runtime: tuple[str, ...]) -> None:
    """CVE-2024-9675: `id=` of a cache mount climbs out of the folder of all caches."""
    identities = ("../../../victim", str(victim), "a/../../b", "..", ".", "/", "locks", "../metadata.db")
    steps = [
        f"RUN --mount=type=cache,id={identity},target=/cache ls -a /cache && touch /cache/evil\n"
        for identity in identities
    ]
    shared_bench.dockerfile("".join(["FROM busybox\n", *steps]))
    build = shared_bench.build("--no-cache", *runtime)
    assert b"secret" not in build.log
    folders = os.listdir(shared_bench.stagewright.root / "mounts")
    assert all(re.fullmatch("[0-9a-f]{16}", folder) for folder in folders)


@pytest.mark.parametrize("option", ["bind-propagation=shared", "z", "relabel=shared", "src=/,O", "volume-opt=o=/etc"])
def test_options_of_mounts(shared_bench: Workbench, victim: Path, option: str) -> None:
    """CVE-2024-9407: options that would reach mount(8) or label the host's files."""
    shared_bench.dockerfile(f"FROM busybox\nRUN --mount=type=bind,target=/mnt,{option} ls /mnt\n")
    assert "Dockerfile:2" in shared_bench.fail()


@RUNTIMES
def test_links_as_sources_of_mounts(shared_bench: Workbench, victim: Path, runtime: tuple[str, ...]) -> None:
    """CVE-2024-1753: a stage has a link to the host where a mount takes its files from."""
    shared_bench.dockerfile(f"""
        FROM busybox AS evil
        RUN ln -s / /absolute && touch /file-of-the-stage
        FROM busybox
        RUN --mount=type=bind,from=evil,source=/absolute,target=/a,rw \\
            --mount=type=cache,from=evil,source=/absolute,target=/c,id=evil \\
            cat /a{victim}/secret /c{victim}/secret /a/proc/1/root{victim}/secret 2>/dev/null; touch /a/evil; ls /a /c
    """)
    build = shared_bench.build("--no-cache", *runtime)
    assert b"secret of the host" not in build.log
    assert build.log.count(b"file-of-the-stage") == 2
    shared_bench.dockerfile(f"""
        FROM busybox AS evil
        RUN ln -s {victim} /victim
        FROM busybox
        RUN --mount=type=bind,from=evil,source=/victim,target=/a,rw ls /a
    """)
    assert "secret of the host" not in shared_bench.fail("--no-cache", *runtime)


def test_links_where_files_are_copied_to(shared_bench: Workbench, victim: Path) -> None:
    """CVE-2018-15664, CVE-2019-14271, CVE-2020-10696: the image has a link to the host where files go."""
    shared_bench.write("file", "evil")
    shared_bench.write("folder/file", "evil")
    shared_bench.dockerfile(f"""
        FROM busybox
        RUN ln -s {victim} /absolute && ln -s ../../../../../../../../../..{victim} /dots \\
            && ln -s {victim}/secret /file && ln -s /proc/self/root/proc/1/cwd /magic
        COPY file /absolute/
        COPY file /dots/secret
        COPY folder /absolute/new/
        COPY --chown=1:1 --chmod=4777 file /file
        ADD file /magic/evil
        WORKDIR /absolute/work
        WORKDIR /dots/work
        COPY <<EOF /absolute/empty
        evil
        EOF
    """)
    files = shared_bench.files()
    assert files.text(f"{victim}/secret") == "evil"


def test_volumes_that_climb(shared_bench: Workbench, victim: Path) -> None:
    """CVE-2022-23648: a volume of the image is named by a path that leads to the host."""
    shared_bench.dockerfile(f"""
        FROM busybox
        VOLUME ["/../../../../../../..{victim}"]
        RUN cat {victim}/secret || echo none
        COPY Dockerfile {victim}/new
    """)
    assert b"none" in shared_bench.build("--no-cache").log


@RUNTIMES
def test_privileges_that_nobody_allowed(shared_bench: Workbench, runtime: tuple[str, ...]) -> None:
    """CVE-2024-23653: a step asks for all privileges, which takes `--allow security.insecure`."""
    shared_bench.dockerfile("""
        # syntax=docker/dockerfile:1-labs
        FROM busybox
        RUN --security=insecure echo started
    """)
    said = shared_bench.fail("--no-cache", *runtime)
    assert "security.insecure is not allowed" in said


PAYLOADS = {
    "title": "\x1b]0;evil\x07",
    "clipboard": "\x1b]52;c;ZXZpbA==\x1b\\",
    "report": "\x1b[6n\x1b[c\x1b[21t",
    "screen": "\x1b[2J\x1b[H\x1b[?1049h",
    "eight bits": "\u009b2J\u009d0;evil\u009c",
    "string": "\x1bP$q\x1b\\\x1b_evil\x1b\\\x1b^evil\x1b\\",
    "direction": "\u202eevil\u2066",
    "bells": "\x07\x08\x0e\x7f",
    "joined up": "\x1b[31m\x1b\x1b[2J[2J\x1b\0]52;c;ZXZpbA==\x1b\x1b[31m\x1b]0;x\x07]0;evil",
}
EVIL = "".join(PAYLOADS.values())
# What the payloads have and the builder itself never writes, to a terminal either.
STEERING = re.compile(r"\x1b[\]P_^]|\x1b\[(?:6n|c|21t|2J|H|\?1049h)|[\x07\x08\x0e\x7f\u0080-\u009f\u202e\u2066]")


def hostile_dockerfiles() -> dict[str, str]:
    """Dockerfiles that have the payloads wherever the builder says something about them."""
    evil = EVIL
    return {
        "log": "FROM busybox\nCOPY payload /\nRUN cat /payload; cat /payload >&2; head -c 300000 /payload\n",
        "failed step": f"FROM busybox\nCOPY payload /\nRUN : '{evil}'; cat /payload; exit 7\n",
        "missing file": f"FROM busybox\nCOPY missing{evil} /\n",
        "stage": f"FROM busybox AS evil{evil}\n",
        "image": f"FROM nowhere.invalid/evil{evil}\n",
        "instruction": f"FROM busybox\nEVIL{evil} {evil}\n",
        "comment": f"# {evil}\nFROM busybox\nEVIL\n",
        "argument": f"ARG A='{evil}'\nFROM busybox:${{A}}\n",
        "variable": f"FROM busybox\nENV A='{evil}'\nRUN echo \"$A\"; exit 3\n",
        "mount": f"FROM busybox\nRUN --mount=type={evil} true\n",
        "user": f"FROM busybox\nUSER evil{evil}\nRUN true\n",
        "directory": f"FROM busybox\nWORKDIR /evil{evil}\nRUN missing\n",
        "url": f"FROM scratch\nADD http://127.0.0.1:1/{evil} /\n",
        "syntax": f"# syntax=evil{evil}\nFROM busybox\n",
        "file": "FROM busybox\nCOPY folder /folder\nRUN cat /folder/*/missing\n",
        "warning": f"from busybox\nMAINTAINER {evil}\nENV SECRET_TOKEN {evil}\n",
    }


@pytest.mark.parametrize(
    ("case", "progress"),
    [
        *((case, "plain") for case in hostile_dockerfiles()),
        *((case, "tty") for case in ("log", "failed step", "stage", "file", "warning", "mount")),
    ],
)
def test_what_is_shown_does_not_steer_the_terminal(shared_bench: Workbench, case: str, progress: str) -> None:
    """CVE-2021-25743, CVE-2023-28101, CVE-2024-52005: escape sequences in names, logs and messages."""
    shared_bench.write("payload", EVIL.encode() + b"\xff\0\x9b2J\n")
    shared_bench.write(f"folder/evil{EVIL.replace('/', '').replace(chr(0), '')}/file")
    shared_bench.write("Dockerfile", hostile_dockerfiles()[case])
    command = [sys.executable, "-m", "stagewright", "build", "--root", shared_bench.stagewright.root, "--config"]
    command += [shared_bench.stagewright.config, f"--progress={progress}", "--no-cache", shared_bench.context]
    shown = run_on_terminal([str(word) for word in command])
    assert "busybox" in shown or "Dockerfile" in shown or "ERROR" in shown
    assert STEERING.findall(shown) == []


def run_on_terminal(command: list[str]) -> str:
    """What a program writes to a terminal of its own, which is all it has to write to."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = bytearray()
        while True:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:
                break
            if not data:
                break
            shown += data
        process.wait()
    os.close(ours)
    return shown.decode(errors="replace")


def test_output_without_end_of_line_takes_little_memory(shared_bench: Workbench) -> None:
    """CVE-2022-31030: a step writes one line without end, and NULs, which nobody keeps as a whole."""
    little, much = (memory_for_output(shared_bench, size) for size in (100_000, 20_000_000))
    assert much - little < 20_000


def memory_for_output(bench: Workbench, size: int) -> int:
    """The kilobytes that a build takes whose failing step writes so many bytes to both of its streams."""
    fill = f"head -c {size} /dev/zero"
    bench.dockerfile(f"FROM busybox\nRUN {fill} >&2; {fill} | tr '\\0' x; exit 7\n")
    command = [sys.executable, "-m", "stagewright", "build", "--root", bench.stagewright.root, "--config"]
    command += [bench.stagewright.config, "--progress=plain", "--no-cache", bench.context]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        tail = b""
        while data := process.stderr.read(1 << 20):
            tail = (tail + data)[-10_000:]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 1
    assert b"did not complete successfully: exit code: 7" in tail
    return usage.ru_maxrss


@pytest.mark.root("another user tries to get at root's files")
def test_other_users_do_not_come_by_what_steps_leave(bench: Workbench) -> None:
    """CVE-2021-41091, CVE-2021-41103, CVE-2024-25621: setuid programs in caches and layers of an open directory."""
    root = bench.stagewright.root
    for folder in ("", "snapshots", "mounts", "content"):
        (root / folder).mkdir(mode=0o755, exist_ok=True)
        (root / folder).chmod(0o755)
    for parent in root.parents:
        if not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=cache,target=/cache cp /bin/busybox /cache/evil && chmod 4755 /cache/evil \\
            && cp /bin/busybox /evil && chmod 4755 /evil
    """)
    bench.build()
    programs = [path for path in root.rglob("evil") if path.stat().st_mode & stat.S_ISUID]
    assert len(programs) == 2
    code = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.stat(path)
    except OSError as error:
        print(error.errno)
    else:
        print("found")
"""
    kept = [*programs, *(path for path in (root / "content").rglob("*") if path.is_file())]
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-c", code, *map(str, kept)],
        user=OTHER_USER,
        group=OTHER_USER,
        extra_groups=[],
        capture_output=True,
        text=True,
        cwd="/",
        check=True,
    )
    assert set(done.stdout.split()) == {str(errno.EACCES)}
