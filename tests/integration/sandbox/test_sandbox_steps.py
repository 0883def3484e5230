"""What a step is given: user, directory, environment, limits, mounts, secrets, agents; and how it ends."""

from __future__ import annotations

import os
import resource
import socket
import stat
import threading
from pathlib import Path

import pytest
from box import Box, make_root, tree

from stagewright.errors import SandboxError
from stagewright.sandbox.native import NativeRuntime
from stagewright.sandbox.spec import BindMount, Root, SecretMount, SshMount, TmpfsMount

CAP_SYS_RESOURCE = 24


def test_output_of_both_streams_arrives_whole(box: Box) -> None:
    ran = box.sh("i=0; while [ $i -lt 2000 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done")
    assert ran.out.split() == [f"out{number}" for number in range(2000)]
    assert ran.err.split() == [f"err{number}" for number in range(2000)]


def test_megabytes_of_output(box: Box) -> None:
    ran = box.sh("head -c 8000000 /dev/zero")
    assert ran.out == "\0" * 8000000


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes(box: Box, code: int) -> None:
    assert box.sh(f"exit {code}").code == code


def test_a_signal_is_128_and_its_number(box: Box) -> None:
    # The first process of a PID namespace does not die of signals from inside, so the shell's child does.
    assert box.sh("sh -c 'kill -9 $$'; exit $?").code == 137


def test_a_missing_program_is_127(box: Box) -> None:
    ran = box.run("no-such-program")
    assert ran.code == 127
    assert 'exec: "no-such-program": executable file not found in $PATH' in ran.err


def test_a_missing_path_is_127(box: Box) -> None:
    ran = box.run("/no/such/program")
    assert ran.code == 127
    assert 'exec: "/no/such/program": stat /no/such/program: no such file or directory' in ran.err


def test_a_file_that_is_no_program_is_126(box: Box) -> None:
    ran = box.run("/etc/passwd")
    assert ran.code == 126
    assert 'exec: "/etc/passwd": permission denied' in ran.err


def test_a_program_that_the_user_may_not_run_fails(box: Box, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    program = layer / "private"
    program.write_text("#!/bin/sh\nid\n")
    program.chmod(0o700)
    # Older versions of runc start it with root's rights, and the interpreter then cannot read it.
    assert box.run("/private", root=box.fresh_root(layer), user="bob").code in (126, 2)


def test_the_working_directory(box: Box) -> None:
    assert box.run("sh", "-c", "pwd", cwd="/etc").out == "/etc\n"


def test_a_missing_working_directory_is_made_for_the_user(box: Box) -> None:
    ran = box.sh("pwd; stat -c %u:%g:%a . ..", cwd="/srv/app", user="bob")
    assert ran.out.split() == ["/srv/app", "1000:1001:755", "1000:1001:755"]
    assert tree(ran.upper) == ["srv", "srv/app"]


def test_a_working_directory_that_is_a_file(box: Box) -> None:
    with pytest.raises(SandboxError, match=r"(?i)not a directory"):
        box.sh("pwd", cwd="/etc/passwd")


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "0 0 0,10"),
        ("root", "0 0 0,10"),
        ("bob", "1000 1001 1001,50,10"),
        ("1000", "1000 1001 1001,50,10"),
        ("bob:staff", "1000 50 50"),
        ("bob:7", "1000 7 7"),
        ("4321", "4321 0 0"),
        ("4321:8765", "4321 8765 8765"),
    ],
)
def test_users(box: Box, user: str, expected: str) -> None:
    uid, gid, groups = expected.split()
    ran = box.sh("id -u; id -g; id -G", user=user)
    lines = ran.out.splitlines()
    assert lines[:2] == [uid, gid]
    assert set(lines[2].split()) == set(groups.split(","))


@pytest.mark.parametrize("user", ["alice", "root:nobody", "-1", "4294967295"])
def test_unknown_users(box: Box, user: str) -> None:
    with pytest.raises(SandboxError, match=r"unable to find|must be in range"):
        box.sh("id", user=user)


def test_user_files_that_are_links_out_of_the_image(box: Box, tmp_path: Path) -> None:
    layer, outside = tmp_path / "layer", tmp_path / "passwd"
    outside.write_text("eve:x:666:666::/:/bin/sh\n")
    (layer / "etc").mkdir(parents=True)
    (layer / "etc/passwd").symlink_to(f"../../../../../../../../..{outside}")
    with pytest.raises(SandboxError, match="unable to find user eve"):
        box.sh("id", user="eve", root=box.fresh_root(layer))


def test_a_fifo_in_place_of_the_user_file_does_not_hang(box: Box, tmp_path: Path) -> None:
    if not isinstance(box.runtime, NativeRuntime):
        pytest.skip("runc opens the file itself, and waits until the step is canceled")
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True)
    os.mkfifo(layer / "etc/passwd")
    ran = box.run("cat", "/proc/self/status", user="12", root=box.fresh_root(layer))
    assert "Uid:\t12\t12\t12\t12\n" in ran.out


def test_the_environment(box: Box) -> None:
    ran = box.run("env", env=("PATH=/bin", "A=1", "B=x=y", "A=2", "EMPTY="), user="bob")
    assert set(ran.out.splitlines()) >= {"PATH=/bin", "A=2", "B=x=y", "EMPTY=", "HOME=/home/bob"}
    assert "A=1" not in ran.out.splitlines()


def test_home_is_kept_if_it_is_set(box: Box) -> None:
    assert "HOME=/elsewhere" in box.run("env", env=("PATH=/bin", "HOME=/elsewhere")).out.splitlines()


def test_nothing_of_the_builders_environment_gets_in(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_BUILDER", "1")
    assert "OF_THE_BUILDER" not in box.run("env").out


def test_limits(box: Box) -> None:
    ran = box.sh("ulimit -n; ulimit -H -n", ulimits=(("nofile", 100, 200),))
    assert ran.out.split() == ["100", "200"]


def test_a_limit_that_may_not_be_raised(box: Box) -> None:
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.split(":\t", 1) for line in file)
    if int(status["CapEff"], 16) >> CAP_SYS_RESOURCE & 1:
        pytest.skip("this process may raise limits")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(SandboxError, match="limit"):
        box.sh("true", ulimits=(("nofile", hard + 1, hard + 1),))


def test_an_unknown_limit(box: Box) -> None:
    with pytest.raises(SandboxError, match="there is no resource limit 'nofiles'"):
        box.sh("true", ulimits=(("nofiles", 1, 1),))


def test_hosts_and_resolver(box: Box) -> None:
    ran = box.sh("cat /etc/hosts; echo --; cat /etc/resolv.conf", extra_hosts=(("db.example", "10.1.2.3"),))
    hosts, _, resolver = ran.out.partition("--\n")
    assert "127.0.0.1\tlocalhost buildkitsandbox\n" in hosts
    assert "10.1.2.3\tdb.example\n" in hosts
    assert resolver == Path("/etc/resolv.conf").read_text()


def test_the_hostname_file_is_the_images_own(box: Box) -> None:
    ran = box.sh("echo mine > /etc/hostname && cat /etc/hostname")
    assert ran.out == "mine\n"
    assert (ran.upper / "etc/hostname").read_text() == "mine\n"


def test_shared_memory_size(box: Box) -> None:
    ran = box.sh("head -c 2000000 /dev/zero 2>/dev/null > /dev/shm/x; stat -c %s /dev/shm/x", shm_size=1 << 20)
    assert ran.out == f"{1 << 20}\n"


def test_a_bind_mount(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("text")
    ran = box.sh("cat /new/place/file; echo more > /new/place/other", mounts=(BindMount("/new/place", str(source)),))
    assert ran.out == "text"
    assert (source / "other").read_text() == "more\n"
    assert tree(ran.upper) == []
    assert ran.outcome.created_mountpoints[:2] == ("new/place", "new")


def test_a_read_only_bind_mount(box: Box, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    mount = BindMount("/place", str(tmp_path / "source"), readonly=True)
    ran = box.sh("touch /place/x 2>/dev/null || echo refused; mount -o remount,rw /place 2>/dev/null", mounts=(mount,))
    assert ran.out == "refused\n"
    assert os.listdir(tmp_path / "source") == []


def test_a_file_as_bind_mount(box: Box, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    ran = box.sh("cat /some/where", mounts=(BindMount("/some/where", str(tmp_path), subpath="file", readonly=True),))
    assert ran.out == "text"
    assert tree(ran.upper) == []


def test_a_subpath_stays_inside_its_source(box: Box, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner/who").write_text("inside")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/who").write_text("outside")
    (source / "absolute").symlink_to("/inner")
    (source / "upwards").symlink_to("../../inner")
    for subpath in ("inner", "absolute", "upwards", "../inner", "/inner/"):
        ran = box.sh("cat /m/who", mounts=(BindMount("/m", str(source), subpath=subpath),))
        assert ran.out == "inside", subpath


def test_a_missing_subpath(box: Box, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="cannot mount /m: No such file or directory"):
        box.sh("true", mounts=(BindMount("/m", str(tmp_path), subpath="nothing"),))


def test_an_overlay_as_bind_mount(box: Box, tmp_path: Path) -> None:
    for name in ("one", "two", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/a").write_text("1")
    (tmp_path / "two/a").write_text("2")
    (tmp_path / "two/b").write_text("2")
    lowers = (str(tmp_path / "one"), str(tmp_path / "two"))
    mounts = (
        BindMount("/ro", Root(lowers), readonly=True),
        BindMount("/rw", Root(lowers, str(tmp_path / "upper"), str(tmp_path / "work"))),
        BindMount("/single", Root(lowers[:1]), readonly=True),
        BindMount("/empty", Root(())),
    )
    ran = box.sh("cat /ro/a /ro/b /rw/b /single/a; ls /empty; rm /rw/b; touch /rw/c; ls /rw", mounts=mounts)
    assert ran.out == "1221a\nc\n"
    assert "c" in os.listdir(tmp_path / "upper")


def test_mounts_inside_mounts(box: Box, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    mounts = (
        SecretMount("/cache/inner/secret", b"hidden"),
        TmpfsMount("/cache/inner"),
        BindMount("/cache", str(tmp_path / "cache")),
    )
    ran = box.sh("cat /cache/inner/secret; touch /cache/kept /cache/inner/lost", mounts=mounts)
    assert ran.out == "hidden", ran.err
    assert "kept" in os.listdir(tmp_path / "cache")
    assert os.listdir(tmp_path / "cache/inner") == []


def test_a_link_as_mount_target_does_not_lead_out(box: Box, tmp_path: Path) -> None:
    layer, outside, source = tmp_path / "layer", tmp_path / "outside", tmp_path / "source"
    for directory in (layer, outside, source):
        directory.mkdir()
    (source / "here").touch()
    (layer / "absolute").symlink_to(outside)
    (layer / "upwards").symlink_to("../" * 20 + str(outside).lstrip("/"))
    mounts = tuple(BindMount(f"/{name}/made", str(source)) for name in ("absolute", "upwards"))
    ran = box.sh("ls /absolute/made /upwards/made", mounts=mounts, root=box.fresh_root(layer))
    assert ran.out.split().count("here") == 2, ran.err
    assert os.listdir(outside) == []
    assert tree(ran.upper) == []


def test_mounts_have_the_names_that_runtimes_give_them(box: Box) -> None:
    lines = box.sh("while read -r source place kind rest; do echo $source $place $kind; done < /proc/mounts").out
    expected = {"overlay / overlay", "proc /proc proc", "sysfs /sys sysfs", "tmpfs /dev tmpfs", "shm /dev/shm tmpfs"}
    assert expected <= set(lines.splitlines())


def test_a_tmpfs(box: Box) -> None:
    mount = TmpfsMount("/t", size=1 << 20, mode=0o1777)
    ran = box.sh("stat -c %a /t; head -c 3000000 /dev/zero > /t/x 2>/dev/null; stat -c %s /t/x", mounts=(mount,))
    assert ran.out.split() == ["1777", str(1 << 20)]


def test_a_secret(box: Box) -> None:
    secret = SecretMount("/run/secrets/token", b"the-secret-of-the-test", mode=0o440, uid=1000, gid=1001)
    script = "cat $0; echo; stat -c %a:%u:%g $0; (echo x >> $0) 2>/dev/null || echo refused; cat $0 > /copy"
    ran = box.run("sh", "-c", script, "/run/secrets/token", mounts=(secret,), user="root")
    assert ran.out.split() == ["the-secret-of-the-test", "440:1000:1001", "refused"]
    assert tree(ran.upper) == ["copy"]


def test_a_secret_is_on_no_command_line_and_no_disk(box: Box, tmp_path: Path) -> None:
    data = b"never-on-disk-" + os.urandom(8).hex().encode()
    seen: list[bytes] = []

    def look(_stream: int, _data: bytes) -> None:
        for process in filter(str.isdecimal, os.listdir("/proc")):
            for name in ("cmdline", "environ"):
                try:
                    seen.append(Path("/proc", process, name).read_bytes())
                except OSError:
                    continue

    ran = box.sh("echo go; sleep 0.2", mounts=(SecretMount("/run/secrets/s", data),), on_output=look)
    assert ran.code == 0
    assert seen and not any(data in text for text in seen)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or data not in path.read_bytes()
    assert data.decode() not in repr(SecretMount("/run/secrets/s", data))


def test_a_big_secret(box: Box) -> None:
    data = os.urandom(3 << 20)
    ran = box.sh("stat -c %s /s; cat /s > /copy", mounts=(SecretMount("/s", data),))
    assert ran.out == f"{3 << 20}\n"
    assert (ran.upper / "copy").read_bytes() == data


@pytest.fixture
def echo_agent(tmp_path: Path) -> str:
    """A Unix socket whose connections get back what they send, in upper case, until they stop sending."""
    path = str(tmp_path / "agent.sock")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data.upper())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return path


CLIENT = """
import _socket, os, sys
for _ in range(3):
    client = _socket.socket(_socket.AF_UNIX)
    client.connect("/run/agent/socket")
    client.sendall(b"hello" * 20000)
    got = b""
    while len(got) < 100000:
        got += client.recv(1 << 16)
    client.shutdown(_socket.SHUT_WR)
    got += client.recv(1 << 16)
    client.close()
    print(got == b"HELLO" * 20000)
status = os.stat("/run/agent/socket")
print(oct(status.st_mode), status.st_uid, status.st_gid)
"""


def test_an_agents_socket(box: Box, echo_agent: str) -> None:
    before = os.stat(echo_agent)
    mount = SshMount("/run/agent/socket", echo_agent, mode=0o660, uid=1000, gid=50)
    ran = box.python(CLIENT, mounts=(mount,), user="bob")
    assert ran.out.split() == ["True"] * 3 + [oct(stat.S_IFSOCK | 0o660), "1000", "50"], ran.err
    after = os.stat(echo_agent)
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert tree(ran.upper) == []


def test_an_agent_that_has_gone(box: Box, tmp_path: Path) -> None:
    code = """
import _socket
client = _socket.socket(_socket.AF_UNIX)
client.connect("/agent")
print(client.recv(1))
"""
    ran = box.python(code, mounts=(SshMount("/agent", str(tmp_path / "gone")),))
    assert ran.out == "b''\n", ran.err


def test_the_hosts_certificates(box: Box, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\n")
    ran = box.sh("env; cat $SSL_CERT_FILE", host_ca=str(bundle), env=("PATH=/bin", "PIP_CERT=/own"), user="bob")
    assert "-----BEGIN CERTIFICATE-----" in ran.out
    variables = dict(line.split("=", 1) for line in ran.out.splitlines() if "=" in line)
    assert variables["PIP_CERT"] == "/own"
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE"):
        assert variables[name].startswith("/run/stagewright/")
    assert tree(ran.upper) == []


def test_certificates_that_are_not_there(box: Box, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="cannot read the host's CA certificates"):
        box.sh("true", host_ca=str(tmp_path / "nothing"))


def test_hundreds_of_layers_with_long_names(box: Box, tmp_path: Path) -> None:
    base = tmp_path / ("d" * 200) / ("e" * 200)
    layers = []
    for number in range(300):
        layer = base / f"layer{number}"
        layer.mkdir(parents=True)
        (layer / "newest").write_text(str(number))
        (layer / f"file{number}").touch()
        layers.insert(0, layer)
    ran = box.sh("cat /newest; ls / | grep -c file || true; ls / ", root=box.fresh_root(*layers))
    assert ran.out.startswith("299")
    assert sum(name.startswith("file") for name in ran.out.split()) == 300


def test_a_root_without_any_layer_below(box: Box, busybox: str, tmp_path: Path) -> None:
    upper, work = tmp_path / "up", tmp_path / "wk"
    make_root(upper, busybox)
    work.mkdir()
    before = tree(upper)
    ran = box.sh("cat /etc/hosts; rm /bin/ls; touch /new", root=Root((), str(upper), str(work)))
    assert ran.code == 0, ran.err
    assert "localhost" in ran.out
    assert set(tree(upper)) == {*before, "new"} - {"bin/ls"}


def test_nul_characters_are_refused(box: Box) -> None:
    with pytest.raises(SandboxError, match="NUL"):
        box.run("echo", "a\0b")


def test_neither_a_step_nor_its_end_syncs_the_disk(box: Box) -> None:
    mounts = box.sh("cat /proc/self/mountinfo").out.splitlines()
    (root,) = (line for line in mounts if line.split()[4] == "/")
    # The kernel's name for it since 6.18 is the second.
    assert {"volatile", "fsync=volatile"} & set(root.rsplit(" ", 1)[1].split(","))
