"""Attempts, from public advisories, to lead mounts, mountpoints and working directories out of a step's root."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from arena import Arena, refusals
from box import Box

from stagewright.errors import SandboxError
from stagewright.sandbox.oci import OciRuntime
from stagewright.sandbox.spec import BindMount, Mount, Root, SecretMount, SshMount, TmpfsMount

LINKS = {
    "absolute": "{host}",
    "dots": "../../../../../../../../../../..{host}",
    "root": "/proc/self/root/../..{host}",
    "descriptor": "/proc/self/fd/3{host}",
}
KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")


def links(arena: Arena) -> Path:
    """A layer with links that lead to the host's folder where nobody watches."""
    layer = arena.folder("layer")
    for name, target in LINKS.items():
        (layer / name).symlink_to(target.format(host=arena.host))
    return layer


def mount(arena: Arena, kind: str, target: str) -> Mount:
    match kind:
        case "bind":
            source = arena.folder("source")
            (source / "file").touch()
            return BindMount(target, Root((str(source),)), readonly=True)
        case "cache":
            return arena.cache(target=target)
        case "tmpfs":
            return TmpfsMount(target)
        case "secret":
            return SecretMount(target, b"value")
        case _:
            return SshMount(target, str(arena.directory / "no-agent"))


def run_if_allowed(arena: Arena, *args: str, **fields: object) -> str:
    """What a step prints, or why it was not started."""
    try:
        ran = arena.run(*args, **fields)
    except SandboxError as error:
        return error.message
    assert ran.code == 0, ran.err
    return ran.out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", LINKS)
def test_links_as_mount_targets(arena: Arena, kind: str, link: str) -> None:
    """CVE-2015-1335, CVE-2015-3629, CVE-2021-30465: the image has links where mounts are asked for."""
    layer = links(arena)
    before = mountpoints()
    for number, below in enumerate(("", "/../host/folder", "/new/deep")):
        shutil.rmtree(arena.directory / "source", ignore_errors=True)
        shutil.rmtree(arena.directory / "cache", ignore_errors=True)
        script = f"[ ! -e {arena.host}/secret ] && echo contained {number}"
        target = mount(arena, kind, f"/{link}{below}")
        told = run_if_allowed(arena, "sh", "-c", script, root=arena.fresh_root(layer), mounts=(target,))
        assert told == f"contained {number}\n" or "cannot" in told or "nothing can be mounted" in told
        assert mountpoints() == before


def mountpoints() -> set[str]:
    """What is mounted where in this process's mount namespace."""
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


@pytest.mark.parametrize("kind", ["cache", "tmpfs", "secret"])
@pytest.mark.parametrize(
    ("advisory", "target"),
    [
        ("CVE-2015-3631", "/proc"),
        ("CVE-2019-16884", "/proc/self/attr"),
        ("CVE-2025-52881", "/proc/sys/kernel"),
        ("CVE-2019-19921", "/to-proc/self"),
        ("CVE-2023-28642", "/dev/../proc"),
        ("CVE-2023-27561", "/to-dev/../proc"),
        ("CVE-2025-31133", "/dev"),
        ("CVE-2025-31133", "/to-dev"),
        ("CVE-2025-31133", "/dev/null"),
        ("CVE-2025-52565", "/to-dev/tty"),
        ("CVE-2015-3631", "/sys"),
    ],
)
def test_mounts_in_the_kernels_places(arena: Arena, kind: str, advisory: str, target: str) -> None:
    """What lies there would be used to keep the step contained: /dev/null to mask files, /proc/self to confine it."""
    layer = arena.folder("layer")
    (layer / "to-proc").symlink_to("/proc")
    (layer / "to-dev").symlink_to("dev/shm/..")
    wanted = mount(arena, kind, target)
    if kind == "cache":
        for name in ("null", "exec", "core_pattern"):
            (arena.directory / "cache" / name).symlink_to("/proc/sys/kernel/core_pattern")
    with pytest.raises(SandboxError, match=r"nothing can be mounted at .*, which is the kernel's|Not a directory"):
        arena.sh("echo started", root=arena.fresh_root(layer), mounts=(wanted,))


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
@pytest.mark.parametrize("link", ["/evil", "/", "..", "/proc", "/proc/sys", "/proc/self/root", "{host}"])
def test_links_in_the_kernels_places(arena: Arena, place: str, link: str) -> None:
    """CVE-2019-19921, CVE-2019-18837: the image itself has a link for /proc, /sys or /dev."""
    layer = arena.folder("layer")
    (layer / "evil").mkdir()
    (layer / place).symlink_to(link.format(host=arena.host))
    code = """
for top in ("/proc", "/evil", "", "/dev", "/sys"):
    for name in ("kernel/core_pattern", "sys/kernel/core_pattern", "kernel/uevent_helper", "sysrq-trigger"):
        if os.path.exists(f"{top}/{name}"):
            attempt(f"{top}/{name}", write, f"{top}/{name}", "|/evil")
for name, path in (("core", "/proc/kcore"), ("interrupts", "/proc/interrupts")):
    if os.path.exists(path):
        told(name, errno.EPERM if not open(path, "rb").read(1) else 0)
told("end", errno.EPERM)
"""
    try:
        attempts = arena.attempts(code, root=arena.fresh_root(layer))
    except SandboxError as error:
        assert f"/{place} of the image" in error.message or "cannot m" in error.message
        return
    refusals(attempts, "EROFS", "EACCES", "EPERM")


@pytest.mark.parametrize("selector", ["absolute", "dots", "root", "absolute/secret", "../../../../{host}", "dots/.."])
def test_links_as_sources_of_bind_mounts(arena: Arena, selector: str) -> None:
    """CVE-2024-1753, CVE-2023-0778: `RUN --mount=from=` with a source that is a link to the host."""
    layer = links(arena)
    (layer / "root-of-the-image").touch()
    for readonly in (True, False):
        source = arena.fresh_root(layer)
        source = source if not readonly else Root(source.lowers)
        bind = BindMount("/mnt", source, selector.format(host=str(arena.host).lstrip("/")), readonly=readonly)
        try:
            ran = arena.sh("ls -a /mnt; cat /mnt 2>/dev/null; touch /mnt/written 2>/dev/null", mounts=(bind,))
        except SandboxError as error:
            assert error.message.startswith("cannot mount /mnt: ")
            continue
        assert "secret" not in ran.out
        assert "folder" not in ran.out.split()


def test_stubs_are_not_removed_by_way_of_a_link(arena: Arena) -> None:
    """CVE-2024-23652: a step replaces the parent of its mountpoint by a link to a folder with an empty file."""
    mounts = (SecretMount("/opt/tool/empty", b"value"), TmpfsMount("/opt/tool/folder"))
    link = f"ln -s {arena.host}"
    script = f"mv /opt/tool /opt/moved && {link} /opt/tool && mv /opt /opt2 && {link} /opt; ls /"
    ran = arena.sh(script, mounts=mounts)
    assert "opt2" in ran.out.split(), ran.err
    assert (arena.host / "empty").exists()
    assert (arena.host / "folder").is_dir()


@pytest.mark.parametrize("path", ["etc/resolv.conf", "etc/hosts"])
@pytest.mark.parametrize("to", ["{host}/secret", "{host}/new", "../../../../../../../..{host}/empty", "/dev/null"])
def test_links_for_the_files_that_every_step_gets(arena: Arena, path: str, to: str) -> None:
    """CVE-2020-10696, CVE-2024-5154: the image has a link to the host where the builder puts a file."""
    layer = arena.folder("layer")
    (layer / "etc").mkdir()
    (layer / path).symlink_to(to.format(host=arena.host))
    script = "for file in /etc/hosts /etc/resolv.conf /dev/null; do echo evil 2>/dev/null >> $file; done; echo ok"
    ran = arena.sh(script, root=arena.fresh_root(layer))
    assert ran.out == "ok\n", ran.err


SWAP = """
host = {host!r}
os.mkdir("/cache/sub")
os.symlink(host, "/cache/link")
print("ready", flush=True)
while not os.path.exists("/cache/stop"):
    try:
        os.rename("/cache/sub", "/cache/real")
        os.rename("/cache/link", "/cache/sub")
        os.rename("/cache/sub", "/cache/link")
        os.rename("/cache/real", "/cache/sub")
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    ("advisory", "below"),
    [
        ("CVE-2024-23651", "a mount"),
        ("CVE-2024-45310", "a file's mountpoint"),
        ("CVE-2024-11218", "a mount of its own"),
        ("CVE-2017-1002101", "a working directory"),
    ],
)
def test_folders_that_another_step_swaps(arena: Arena, advisory: str, below: str) -> None:
    """Two steps share a cache: one swaps a folder for a link to the host, the other has mounts below it."""
    cache = arena.cache()
    ready = threading.Event()
    swapping = threading.Thread(
        target=lambda: arena.python(
            SWAP.format(host=str(arena.host)), mounts=(cache,), on_output=lambda *_: ready.set()
        )
    )
    swapping.start()
    try:
        assert ready.wait(60)
        for number in range(40 if arena.mode.startswith("native") else 12):
            target = f"/cache/sub/new{number}"
            mounts: dict[str, tuple[Mount, ...]] = {
                "a mount": (TmpfsMount(f"{target}/x"),),
                "a file's mountpoint": (SecretMount(f"{target}/x", b"v"),),
                "a mount of its own": (BindMount(f"{target}/x", str(cache.source), subpath="sub"),),
                "a working directory": (),
            }
            cwd = f"{target}/folder/x" if below == "a working directory" else "/"
            # Whether the step starts depends on who is quicker; that nothing of the host changes does not.
            try:
                ran = arena.sh(
                    f"cat {arena.host}/secret 2>/dev/null; true", mounts=(cache, *mounts[below]), cwd=cwd, user="bob"
                )
            except SandboxError as error:
                assert "/cache/sub" in error.message
                continue
            assert ran.out == ""
    finally:
        Path(str(cache.source), "stop").touch()
        swapping.join()


def test_a_working_directory_by_way_of_a_leaked_descriptor(arena: Arena) -> None:
    """CVE-2024-21626: WORKDIR /proc/self/fd/8."""
    code = f"""
for _ in range(20):
    if os.path.exists({str(arena.host)[1:]!r}):
        print("escaped")
    os.chdir("..")
print("contained")
"""
    descriptors = [f"/proc/self/fd/{number}" for number in range(3, 12)]
    for path in (*descriptors, "/proc/self/fd/7/../../..", "/proc/1/task/1/fd/7", "/proc/self/cwd/../../.."):
        try:
            ran = arena.python(code, cwd=path)
        except SandboxError as error:
            assert "directory" in error.message
        else:
            assert ran.out == "contained\n" or "Error" in ran.err


def test_descriptors_of_the_first_process(arena: Arena) -> None:
    """CVE-2015-3627, CVE-2016-9962: none from outside is left, not even for standard input, and no device either."""
    attempts = arena.attempts("""
for fd in os.listdir("/proc/self/fd"):
    if int(fd) > 2:
        attempt(f"descriptor {fd}", os.fstat, int(fd))
for place in (0, 1, 2, "/dev/null", "/dev/zero", "/dev/tty", "/proc/self/fd/0"):
    for action, arguments in ((os.chmod, (place, 0)), (os.chown, (place, 4242, 4242)), (os.utime, (place, (1, 1)))):
        try:
            action(*arguments)
        except OSError:
            pass
told("the rest", errno.EBADF)
""")
    refusals(attempts, "EBADF")


@pytest.mark.parametrize(
    ("name", "to", "mounted", "message"),
    [
        ("proc", "/", (), "/proc of the image leads to its root directory"),
        ("m", "/", (TmpfsMount("/m"),), "a mount cannot take the place of the root directory, where /m leads"),
        ("m", "/proc", (TmpfsMount("/m"),), "nothing can be mounted at /m, which is the kernel's"),
    ],
)
def test_links_of_an_image_to_where_nothing_can_be_mounted(
    box: Box, tmp_path: Path, name: str, to: str, mounted: tuple[TmpfsMount, ...], message: str
) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / name).symlink_to(to)
    with pytest.raises(SandboxError) as caught:
        box.sh("true", root=box.fresh_root(tmp_path / "image"), mounts=mounted)
    assert caught.value.message == message


def test_an_oci_runtime_gets_no_link_for_a_kernels_place(box: Box, tmp_path: Path) -> None:
    if not isinstance(box.runtime, OciRuntime):
        pytest.skip("only an OCI runtime makes files outside of the root")
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "proc").symlink_to("/tmp")
    with pytest.raises(SandboxError) as caught:
        box.sh("true", root=box.fresh_root(tmp_path / "image"))
    assert caught.value.message == "/proc of the image is a link, through which an OCI runtime may leave it"
