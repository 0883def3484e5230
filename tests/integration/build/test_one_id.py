"""Builds in a user namespace of one id: what keeps its owners all the same, and what is told of the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Files, Stagewright
from workbench import Workbench

# Inside, all other ids than root's do not exist, whoever is outside.
ONE_ID = ("unshare", "--user", "--map-root-user", "--mount")


def run_with_one_id(stagewright: Stagewright, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    flags = ["--root", stagewright.root, "--config", stagewright.config]
    words = [*ONE_ID, sys.executable, "-m", "stagewright", command, *flags, *arguments]
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)


def build_with_one_id(bench: Workbench, *flags: object) -> tuple[str, Files]:
    """What the build says, and its files."""
    archive = bench.scratch / "files.tar"
    destination = f"type=tar,dest={archive}"
    done = run_with_one_id(
        bench.stagewright, "build", "--progress=plain", "-o", destination, *flags, bench.context
    )
    assert done.returncode == 0, done.stderr
    return done.stderr, Files.read(archive.read_bytes())


def test_owners_are_kept(bench: Workbench) -> None:
    (bench.context / "file").write_text("data\n")
    bench.dockerfile("""
        FROM debian:trixie-slim AS base
        RUN test "$(stat -c %u:%g /etc/shadow)" = 0:0
        FROM scratch
        COPY --from=base /etc/shadow /
        COPY --chown=33:34 file /given
        COPY --chown=7:8 --from=base /etc/shadow /again
        COPY file /plain
        WORKDIR /work
    """)
    said, files = build_with_one_id(bench)
    owners = {path: files.owner(path) for path in ("/shadow", "/given", "/again", "/plain", "/work")}
    assert owners == {"/shadow": (0, 42), "/given": (33, 34), "/again": (7, 8), "/plain": (0, 0), "/work": (0, 0)}
    assert "this user has no subordinate ids: steps cannot change owners, nor run as other users than root" in said


@pytest.mark.parametrize("runtime", [(), ("--oci-runtime=runc",)])
def test_what_takes_more_ids_says_so(bench: Workbench, runtime: tuple[str, ...]) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN touch /file && ! chown 33 /file
        USER 12:34
        RUN true
    """)
    done = run_with_one_id(bench.stagewright, "build", "--progress=plain", *runtime, bench.context)
    assert done.returncode == 1
    assert "Dockerfile:4" in done.stderr
    assert "run as the user 12:34" in done.stderr or "unable to setup user" in done.stderr


def test_a_store_keeps_owners_in_one_way(bench: Workbench, tmp_path: Path) -> None:
    bench.dockerfile("FROM busybox\nRUN true\n")
    build_with_one_id(bench)
    refused = bench.stagewright.build(bench.context, "--no-cache", check=False)
    assert refused.status == 1
    made = "in a user namespace without subordinate ids"
    root = "by root" if os.geteuid() == 0 else "in a user namespace"
    assert f"the store was made {made} and cannot be used {root}" in refused.stderr
    assert "prune --all" in refused.stderr
    bench.stagewright.run("prune", "--all", "--force")
    bench.stagewright.build(bench.context, "--no-cache")
    again = run_with_one_id(bench.stagewright, "build", "--no-cache", bench.context)
    assert again.returncode == 1
    assert f"the store was made {root} and cannot be used {made}" in again.stderr
