"""What a step must not be able to do, and see refused."""

from __future__ import annotations

import errno
import os
import platform
import resource
import stat
import threading
from pathlib import Path

import pytest
from box import Box, host_python, host_python_mounts
from calls import NUMBERS, SYSCALL

from stagewright.records import replace
from stagewright.sandbox.native import NativeRuntime
from stagewright.sandbox.oci import OciRuntime
from stagewright.sandbox.spec import BindMount

CLONE_NEWUSER = 0x10000000
REFUSED = sorted(set(NUMBERS) - {"clone3", "personality", "clone"})


@pytest.fixture
def disk() -> tuple[int, int]:
    """The number of a block device that the host itself can open."""
    for entry in sorted(Path("/dev").iterdir()):
        status = entry.lstat()
        if stat.S_ISBLK(status.st_mode):
            try:
                os.close(os.open(entry, os.O_RDONLY))
            except OSError:
                continue
            return os.major(status.st_rdev), os.minor(status.st_rdev)
    pytest.skip("the host has no block device that can be opened")


def test_dangerous_system_calls_fail_with_eperm(box: Box) -> None:
    calls = {name: NUMBERS[name] for name in REFUSED}
    ran = box.python(SYSCALL + f"for name, number in {calls!r}.items(): print(name, call(number, 0, 0, 0, 0, 0))")
    results = dict(line.split() for line in ran.out.splitlines())
    assert results == dict.fromkeys(REFUSED, str(errno.EPERM)), ran.err


def test_calls_with_arguments_that_the_profile_refuses(box: Box) -> None:
    ran = box.python(
        SYSCALL
        + f"""
print(call({NUMBERS["clone3"]}, None, 0))
print(call({NUMBERS["personality"]}, 0x0400000))
print(call({NUMBERS["personality"]}, 0))
print(call({NUMBERS["clone"]}, ctypes.c_ulong({CLONE_NEWUSER} | 17), None, None, None, None))
import _socket
for family in (40, 38, 1, 2, 16):
    try:
        _socket.socket(family, _socket.SOCK_RAW if family == 16 else _socket.SOCK_STREAM, 0).close()
        print(0)
    except OSError as error:
        print(error.errno)
print(call(100000))
"""
    )
    expected = [errno.ENOSYS, errno.EPERM, 0, errno.EPERM, errno.EPERM, errno.EPERM, 0, 0, 0, errno.ENOSYS]
    assert ran.out.split() == [str(number) for number in expected], ran.err


@pytest.mark.skipif(platform.machine() != "x86_64", reason="32-bit calls of x86")
def test_the_filter_holds_for_32_bit_calls(box: Box) -> None:
    ran = box.python(
        """
import ctypes, mmap
def call32(number):
    code = mmap.mmap(-1, 4096, prot=7)
    # mov eax, number; xor ebx, ebx; int 0x80; ret -- with rbx, which the callee keeps, saved around it
    code.write(b"\\x53\\xb8" + number.to_bytes(4, "little") + b"\\x31\\xdb\\xcd\\x80\\x5b\\xc3")
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return function()
print(call32(20), call32(21), call32(88), call32(310), call32(435))
"""
    )
    pid, mount, reboot, unshare, clone3 = ran.out.split()
    assert pid == "1"
    assert {mount, reboot, unshare} == {str(-errno.EPERM)}
    assert clone3 == str(-errno.ENOSYS)


def test_only_the_steps_own_processes_are_seen(box: Box) -> None:
    ran = box.sh("echo $$; ls /proc")
    assert ran.out.splitlines()[0] == "1"
    pids = {int(name) for name in ran.out.split()[1:] if name.isdigit()}
    assert len(pids) <= 2


def test_no_mount_of_the_host_is_seen(box: Box, lower: Path) -> None:
    ran = box.sh("cat /proc/self/mountinfo")
    targets = [line.split()[4] for line in ran.out.splitlines()]
    allowed = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf")
    assert [target for target in targets if target != "/" and not target.startswith(allowed)] == []
    assert targets.count("/") == 1


def test_the_root_has_no_parent(box: Box) -> None:
    ran = box.sh("stat -c %d:%i / /.. /../..; ls /../../..")
    lines = ran.out.splitlines()
    assert lines[0] == lines[1] == lines[2]
    assert sorted(lines[3:]) == ["bin", "dev", "etc", "proc", "sys", "tmp"]


def test_nested_chroot_leads_nowhere(box: Box, tmp_path: Path) -> None:
    marker = tmp_path / "marker-of-the-host"
    marker.touch()
    ran = box.python(
        f"""
import os
os.mkdir("/jail")
os.chroot("/jail")
for _ in range(64):
    os.chdir("..")
os.chroot(".")
print(sorted(os.listdir("/")), os.path.exists({str(marker)!r}))
"""
    )
    assert "jail" in ran.out
    assert ran.out.rstrip().endswith("False"), ran.err


def test_only_the_standard_descriptors_are_open(box: Box) -> None:
    ran = box.python(
        """
import os
for fd in range(4096):
    try:
        os.fstat(fd)
    except OSError:
        continue
    print(fd)
print(repr(os.read(0, 1)))
"""
    )
    assert ran.out.split() == ["0", "1", "2", "b''"], ran.err


@pytest.mark.parametrize("number", range(3, 12))
def test_a_working_directory_by_way_of_a_leaked_descriptor(box: Box, number: int) -> None:
    try:
        ran = box.sh("ls; cd ..; ls", cwd=f"/proc/self/fd/{number}")
    except Exception as error:
        assert type(error).__name__ == "SandboxError"
    else:
        assert "usr" not in ran.out.split()


def test_the_interpreter_of_the_launcher_cannot_be_overwritten(box: Box) -> None:
    # The descriptor is that of whatever ran before the step's program; opening to append changes nothing yet.
    code = """
import os
fd = os.open("/proc/self/exe", os.O_RDONLY)
os.set_inheritable(fd, True)
os.execv("/bin/sh", ["sh", "-c", f": >> /proc/self/fd/{fd} && echo open"])
"""
    before = os.stat(host_python())
    ran = box.run("/proc/self/exe", "-I", "-S", "-c", code, mounts=host_python_mounts())
    assert "open" not in ran.out
    assert os.stat(host_python()).st_mtime_ns == before.st_mtime_ns


def test_disk_nodes_do_not_work(box: Box, disk: tuple[int, int], tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    os.mknod(layer / "disk-of-the-image", stat.S_IFBLK | 0o666, os.makedev(*disk))
    script = f"""
for place in /disk /dev/disk /tmp/disk /dev/shm/disk /cache/disk; do
    mknod $place b {disk[0]} {disk[1]} 2>/dev/null
    [ -b $place ] && (: < $place) 2>/dev/null && echo opened $place
done
(: < /disk-of-the-image) 2>/dev/null && echo opened the one of the image
[ -b /disk-of-the-image ] && echo end
"""
    cache = tmp_path / "cache"
    cache.mkdir()
    ran = box.sh(script, root=box.fresh_root(layer), mounts=(BindMount("/cache", str(cache)),))
    assert ran.out.split() == ["end"]


@pytest.mark.parametrize(
    "path", ["/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run"]
)
def test_the_kernels_settings_cannot_be_written(box: Box, path: str) -> None:
    ran = box.sh(f"echo 1 2>/dev/null > {path} && echo wrote")
    assert "wrote" not in ran.out


def test_a_crash_leaves_no_core_file_unless_one_is_asked_for(box: Box) -> None:
    """A dump would put the step's memory, secrets and all, into the layer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if not hard:
        pytest.skip("this machine allows no core files at all")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    runtime = NativeRuntime() if isinstance(box.runtime, NativeRuntime) else OciRuntime("runc")
    try:
        fresh = replace(box, runtime=runtime)
        assert fresh.sh("ulimit -c").out == "0\n"
        assert fresh.sh("ulimit -c", ulimits=(("core", 1024, hard),)).out == "2\n"
    finally:
        runtime.close()
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.parametrize("path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"])
def test_masked_files_are_empty(box: Box, path: str) -> None:
    ran = box.sh(f"[ ! -e {path} ] || head -c 1 {path}")
    assert ran.out == ""


@pytest.mark.parametrize("path", ["/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"])
def test_masked_directories_are_empty(box: Box, path: str) -> None:
    ran = box.sh(f"ls {path} 2>/dev/null; touch {path}/x 2>/dev/null && echo wrote")
    assert ran.out == ""


def test_identity_of_the_process(box: Box) -> None:
    ran = box.sh("cat /proc/self/status; umask; hostname; echo $HOME; cat /proc/self/cgroup; pwd")
    status = dict(line.split(":\t", 1) for line in ran.out.splitlines() if ":\t" in line)
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert status["CapPrm"] == status["CapEff"] == status["CapBnd"] == "00000000a80425fb"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("0", "2")
    assert status["SigIgn"] == status["SigBlk"] == "0" * 16
    assert ran.out.splitlines()[len(status) :][:3] == ["0022", "buildkitsandbox", "/root"]


def test_a_user_has_no_capabilities(box: Box) -> None:
    ran = box.sh("cat /proc/self/status", user="bob")
    status = dict(line.split(":\t", 1) for line in ran.out.splitlines())
    assert status["CapPrm"] == status["CapEff"] == "0" * 16
    assert status["CapBnd"] == "00000000a80425fb"


def test_setuid_programs_work(box: Box, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    program = layer / "setuid-python"
    program.write_bytes(Path(host_python()).read_bytes())
    program.chmod(0o4755)
    home = os.path.dirname(os.path.dirname(host_python()))
    ran = box.run(
        "/setuid-python",
        "-S",
        "-c",
        "import posix; print(posix.getuid(), posix.geteuid())",
        env=(f"PYTHONHOME={home}",),
        user="bob",
        root=box.fresh_root(layer),
        mounts=host_python_mounts(),
    )
    assert ran.out.split() == ["1000", "0"], ran.err


def test_the_hostname_stays_inside(box: Box) -> None:
    before = os.uname().nodename
    ran = box.sh("hostname; hostname other 2>/dev/null || echo refused", hostname="inside")
    assert ran.out.split() == ["inside", "refused"]
    assert os.uname().nodename == before


def test_without_network_there_is_only_loopback(box: Box) -> None:
    code = """
import os, _socket
print(*os.listdir("/sys/class/net"))
server = _socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
client = _socket.socket()
client.connect(server.getsockname())
print("connected")
"""
    ran = box.python(code, network="none")
    assert ran.out.split() == ["lo", "connected"], ran.err


def test_the_hosts_network_can_be_had(box: Box) -> None:
    ran = box.sh("ls /sys/class/net", network="host")
    assert set(ran.out.split()) == set(os.listdir("/sys/class/net"))


def test_no_process_outside_can_be_traced_or_signalled(box: Box) -> None:
    ran = box.python(
        SYSCALL
        + f"""
ptrace_attach = 16
print(*(libc.ptrace(ptrace_attach, pid, 0, 0) for pid in ({os.getpid()}, {os.getppid()})))
try:
    os.kill({os.getpid()}, 0)
except ProcessLookupError:
    print("none")
"""
    )
    assert ran.out.split() == ["-1", "-1", "none"], ran.err


def test_shared_memory_of_the_host_is_not_seen(box: Box) -> None:
    import ctypes

    libc = ctypes.CDLL(None)
    segment = libc.shmget(0x5747, 4096, 0o1666)
    try:
        ran = box.python(SYSCALL + "print(libc.shmget(0x5747, 0, 0))")
    finally:
        libc.shmctl(segment, 0, None)
    assert ran.out.strip() == "-1"


def test_an_insecure_step_may_mount(box: Box) -> None:
    script = "mkdir /m && mount -t tmpfs none /m && echo mounted; cat /proc/self/status"
    ran = box.sh(script, security="insecure")
    assert ran.out.startswith("mounted"), ran.err
    assert "Seccomp:\t0" in ran.out


def test_devices_are_those_of_a_container(box: Box) -> None:
    ran = box.sh(
        "ls /dev; echo x > /dev/null; head -c 2 /dev/zero | head -c 1; head -c 3 /dev/urandom >/dev/null; echo ok"
    )
    names = set(ran.out.replace("\0", "").split())
    assert names >= {"null", "zero", "full", "random", "urandom", "tty", "pts", "shm", "mqueue", "fd", "ptmx", "stdin"}
    assert not any(name.startswith(("sd", "vd", "nvme", "loop", "mem", "kmsg", "console")) for name in names)
    assert "ok" in names


def test_a_pseudo_terminal_can_be_opened(box: Box) -> None:
    ran = box.python("import os; a, b = os.openpty(); print(os.ttyname(b))", user="bob")
    assert ran.out.startswith("/dev/pts/"), ran.err


def test_steps_do_not_see_each_other(box: Box) -> None:
    both = threading.Barrier(2, timeout=60)
    results = []

    def one() -> None:
        seen = threading.Event()

        def sync(_stream: int, _data: bytes) -> None:
            if not seen.is_set():
                seen.set()
                both.wait()

        results.append(box.sh("echo go; sleep 0.3; ls /proc; ls /dev/shm; touch /dev/shm/here", on_output=sync))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ran in results:
        assert len([name for name in ran.out.split() if name.isdigit()]) <= 2
        assert "here" not in ran.out
