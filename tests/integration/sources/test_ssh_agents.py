"""Agents of OpenSSH's that hold key files for one build."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagewright.errors import NotFoundError, UsageError
from stagewright.sources.ssh import SshAgents

pytestmark = pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="needs openssh-client")


@pytest.fixture
def key(tmp_path: Path) -> str:
    return make_key(tmp_path / "key")


def make_key(path: Path, phrase: str = "") -> str:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True)
    return str(path)


@pytest.fixture
def opened() -> Iterator[list[SshAgents]]:
    agents: list[SshAgents] = []
    yield agents
    for one in agents:
        one.close()


def listed(agent: str) -> str:
    env = {**os.environ, "SSH_AUTH_SOCK": agent}
    return subprocess.run(["ssh-add", "-l"], env=env, capture_output=True, text=True).stdout


def test_key_files_are_in_an_agent_until_it_is_closed(tmp_path: Path, key: str) -> None:
    other = make_key(tmp_path / "other")
    os.chmod(other, 0o644)
    agents = SshAgents({"default": (key, other)}, os.environ)
    agents.check()
    sockets: list[str | None] = []
    threads = [threading.Thread(target=lambda: sockets.append(agents.socket("default"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    agent = sockets[0]
    assert agent is not None and set(sockets) == {agent}
    assert [line.split()[2] for line in listed(agent).splitlines()] == ["key", "other"]
    assert agents.socket("unknown") is None
    agents.close()
    assert not os.path.exists(os.path.dirname(agent))


def test_the_users_agent(opened: list[SshAgents], tmp_path: Path) -> None:
    path = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        agents = SshAgents({"default": (), "named": (path,)}, {"SSH_AUTH_SOCK": path})
        opened.append(agents)
        agents.check()
        assert agents.socket("default") == agents.socket("named") == path
        with pytest.raises(UsageError, match="--ssh default: give one agent socket or key files, not both"):
            SshAgents({"default": (path, path)}, {}).check()


def test_what_cannot_work_is_said_before_the_build(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="SSH_AUTH_SOCK is not set"):
        SshAgents({"default": ()}, {}).check()
    with pytest.raises(NotFoundError, match="No such file"):
        SshAgents({"default": ()}, {"SSH_AUTH_SOCK": str(tmp_path / "gone")}).check()
    with pytest.raises(NotFoundError, match="No such file"):
        SshAgents({"default": (str(tmp_path / "gone"),)}, {}).check()


def test_a_key_that_cannot_be_used(opened: list[SshAgents], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    for path in (str(tmp_path / "text"), make_key(tmp_path / "locked", "phrase")):
        agents = SshAgents({"default": (path,)}, os.environ)
        opened.append(agents)
        with pytest.raises(UsageError, match=f"--ssh default: the key {path} cannot be used: "):
            agents.socket("default")


def test_a_key_that_is_refused_without_a_word(opened: list[SshAgents], tmp_path: Path, key: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh-add").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "ssh-add").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    for path, why in ((key, "ssh-add refused it"), (str(tmp_path), "Is a directory")):
        agents = SshAgents({"default": (path,)}, env)
        opened.append(agents)
        with pytest.raises(UsageError, match=f"--ssh default: the key {path} cannot be used: {why}$"):
            agents.socket("default")


def test_without_openssh(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sh", "cat", "rm"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    agents = SshAgents({"default": (key,)}, os.environ)
    with pytest.raises(UsageError, match="--ssh default: ssh-agent cannot be started"):
        agents.socket("default")
    monkeypatch.undo()
    agents.close()


def test_an_agent_ends_with_a_killed_build(key: str) -> None:
    script = (
        "import os, sys; from stagewright.sources.ssh import SshAgents\n"
        "agents = SshAgents({'default': (sys.argv[1],)}, os.environ)\n"
        "print(agents.socket('default'), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as build:
        assert build.stdout is not None
        agent = build.stdout.readline().strip()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(agent)
            build.kill()
            # An agent that ends before it accepted the connection resets it.
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
    # What watches over the agent removes the folder, too, in its own time.
    shutil.rmtree(os.path.dirname(agent), ignore_errors=True)
