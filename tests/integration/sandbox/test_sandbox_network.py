"""The network that the steps of a build have for themselves, by either program."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import Box, make_root
from mapped_runtime import find_interpreter
from processes import command_of, descendants

from stagewright.sandbox.native import NativeRuntime
from stagewright.sandbox.network_child import STEPS
from stagewright.sandbox.oci import OciRuntime
from stagewright.sandbox.spec import Runtime


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Leaves these programs in PATH; gives the folder."""
    folder = tmp_path / "programs"
    folder.mkdir()

    def leave(*names: str) -> Path:
        for name in names:
            found = shutil.which(name)
            if found is None:
                pytest.skip(f"{name} is not installed")
            (folder / name).symlink_to(found)
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return leave


@pytest.fixture(params=[("native", "pasta"), ("native", "slirp4netns"), ("oci", "slirp4netns")], ids="-".join)
def own(request: pytest.FixtureRequest, lower: Path, tmp_path: Path, only: Callable[..., Path]) -> Iterator[Box]:
    """Steps with a network by one of the programs, and no excuse to share the host's."""
    kind, program = request.param
    runc = shutil.which("runc")
    only(program)
    made: Runtime
    if kind == "native":
        made = NativeRuntime(notify=pytest.fail)
    else:
        made = OciRuntime(runc or "runc", notify=pytest.fail)
    yield Box(made, lower, tmp_path)
    made.close()


def helpers_running() -> list[str]:
    """The programs' processes among our descendants: other builds have theirs."""
    programs = {pid: os.path.basename(words[0]) for pid in descendants(os.getpid()) if (words := command_of(pid))}
    return [str(pid) for pid, program in programs.items() if program in (b"pasta", b"slirp4netns")]


def test_one_network_serves_all_steps_of_a_build(own: Box) -> None:
    before = set(helpers_running())
    names = {own.sh("ls -l /proc/self/ns/net; ls /sys/class/net").out.split(" -> ")[1] for _ in range(3)}
    assert len(names) == 1
    (name,) = names
    assert name.split()[1:] == ["eth0", "lo"]
    assert name.split()[0] != os.readlink("/proc/self/ns/net")
    assert len(set(helpers_running()) - before) == 1
    own.runtime.close()
    assert set(helpers_running()) - before == set()


def test_the_other_networks_are_as_asked_for(own: Box) -> None:
    before = helpers_running()
    assert own.sh("ls -l /proc/self/ns/net", network="host").out.rstrip().endswith(os.readlink("/proc/self/ns/net"))
    assert own.sh("ls /sys/class/net", network="none").out.split() == ["lo"]
    assert helpers_running() == before


ATTACK = """
import _socket as s, struct

def csum(b):
    b += b"\\0" * (len(b) % 2)
    n = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    n = (n >> 16) + (n & 0xFFFF)
    return ~(n + (n >> 16)) & 0xFFFF

def frames(own, router, source, udp_port, tcp_port):
    for target in ("127.0.0.1", "0.0.0.0"):
        ends = s.inet_aton(source) + s.inet_aton(target)
        data = b"by frame"
        udp = struct.pack("!HHHH", 5555, udp_port, 8 + len(data), 0) + data
        tcp = struct.pack("!HHIIBBHHH", 6001, tcp_port, 1000, 0, 0x50, 2, 65535, 0, 0)
        tcp = tcp[:16] + struct.pack("!H", csum(ends + struct.pack("!BBH", 0, 6, len(tcp)) + tcp)) + tcp[18:]
        for kind, body in ((17, udp), (6, tcp)):
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, kind, 0) + ends
            head = head[:10] + struct.pack("!H", csum(head)) + head[12:]
            yield router + own + b"\\x08\\x00" + head + body
    target = s.inet_pton(s.AF_INET6, "::ffff:127.0.0.1")
    source = s.inet_pton(s.AF_INET6, "fd5b:40::100")
    udp = struct.pack("!HHHH", 5555, udp_port, 16, 0) + b"by frame"
    sum6 = csum(source + target + struct.pack("!II", len(udp), 17) + udp)
    udp = udp[:6] + struct.pack("!H", sum6) + udp[8:]
    yield router + own + b"\\x86\\xdd" + struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + source + target + udp

def attempt(address, port, device):
    family = s.AF_INET6 if ":" in address else s.AF_INET
    probe = s.socket(family)
    probe.settimeout(0.5)
    try:
        if device:
            probe.setsockopt(s.SOL_SOCKET, s.SO_BINDTODEVICE, b"eth0")
        probe.connect((address, port))
        print("connected to", address, "by", device)
    except OSError:
        pass

def main(udp_port, tcp_port, source, abstract):
    for address in ("127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1", "10.91.64.1", "10.91.64.2"):
        for device in (False, True):
            attempt(address, tcp_port, device)
    with open("/proc/net/arp") as file:
        router = next(line.split()[3] for line in file if line.startswith("10.91.64.1 "))
    link = s.socket(s.AF_PACKET, s.SOCK_RAW)
    link.bind(("eth0", 0))
    for frame in frames(link.getsockname()[4], bytes.fromhex(router.replace(":", "")), source, udp_port, tcp_port):
        link.send(frame)
    other = s.socket(s.AF_UNIX)
    try:
        other.connect(abstract)
        print("connected to the abstract socket")
    except OSError:
        pass
    print("tried")
"""


def test_the_hosts_loopback_cannot_be_reached(own: Box) -> None:
    """Not by its address, nor by a socket that is bound to the way out, nor by frames of the step's own making."""
    abstract = f"\0stagewright-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as local,
    ):
        udp.bind(("127.0.0.1", 0))
        local.bind(abstract)
        local.listen()
        ports = f"{udp.getsockname()[1]}, {tcp.getsockname()[1]}"
        # A gateway on the way of this machine may answer for any address: that one is of no network here.
        ran = own.python(f"{ATTACK}\nmain({ports}, {STEPS!r}, {abstract!r})")
        assert ran.out.splitlines()[-1:] == ["tried"], ran.err
        assert [line for line in ran.out.splitlines() if "10.91.64" not in line] == ["tried"]
        # What was sent is on its way no longer once a packet that was sent after it has been answered for.
        own.python("import _socket; s = _socket.socket(); s.settimeout(0.5); s.connect_ex(('10.91.64.1', 9))")
        for listener in (tcp, udp, local):
            listener.settimeout(0)
            with pytest.raises(BlockingIOError):
                listener.recv(1) if listener is udp else listener.accept()


def host_address() -> str:
    """This machine's own address, if it has one besides loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.200", 9))
        except OSError:
            pytest.skip("this machine has no route")
        return str(probe.getsockname()[0])


def test_what_the_host_offers_to_its_network_can_be_reached(own: Box) -> None:
    address = host_address()
    sent = os.urandom(1 << 20)

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(sent)

    with socket.create_server((address, 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        ran = own.python(
            f"""
import _socket
probe = _socket.socket()
probe.settimeout(60)
probe.connect({server.getsockname()!r})
size = 0
while data := probe.recv(1 << 16):
    size += len(data)
print(size)
"""
        )
        thread.join()
    assert ran.out.split() == [str(len(sent))], ran.err


RESOLVER = """
import os, socket, sys, threading
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from box import Box
from stagewright.sandbox.native import NativeRuntime

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))

def answer():
    data, client = server.recvfrom(512)
    server.sendto(data[:2] + b"the answer", client)

threading.Thread(target=answer, daemon=True).start()
runtime = NativeRuntime(notify=sys.exit)
box = Box(runtime, Path(sys.argv[2]), Path(sys.argv[3]))
ran = box.python('''
import _socket
with open("/etc/resolv.conf") as file:
    (address,) = [line.split()[1] for line in file if line.startswith("nameserver")]
probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
probe.settimeout(20)
question = b"id" + bytes.fromhex("01000001000000000000") + b"\\\\7example\\\\0" + bytes.fromhex("00010001")
probe.sendto(question, (address, 53))
print(probe.recv(512))
''')
print(ran.out, ran.err)
runtime.close()
"""


@pytest.mark.root("answers on port 53")
@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_a_resolver_on_the_hosts_loopback_answers(
    program: str, lower: Path, tmp_path: Path, only: Callable[..., Path]
) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    unshare = shutil.which("unshare") or "unshare"
    only(program, "mount", "sh")
    code = textwrap.dedent(RESOLVER)
    script = 'mount --bind "$1" /etc/resolv.conf; shift; exec "$@"'
    inner = [sys.executable, "-c", code, Path(__file__).parent, lower, tmp_path]
    command = [unshare, "-m", "sh", "-c", script, "sh", tmp_path / "resolv.conf", *inner]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "the answer" in run.stdout, run.stderr


def test_without_a_program_steps_share_the_hosts_network_and_it_is_said_once(
    lower: Path, tmp_path: Path, only: Callable[..., Path]
) -> None:
    only("sh")
    told: list[str] = []
    runtime = NativeRuntime(notify=told.append)
    try:
        box = Box(runtime, lower, tmp_path)
        for _ in range(2):
            assert box.sh("ls -l /proc/self/ns/net").out.rstrip().endswith(os.readlink("/proc/self/ns/net"))
    finally:
        runtime.close()
    (line,) = told
    assert line.startswith("neither pasta nor slirp4netns is installed: steps share the host's network")


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo first; echo no tap today >&2; exit 1", "no tap today"), ("exit 3", "it ended without a word")],
)
def test_a_program_that_fails_is_quoted(
    lower: Path, tmp_path: Path, only: Callable[..., Path], script: str, said: str
) -> None:
    broken = only("sh") / "pasta"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    told: list[str] = []
    runtime = NativeRuntime(notify=told.append)
    try:
        assert Box(runtime, lower, tmp_path).run("true").code == 0
    finally:
        runtime.close()
    (line,) = told
    assert line.startswith(f"{broken}: {said}: steps share the host's network")


MAPPED = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from mapped_runtime import MappedRuntime
from stagewright.sandbox.spec import Root, Step

runtime = MappedRuntime("native", sys.argv[4], Path(sys.argv[3]))
step = Step(("ls", "/sys/class/net"), Root((sys.argv[2],)), ("PATH=/bin",))
runtime.run(step, lambda stream, data: os.write(1, data), threading.Event())
runtime.close()
"""


@pytest.mark.root("makes a device node")
@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_an_ordinary_user_has_a_network_where_he_may_open_the_device(
    program: str, busybox: str, only: Callable[..., Path]
) -> None:
    interpreter = find_interpreter()
    if interpreter is None:
        pytest.skip("there is no Python that an ordinary user can run")
    unshare = shutil.which("unshare") or "unshare"
    only("mount", "sh")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_root(folder / "lower", busybox)
        program_path = shutil.which(program, path=os.defpath + ":/usr/sbin:/sbin")
        if program_path is None:
            pytest.skip(f"{program} is not installed")
        (folder / program).symlink_to(program_path)
        os.mknod(folder / "tun", stat.S_IFCHR, os.makedev(10, 200))
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o777)
        inner = [sys.executable, "-c", textwrap.dedent(MAPPED), Path(__file__).parent, folder / "lower", folder]
        script = 'mount --bind "$1" /dev/net/tun; export PATH="$2"; shift 2; exec "$@"'
        command = [unshare, "-m", "sh", "-c", script, "sh", folder / "tun", folder, *inner, interpreter[0]]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.split() == ["eth0", "lo"], run.stderr
