"""Example 6: a dependency from a private git server, fetched with a key that never leaves the user's agent."""

from __future__ import annotations

import os
import pwd
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Image, Stagewright, files_holding, output_of

EXAMPLE = "06-private-git"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "sshd"


@dataclass(frozen=True, slots=True)
class GitServer:
    """A git server behind sshd on loopback: what pip takes for its package, and the ssh files of its one user."""

    requirement: str
    known_hosts: Path
    key: Path
    agent: dict[str, str]


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[GitServer]:
    folder = tmp_path / "git-server"
    folder.mkdir()
    repository = make_repository(folder)
    host_key, user_key = make_key(folder / "host_key"), make_key(folder / "user_key")
    shutil.copy(f"{user_key}.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"HostKey {host_key}\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        'ForceCommand git-shell -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)

    class Connection(socketserver.BaseRequestHandler):
        """Hands a connection to a sshd of its own, so that the listening port is ours from the start."""

        def handle(self) -> None:
            command = [SSHD, "-i", "-e", "-f", str(folder / "sshd_config")]
            with open(folder / "sshd.log", "ab") as log:
                subprocess.run(command, stdin=self.request, stdout=self.request, stderr=log, check=False)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as server, Agent(user_key) as agent:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        kind, public = Path(f"{host_key}.pub").read_text().split()[:2]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {public}\n")
        requirement = f"git+ssh://{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1:{port}{repository}@v1.0.0"
        yield GitServer(requirement, folder / "known_hosts", user_key, agent)
        server.shutdown()


class Agent:
    """An ssh-agent that holds one key; entering gives the environment that leads to it."""

    def __init__(self, key: Path) -> None:
        self._key = key
        self._socket = key.with_name("agent.sock")

    def __enter__(self) -> dict[str, str]:
        environment = {"SSH_AUTH_SOCK": str(self._socket)}
        started = subprocess.Popen(["ssh-agent", "-D", "-a", self._socket], stdout=subprocess.PIPE)
        self._agent = started
        assert started.stdout is not None
        # The agent prints its address once its socket is there.
        assert b"SSH_AUTH_SOCK" in started.stdout.readline()
        subprocess.run(["ssh-add", "-q", self._key], env=os.environ | environment, check=True)
        return environment

    def __exit__(self, *_: object) -> None:
        self._agent.terminate()
        self._agent.wait()


def make_key(path: Path) -> Path:
    output_of("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path)
    return path


def make_repository(folder: Path) -> Path:
    """A bare repository that holds a Python package, tagged v1.0.0."""
    work, bare = folder / "work", folder / "greetings.git"
    (work / "greetings").mkdir(parents=True)
    (work / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n\n'
        '[project]\nname = "greetings"\nversion = "1.0.0"\n'
    )
    (work / "greetings" / "__init__.py").touch()
    (work / "greetings" / "__main__.py").write_text('print("greetings from a private repository")\n')
    git = ["git", "-C", work, "-c", "user.name=test", "-c", "user.email=test@localhost"]
    output_of(*git, "init", "-q")
    output_of(*git, "add", ".")
    output_of(*git, "commit", "-q", "-m", "first")
    output_of(*git, "tag", "v1.0.0")
    output_of("git", "clone", "-q", "--bare", work, bare)
    return bare


def flags(server: GitServer) -> list[str]:
    # The server listens on this machine's loopback, which only the host's network has.
    known_hosts = f"--secret=id=known_hosts,src={server.known_hosts}"
    return ["--network=host", f"--build-arg=DEPENDENCY={server.requirement}", known_hosts]


def test_the_dependency_is_fetched_through_the_agent(
    standin_stagewright: Stagewright, example: Path, git_server: GitServer, tmp_path: Path
) -> None:
    archive = tmp_path / "greetings.tar"
    standin_stagewright.build(
        example, *flags(git_server), "--ssh=default", "-o", f"type=oci,dest={archive}", env=git_server.agent
    )
    image = Image.load(archive, tmp_path)
    assert image.run() == "greetings from a private repository\n"
    assert not {"/usr/bin/git", "/usr/bin/ssh"} & image.files
    assert not image.below("/root/.ssh")


def test_a_key_file_serves_as_an_agent_and_is_nowhere(
    standin_stagewright: Stagewright, example: Path, git_server: GitServer, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    build = standin_stagewright.build(
        example, *flags(git_server), f"--ssh=default={git_server.key}", "-o", f"type=oci,tar=false,dest={layout}"
    )
    secret = git_server.key.read_bytes().splitlines()[2]
    assert secret not in build.log
    assert secret.decode() not in build.stderr
    assert files_holding(secret, standin_stagewright.root) == []
    assert files_holding(git_server.known_hosts.read_bytes(), standin_stagewright.root) == []
    # It is looked for in all layers, where the package's own text is found.
    assert files_holding(secret, layout) == []
    assert len(files_holding(b"greetings from a private repository", layout)) == 1


def test_without_an_agent_the_server_refuses(
    standin_stagewright: Stagewright, example: Path, git_server: GitServer
) -> None:
    build = standin_stagewright.build(example, *flags(git_server), check=False)
    assert build.status != 0
    assert b"Permission denied" in build.step("pip install").log
    assert "Traceback" not in build.stderr


def test_without_the_required_secret_the_step_does_not_start(
    standin_stagewright: Stagewright, example: Path, git_server: GitServer
) -> None:
    # With the network that the other builds have, so that the steps before are cached.
    build = standin_stagewright.build(
        example, "--network=host", "--ssh=default", check=False, env=git_server.agent
    )
    assert build.status != 0
    assert "known_hosts" in build.stderr
    assert build.step("pip install").log == b""
