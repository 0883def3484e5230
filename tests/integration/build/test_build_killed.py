"""Builds killed at random moments: the next one works, makes what a clean one makes, and finds nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workbench import Workbench

# Through the door each takes twice as long, and what is killed is the same.
KILLS = int(os.environ.get("STAGEWRIGHT_TEST_KILLS", "200" if os.geteuid() == 0 else "40"))
SEED = 5
# A new store now and then, so that also what only a first build does is broken off.
KILLS_PER_STORE = 20
# Builds spend some of their time waiting.
WORKERS = 2


@pytest.mark.timeout(max(600, KILLS * 5))
def test_two_hundred_kills(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM busybox AS one
        COPY files /files
        RUN --mount=type=cache,target=/kept echo x >> /kept/count && cat /files/* > /one
        FROM busybox AS two
        RUN --mount=type=secret,id=token test -s /run/secrets/token && echo two > /two
        FROM busybox
        COPY --from=one /one /
        COPY --from=two /two /
        COPY --link files/1 /linked
        RUN rm /two && echo three > /three
    """)
    for number in range(20):
        bench.write(f"files/{number}", f"{number}\n" * 1000)
    temporary = bench.scratch / "tmp"
    temporary.mkdir()
    workers = [start(bench, number, temporary) for number in range(WORKERS)]
    outcomes = [worker.communicate() for worker in workers]
    survived = died = 0
    for worker, (said, complained) in zip(workers, outcomes, strict=True):
        assert worker.returncode == 0, complained[-5000:]
        found = json.loads(said)
        assert found["complaints"] == []
        assert found["outputs"] == ["app.tar"]
        survived += found["survived"]
        died += found["died"]
    assert survived == KILLS
    # The moments are spread over a whole build: some were faster.
    assert died > KILLS * 0.4
    assert list(temporary.iterdir()) == []
    print(f"survived {survived} of {KILLS} kills, {died} of them before the build's end; {found['took_s']:.0f} s")


def start(bench: Workbench, worker: int, temporary: Path) -> subprocess.Popen[str]:
    """Start the killing of a part of the builds."""
    folder = bench.scratch / f"worker{worker}"
    folder.mkdir()
    shutil.copytree(bench.context, folder / "context")
    (folder / "token").write_text("a secret that nobody shall find")
    program = [sys.executable, Path(__file__).with_name("killer.py"), folder, bench.stagewright.config]
    kills = KILLS // WORKERS + (worker < KILLS % WORKERS)
    return subprocess.Popen(
        [str(word) for word in (*program, kills, SEED + worker, KILLS_PER_STORE)],
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
