"""Attempts, from public advisories, by way of a step's process: who it is, what it inherits, what runs before it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from arena import Arena
from box import GROUP, PASSWD, make_node

from stagewright.errors import SandboxError
from stagewright.records import replace
from stagewright.sandbox.native import NativeRuntime
from stagewright.sandbox.oci import OciRuntime
from stagewright.sandbox.spec import BindMount

DEFAULT_CAPABILITIES = "00000000a80425fb"


def layer_with(arena: Arena, **files: str) -> Path:
    """A layer with files in /etc."""
    layer = arena.folder("layer")
    (layer / "etc").mkdir()
    for name, text in files.items():
        (layer / "etc" / name).write_text(text)
    return layer


@pytest.mark.parametrize("user", ["", "bob"])
def test_capabilities(arena: Arena, user: str) -> None:
    """CVE-2016-8867, CVE-2022-24769, CVE-2022-27651, CVE-2022-29162: ambient and inheritable capabilities."""
    ran = arena.sh("cat /proc/self/status", user=user)
    status = dict(line.split(":\t", 1) for line in ran.out.splitlines() if ":\t" in line)
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert status["CapBnd"] == DEFAULT_CAPABILITIES
    assert status["CapPrm"] == status["CapEff"] == (DEFAULT_CAPABILITIES if not user else "0" * 16)


def test_groups_of_the_builder(arena: Arena) -> None:
    """CVE-2022-2989, CVE-2022-2990, CVE-2022-36109, CVE-2023-25173: supplementary groups are the image's alone."""
    if arena.is_mapped:
        pytest.skip("the process in the namespace has no groups of its own to pass on")
    groups = os.getgroups()
    os.setgroups([*groups, 4242, 4243])
    runtime = NativeRuntime() if arena.mode == "native" else OciRuntime("runc")
    try:
        fresh = replace(arena, runtime=runtime)
        assert fresh.sh("id -G", user="bob").out == "1001 10 50\n"
        assert fresh.sh("id -G", user="1000:1001").out == "1001\n"
        assert fresh.sh("id -G", user="7777").out == "0\n"
    finally:
        runtime.close()
        os.setgroups(groups)


def test_a_user_whose_name_is_a_number(arena: Arena) -> None:
    """CVE-2016-3697: an entry of the name "1000" is root's, but a number is always an id."""
    layer = layer_with(arena, passwd="1000:x:0:0::/root:/bin/sh\n4000:x:0:0::/root:/bin/sh\n", group=GROUP)
    for user in ("1000", "4000"):
        ran = arena.sh("id -u", user=user, root=arena.fresh_root(layer))
        assert ran.out == f"{user}\n"


@pytest.mark.parametrize("user", ["4294967296", "4294967295", "18446744073709551616", "-1", "bob:4294967296"])
def test_a_user_beyond_all_numbers(arena: Arena, user: str) -> None:
    """CVE-2024-40635: a number that would wrap around must not become root's."""
    with pytest.raises(SandboxError, match=r"range|unable to find"):
        arena.sh("id", user=user)


def test_a_home_that_would_write_passwd(arena: Arena) -> None:
    """CVE-2022-4318: nobody writes to the image's users what the environment says."""
    ran = arena.sh("cat /etc/passwd", env=("PATH=/bin", "HOME=/root\nevil:x:0:0::/:/bin/sh"), user="7777")
    assert ran.out == PASSWD
    assert not (ran.upper / "etc/passwd").exists()


@pytest.mark.parametrize("name", ["passwd", "group"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "host", "log", "environment", "sparse", "many lines"])
def test_hostile_lists_of_users(arena: Arena, name: str, kind: str) -> None:
    """CVE-2024-9676: the image's users are a link to a file that never ends, or to one of the host's."""
    layer = layer_with(arena)
    path = layer / "etc" / name
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            make_node(path, stat.S_IFCHR, 1, 5)
        case "folder":
            path.mkdir()
        case "host":
            path.symlink_to(arena.host / "secret")
        case "log":
            path.symlink_to("/proc/kmsg")
        case "environment":
            path.symlink_to("../proc/self/environ")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case "many lines":
            path.write_text("a:b\n" * (1 << 20))
    try:
        # A shell reads the file itself.
        ran = arena.run("cat", "/proc/self/status", root=arena.fresh_root(layer))
    except SandboxError as error:
        assert f"/etc/{name}" in error.message or "read the image's users" in error.message
    else:
        assert "\nUid:\t0\t0\t0\t0\n" in ran.out


def test_the_builders_environment(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2021-3602: what the builder has in its environment is in no process that a step can look at."""
    if arena.is_mapped:
        runtime = arena.runtime
    else:
        monkeypatch.setenv("TOKEN_OF_THE_BUILDER", "swordfish")
        runtime = NativeRuntime() if arena.mode == "native" else OciRuntime("runc")
    try:
        ran = replace(arena, runtime=runtime).python("""
for pid in filter(str.isdigit, os.listdir("/proc")):
    for file in ("environ", "cmdline", "auxv"):
        print(open(f"/proc/{pid}/{file}", "rb").read())
""")
    finally:
        if runtime is not arena.runtime:
            runtime.close()
    assert "PATH=/bin" in ran.out
    assert "swordfish" not in ran.out
    assert str(arena.directory) not in ran.out


def test_libraries_that_the_environment_names(arena: Arena) -> None:
    """CVE-2025-23266: LD_PRELOAD of the image takes effect in the step's program, not in what starts it."""
    layer = arena.folder("layer")
    (layer / "evil.so").write_text("not a library")
    # The dynamic linker of a program that tried would complain; the step's own program needs none.
    env = ("PATH=/bin", "LD_PRELOAD=/evil.so", "LD_LIBRARY_PATH=/", "PYTHONPATH=/", "PYTHONHOME=/", "LD_DEBUG=all")
    ran = arena.sh("echo ran", env=env, root=arena.fresh_root(layer))
    assert (ran.out, ran.err) == ("ran\n", "")


@pytest.mark.parametrize(
    "fields",
    [
        {"args": ("/missing",)},
        {"args": ("missing",)},
        {"args": ("/etc/passwd",)},
        {"args": ("/etc",)},
        {"args": ("/bin/true",), "cwd": "/etc/passwd"},
        {"args": ("/bin/true",), "user": "nobody-knows"},
        {"args": ("/bin/true",), "ulimits": (("nofile", 1 << 40, 1 << 40),)},
        {"args": ("/script",)},
    ],
    ids=str,
)
def test_nothing_is_loaded_from_the_image(arena: Arena, fields: dict[str, object]) -> None:
    """CVE-2019-14271: whoever starts the step must not load libraries or modules after it has entered the image."""
    layer = arena.folder("layer")
    (layer / "script").write_text("#!/bin/missing\n")
    (layer / "script").chmod(0o755)
    for directory in module_directories(arena):
        place = layer / directory.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name in sys.stdlib_module_names:
            (place / f"{name}.py").write_text("open('/imported', 'a').write(__name__)\n")
    root = arena.fresh_root(layer)
    values = dict(fields)
    try:
        arena.run(*values.pop("args"), root=root, **values)  # type: ignore[misc]
    except SandboxError as error:
        assert "cannot" in error.message or "unable" in error.message or "runc" in error.message
    assert not Path(str(root.upper), "imported").exists()


def module_directories(arena: Arena) -> list[str]:
    """Where the launcher's interpreter looks for modules."""
    path = arena.interpreter[0] if arena.is_mapped else sys.executable
    code = "import sys; print(*filter(None, sys.path), sep='\\n')"
    found = subprocess.run([path, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if not line.endswith(".zip")]


@pytest.mark.parametrize("program", ["/proc/self/exe", "/script", "/link"])
def test_the_program_that_starts_steps(arena: Arena, program: str) -> None:
    """CVE-2019-5736: a step whose program is /proc/self/exe runs what started it, and would overwrite that."""
    starter = shutil.which("runc") if arena.mode.startswith("oci") else arena.interpreter[0]
    if arena.mode == "native":
        starter = os.path.realpath(sys.executable)
    assert starter is not None
    before = hashlib.sha256(Path(starter).read_bytes()).digest(), os.stat(starter).st_mtime_ns
    layer = arena.folder("layer")
    code = "import os; fd = os.open('/proc/self/exe', os.O_RDONLY); os.set_inheritable(fd, True); "
    code += "os.execv('/bin/sh', ['sh', '-c', f'printf evil >> /proc/self/fd/{fd} && echo overwritten'])"
    (layer / "script").write_text("#!/proc/self/exe\n" + code.replace("; ", "\n"))
    (layer / "script").chmod(0o755)
    (layer / "link").symlink_to("/proc/self/exe")
    prefix = os.path.dirname(os.path.dirname(starter))
    mounts = tuple(
        BindMount(path, os.path.realpath(path), readonly=True)
        for path in dict.fromkeys(["/lib", "/lib64", "/usr/lib", f"{prefix}/lib"])
        if os.path.exists(path)
    )
    arguments = (program,) if program == "/script" else (program, "-I", "-S", "-c", code)
    env = ("PATH=/bin", f"PYTHONHOME={prefix}")
    try:
        ran = arena.run(*arguments, root=arena.fresh_root(layer), mounts=mounts, env=env)
    except SandboxError as error:
        assert "runc" in error.message
    else:
        assert "overwritten" not in ran.out
    assert (hashlib.sha256(Path(starter).read_bytes()).digest(), os.stat(starter).st_mtime_ns) == before


def test_shared_memory_is_bounded(arena: Arena) -> None:
    """CVE-2024-3056: what a step writes to memory counts against a limit."""
    script = "for file in /dev/shm/x /dev/x; do dd if=/dev/zero of=$file bs=1M count=80; done"
    ran = arena.sh(script, shm_size=2 << 20)
    assert ran.err.count("No space left on device") == 2, ran.err


@pytest.mark.parametrize("network", ["none", "default"])
def test_sockets_of_the_host(arena: Arena, network: str) -> None:
    """CVE-2020-15257: abstract sockets, by which a container reaches the daemons of a host whose network it shares."""
    name = f"\0stagewright-{os.getpid()}-{id(arena)}"
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket() as loopback:
        abstract.bind(name)
        abstract.listen()
        loopback.bind(("127.0.0.1", 0))
        loopback.listen()
        inside = arena.python("print(os.stat('/proc/self/ns/net').st_ino)", network=network)
        if inside.out.strip() == str(os.stat("/proc/self/ns/net").st_ino):
            pytest.skip("steps of this mode share the machine's network, as they say")
        attempts = arena.attempts(
            f"""
attempt("abstract", _socket.socket(_socket.AF_UNIX).connect, {name!r})
attempt("loopback", _socket.socket().connect, ("127.0.0.1", {loopback.getsockname()[1]}))
""",
            network=network,
        )
    assert attempts == {"abstract": "ECONNREFUSED", "loopback": "ECONNREFUSED"}
