"""Secrets and SSH agents: where steps find them, and that nothing else ever does."""

from __future__ import annotations

import base64
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Build, files_holding, output_of
from processes import commands
from workbench import Workbench, wait_for

SECRET = b"correct-horse-battery-staple-4711"


def forms(secret: bytes) -> list[bytes]:
    """The secret as it is, and what base64 makes of its middle at each alignment."""
    encoded = [base64.b64encode(bytes(shift) + secret)[8 : -8 or None] for shift in range(3)]
    return [secret, secret.hex().encode(), *encoded]


def leaks(bench: Workbench, *texts: str) -> list[str]:
    """Where the secret turns up: files below the scratch folder, but for its own one, and texts."""
    found = [
        str(path) for form in forms(SECRET) for path in files_holding(form, bench.scratch) if path.name != "secret"
    ]
    return found + [text for form in forms(SECRET) for text in texts if form.decode() in text]


@pytest.fixture
def secret(bench: Workbench) -> Path:
    """The secret's file, outside of the context."""
    path = bench.scratch / "secret"
    path.write_bytes(SECRET)
    return path


def test_where_steps_find_secrets(bench: Workbench, secret: Path) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN echo 'app:x:77:88::/:' >> /etc/passwd
        RUN --mount=type=secret,id=one stat -c '%a %u:%g %s' /run/secrets/one > /default
        RUN --mount=type=secret,id=one,target=/etc/deep/file,mode=0440,uid=7,gid=8 \\
            stat -c '%a %u:%g' /etc/deep/file > /placed; [ ! -e /run/secrets/one ]
        RUN --mount=type=secret,id=one,env=TOKEN [ ${#TOKEN} = 33 ] && [ ! -e /run/secrets/one ]
        RUN --mount=type=secret,id=one,env=TOKEN,target=/both [ "$TOKEN" = "$(cat /both)" ]
        RUN --mount=type=secret,id=variable grep -c horse /run/secrets/variable > /from-variable
        RUN --mount=type=secret,id=absent [ ! -e /run/secrets/absent ]
        RUN --mount=type=secret,id=one,required --mount=type=secret,id=variable \\
            cat /run/secrets/* | wc -c > /several
        USER app
        RUN --mount=type=secret,id=one ! cat /run/secrets/one
        RUN --mount=type=secret,id=one,mode=0444 cat /run/secrets/one > /dev/null
    """)
    flags = ("--secret", f"id=one,src={secret}", "--secret", "id=variable,env=MY_TOKEN")
    files = bench.files(*flags, env={"MY_TOKEN": SECRET.decode()})
    assert files.lines("/default") == ["400 0:0 33"]
    assert files.lines("/placed") == ["440 7:8"]
    assert files.lines("/from-variable") == ["1"]
    assert files.lines("/several") == ["66"]
    assert files.below("/run") == []
    assert [path for path in ("/etc/deep", "/both") if path in files] == []


@pytest.mark.parametrize("runtime", [(), ("--oci-runtime", "runc")])
def test_a_secret_is_nowhere_else(bench: Workbench, secret: Path, runtime: tuple[str, ...]) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=secret,id=one,required wc -c < /run/secrets/one
        RUN --mount=type=secret,id=one,env=TOKEN echo "${TOKEN}" | wc -c
        RUN --mount=type=secret,id=one,target=/root/.token --mount=type=cache,target=/root/.cache \\
            grep -c horse /root/.token
        RUN --mount=type=secret,id=one grep -q horse /run/secrets/one && exit 5
    """)
    flags = ("--secret", f"id=one,src={secret}", *runtime)
    failed = bench.stagewright.build(bench.context, *flags, check=False)
    assert "exit code: 5" in failed.stderr
    dockerfile = (bench.context / "Dockerfile").read_text()
    bench.dockerfile(dockerfile.replace(" && exit 5", ""))
    archives = [
        flag for kind in ("oci", "docker", "tar") for flag in ("-o", f"type={kind},dest={bench.scratch}/{kind}.tar")
    ]
    build = bench.build(
        *flags, "-t", "app", "-o", "type=image", "--metadata-file", bench.scratch / "metadata", *archives
    )
    plain = bench.stagewright.run("build", "--progress=plain", "--no-cache", "-D", *flags, bench.context)
    inspected = bench.stagewright.run("inspect", "app").stdout
    texts = (build.stdout, build.stderr, failed.stderr, failed.stdout, plain.stdout, plain.stderr, inspected)
    assert leaks(bench, *texts) == []
    assert any(SECRET in path.read_bytes() for path in bench.scratch.glob("secret")), "the search finds what is there"


@pytest.mark.parametrize("runtime", [(), ("--oci-runtime", "runc")])
def test_a_secret_is_on_no_disk_while_its_step_runs(bench: Workbench, secret: Path, runtime: tuple[str, ...]) -> None:
    bench.dockerfile("""
        FROM busybox
        RUN --mount=type=secret,id=one --mount=type=secret,id=one,env=TOKEN --mount=type=cache,target=/meet \\
            mkfifo /meet/go; echo I am; cat /meet/go; rm /meet/go
    """)
    process = bench.start("--secret", f"id=one,src={secret}", *runtime)
    try:
        wait_for(process, " I am")
        lines = [b" ".join(words) for words in commands().values()]
        assert leaks(bench) == []
        assert [line for line in lines if SECRET in line] == []
        (pipe,) = bench.stagewright.root.glob("*/*/go")
        pipe.write_bytes(b"")
        assert process.wait() == 0
    finally:
        process.kill()
        process.communicate()


def test_another_secret_is_no_change_of_the_step(bench: Workbench, secret: Path) -> None:
    bench.dockerfile("FROM busybox\nRUN --mount=type=secret,id=one wc -c < /run/secrets/one > /size\n")
    bench.build("--secret", f"id=one,src={secret}")
    secret.write_text("another, longer than the first one was")
    assert bench.build("--secret", f"id=one,src={secret}").ran == []
    assert bench.build().ran == []


@pytest.mark.parametrize(
    ("mount", "flags", "words"),
    [
        ("type=secret,id=one,required=true", [], ["Dockerfile:2", "one"]),
        ("type=secret,id=one", ["--secret", "id=one,src=/does/not/exist"], ["/does/not/exist"]),
        ("type=secret,id=one,required", ["--secret", "id=one,env=NOT_SET_ANYWHERE"], ["one"]),
        ("type=secret", [], ["Dockerfile:2", "id"]),
        ("type=ssh,required", [], ["Dockerfile:2", "ssh"]),
        ("type=ssh", ["--ssh", "default"], ["SSH_AUTH_SOCK"]),
        ("type=ssh", ["--ssh", "default=/does/not/exist"], ["/does/not/exist"]),
        ("type=ssh", ["--ssh", "default=/etc/passwd"], ["/etc/passwd"]),
    ],
)
def test_missing_ones(bench: Workbench, mount: str, flags: list[str], words: list[str]) -> None:
    bench.dockerfile(f"FROM busybox\nRUN --mount={mount} true\n")
    text = bench.fail(*flags, env={"SSH_AUTH_SOCK": ""})
    assert [word for word in words if word not in text] == []


# --- SSH --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its comment is `the-key`."""
    path = tmp_path / "key"
    output_of("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the-key", "-f", path)
    return path


@pytest.fixture
def agent(tmp_path: Path, key: Path) -> Iterator[Path]:
    """The socket of an agent that holds the key."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    subprocess.run(["ssh-add", "-q", key], env={**os.environ, "SSH_AUTH_SOCK": str(socket)}, check=True)
    yield socket
    process.terminate()
    process.wait()
    process.stdout.close()


def identities(bench: Workbench, *flags: object, mount: str = "type=ssh", env: dict[str, str] | None = None) -> Build:
    """Build a step that asks the agent for its keys, which fails if `the-key` is not among them."""
    bench.write("ask.py", ASK)
    bench.dockerfile(f"""
        FROM python:3.13-slim
        COPY ask.py /
        RUN --mount={mount} python3 /ask.py && ls -ld $(dirname $SSH_AUTH_SOCK) && echo sock=$SSH_AUTH_SOCK
        RUN [ -z "$SSH_AUTH_SOCK" ] && [ ! -e /run/buildkit ] && [ ! -e /agent ]
    """)
    return bench.build("--no-cache", *flags, env=env)


ASK = """
import os, socket, stat
path = os.environ["SSH_AUTH_SOCK"]
print("mode=%o" % stat.S_IMODE(os.stat(path).st_mode), "uid=%d" % os.stat(path).st_uid)
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
connection.sendall(bytes([0, 0, 0, 1, 11]))
answer = connection.recv(65536)
assert b"the-key" in answer, answer
"""


def test_the_users_agent(shared_bench: Workbench, agent: Path) -> None:
    build = identities(shared_bench, "--ssh", "default", env={"SSH_AUTH_SOCK": str(agent)})
    log = build.step("ask.py &&").log.decode()
    assert "sock=/run/buildkit/ssh_agent.0" in log
    assert "mode=600 uid=0" in log
    assert files_holding(b"ssh_agent", shared_bench.stagewright.root / "snapshots") == []


def test_an_agent_by_its_socket_with_an_id_a_place_and_an_owner(shared_bench: Workbench, agent: Path) -> None:
    mount = "type=ssh,id=work,target=/agent,mode=0666,uid=5"
    log = identities(shared_bench, "--ssh", f"work={agent}", mount=mount).step("ask.py &&").log.decode()
    assert "sock=/agent" in log
    assert "mode=666 uid=5" in log


def test_a_key_file_and_nothing_of_it_is_left(
    shared_bench: Workbench, key: Path, agents: Callable[[], list[str]]
) -> None:
    identities(shared_bench, "--ssh", f"default={key}")
    secret_part = key.read_bytes().splitlines()[2]
    assert [path for path in files_holding(secret_part, shared_bench.scratch) if path != key] == []
    assert agents() == []


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Gives the process IDs of the agents whose sockets are in this test's folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    command = ["pgrep", "-f", f"^ssh-agent .*{folder}/"]
    return lambda: subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()


def test_without_the_flag_there_is_no_agent(shared_bench: Workbench, agent: Path) -> None:
    shared_bench.dockerfile('FROM busybox\nRUN --mount=type=ssh [ -z "$SSH_AUTH_SOCK" ]\n')
    shared_bench.build(env={"SSH_AUTH_SOCK": str(agent)})


def test_a_killed_build_leaves_no_agent(
    shared_bench: Workbench, key: Path, agents: Callable[[], list[str]]
) -> None:
    shared_bench.dockerfile("FROM busybox\nRUN --mount=type=ssh echo I am; sleep 1000\n")
    process = shared_bench.start("--ssh", f"default={key}")
    wait_for(process, " I am")
    (agent,) = agents()
    folder = Path(Path(f"/proc/{agent}/cmdline").read_text().split("\0")[3]).parent
    pidfd = os.pidfd_open(int(agent))
    process.kill()
    process.communicate()
    assert select.select([pidfd], [], [], 60)[0], "the agent lives on"
    os.close(pidfd)
    while folder.exists():
        time.sleep(0.01)
