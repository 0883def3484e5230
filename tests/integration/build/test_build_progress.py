"""What a user sees while a build runs and when it fails, in each form of the progress."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from workbench import Workbench

APP = """
    FROM busybox AS build
    RUN echo first; echo second >&2
    FROM busybox
    RUN echo other
    COPY --from=build /etc/passwd /passwd
"""
FAILING = """
    FROM busybox AS build
    RUN for i in $(seq 1 50); do echo line-$i; done; \\
        echo the reason; \\
        exit 3

    FROM scratch
    COPY --from=build / /
"""


def printed(bench: Workbench, *flags: object, status: int = 0) -> tuple[str, str]:
    """What the build prints to standard output and to standard error."""
    done = bench.stagewright.run("build", *flags, "-o", "type=cacheonly", bench.context, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def test_plain(bench: Workbench) -> None:
    bench.dockerfile(APP)
    out, text = printed(bench)
    assert out == ""
    number = re.search(r"^#(\d+) \[build 2/2\] RUN echo first; echo second >&2$", text, re.MULTILINE)
    assert number is not None
    assert re.search(rf"^#{number[1]} \d+\.\d+ first$", text, re.MULTILINE)
    assert re.search(rf"^#{number[1]} \d+\.\d+ second$", text, re.MULTILINE)
    assert re.search(rf"^#{number[1]} DONE \d+\.\ds$", text, re.MULTILINE)
    assert re.search(r"^#\d+ \[stage-1 3/3\] COPY --from=build /etc/passwd /passwd$", text, re.MULTILINE)
    again = printed(bench, "--progress=plain")[1]
    assert len(re.findall(r"^#\d+ CACHED$", again, re.MULTILINE)) == 4
    assert "\x1b" not in text + again


def test_rawjson(bench: Workbench) -> None:
    bench.dockerfile(APP)
    statuses = [json.loads(line) for line in printed(bench, "--progress=rawjson")[1].splitlines()]
    vertexes = [vertex for status in statuses for vertex in status.get("vertexes") or ()]
    logs = [log for status in statuses for log in status.get("logs") or ()]
    assert {key for status in statuses for key in status} <= {"vertexes", "statuses", "logs", "warnings"}
    digests = {vertex["digest"] for vertex in vertexes}
    assert all(source in digests for vertex in vertexes for source in vertex.get("inputs") or ())
    assert {log["vertex"] for log in logs} <= digests
    streams = {base64.b64decode(log["data"]): log["stream"] for log in logs}
    assert streams[b"second\n"] == 2
    final = {vertex["digest"]: vertex for vertex in vertexes}
    assert all(vertex.get("completed") for vertex in final.values())


def test_quiet_and_none(bench: Workbench) -> None:
    bench.dockerfile(APP)
    done = bench.stagewright.run("build", "-q", bench.context)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.stdout)
    assert done.stderr == ""
    assert bench.stagewright.run("build", "--progress=quiet", bench.context).stdout == done.stdout
    done = bench.stagewright.run("build", "--progress=none", bench.context)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("mode", ["plain", "quiet", "rawjson"])
def test_the_end_of_a_failed_build(bench: Workbench, mode: str) -> None:
    bench.dockerfile(FAILING)
    text = printed(bench, f"--progress={mode}", status=1)[1]
    ending = "\n".join(line for line in text.splitlines() if not line.startswith(("{", "#")))
    if mode != "rawjson":
        assert " > [build 2/2] RUN for i in" in ending
        assert "line-50\nthe reason\n------" in ending
        assert "line-1\n" not in ending
    assert "Dockerfile:2\n" in ending
    marked = [line for line in ending.splitlines() if ">>>" in line]
    assert len(marked) == 3
    assert marked[0].endswith("; do echo line-$i; done; \\")
    assert ending.splitlines()[-1].startswith("ERROR: failed to build: ")
    assert ending.endswith("exit code: 3")


def test_debug_shows_where_an_error_comes_from(bench: Workbench) -> None:
    bench.dockerfile("FROM busybox\nRUN exit 3\n")
    assert "Traceback" in printed(bench, "-D", status=1)[1]


def test_control_characters_of_a_step_do_not_reach_the_terminal(bench: Workbench) -> None:
    bench.dockerfile(r"""
        FROM busybox
        RUN printf '\033]0;title\007\033[2Jmessage\rover\n'; exit 1
    """)
    text = on_terminal(bench, 80)
    assert "\x1b]0;" not in text
    assert "\x1b[2J" not in text


def on_terminal(bench: Workbench, columns: int) -> str:
    """What a build prints on a terminal of that width."""
    leader, follower = pty.openpty()
    os.set_blocking(leader, True)
    subprocess.run(["stty", "rows", "30", "cols", str(columns)], stdin=follower, check=True)
    command = [sys.executable, "-m", "stagewright", "build", "--root", bench.stagewright.root, "--config"]
    environ = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*command, bench.stagewright.config, bench.context],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environ,
    )
    os.close(follower)
    chunks = []
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(leader)
    process.wait()
    return b"".join(chunks).decode()


@pytest.mark.skipif(not Path("/usr/bin/tmux").exists(), reason="needs tmux as terminal")
@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal(bench: Workbench, columns: int, tmp_path: Path) -> None:
    long = "a-long-argument-" * 12
    stages = [
        f"FROM busybox AS s{number}\nRUN echo {number}{long} > /out; echo {long}; sleep 0.3\n" for number in range(4)
    ]
    copies = [f"COPY --from=s{number} /out /{number}\n" for number in range(4)]
    bench.dockerfile("".join([*stages, "FROM scratch\n", *copies]))
    command = (
        f"{sys.executable} -m stagewright build --root {bench.stagewright.root} --config {bench.stagewright.config}"
    )
    server = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    done = tmp_path / "done"
    script = f"{command} --network=host -t x {bench.context}; echo status=$?; touch {done}; sleep 1000"
    try:
        subprocess.run([*server, "new-session", "-d", "-x", str(columns), "-y", "50", script], check=True)
        while not done.exists():
            subprocess.run([*server, "has-session"], check=True)
        screen = subprocess.run([*server, "capture-pane", "-p"], check=True, capture_output=True, text=True).stdout
    finally:
        subprocess.run([*server, "kill-server"], check=False)
    lines = screen.rstrip().splitlines()
    assert lines[-1] == "status=0"
    assert re.fullmatch(r"\[\+\] Building \d+\.\ds \((\d+)/\1\) FINISHED", lines[-2])
    steps = lines[:-2]
    for number in range(4):
        assert len([line for line in steps if f"[s{number} 2/2] RUN" in line]) == 1
    assert [line for line in steps if not re.match(r" => .*\d+\.\ds$", line)] == []
    assert {len(line) for line in steps} == {columns - 1}
