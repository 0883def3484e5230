"""What is said where a step cannot run here, before anything of it has run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stagewright.door.ids import Extent, IdMap, write
from stagewright.errors import IntegrityError, PrivilegeNeededError, SandboxError, StagewrightError, StoreError
from stagewright.records import replace
from stagewright.sandbox import ca, seccomp
from stagewright.sandbox.chroot import ChrootRuntime
from stagewright.sandbox.oci import OciRuntime
from stagewright.sandbox.spec import BindMount, Mount, Root, Step, TmpfsMount
from stagewright.sandbox.users import resolve_owner
from stagewright.snapshots import overlay
from stagewright.sources.archive import StandardInput

STEP = Step(("sh",), Root((), "/upper", "/work"))


def in_chroot(step: Step) -> None:
    runtime = ChrootRuntime(lambda text: None, lambda folder, path: None, lambda folder: None)
    runtime.run(step, lambda stream, data: None, threading.Event())


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        (lambda: ca.find_host_bundle({"SSL_CERT_FILE": "/no"}), "this machine has no CA bundle for steps to trust",
         "install ca-certificates"),
        (lambda: OciRuntime("no-runtime"), "there is no OCI runtime 'no-runtime'", None),
        (lambda: seccomp.default_filter("vax"), "steps cannot run on vax: there is no seccomp profile for it", None),
        (lambda: in_chroot(replace(STEP, root=Root(("/lower",), "/upper", "/work"))),
         "steps in a chroot need a tree of files", 'set snapshotter = "copies"'),
        (lambda: in_chroot(replace(STEP, network="none")),
         "a step without a network takes a network namespace, and this build runs its steps in a chroot",
         "stagewright info says what this machine lacks; or leave out --network=none"),
        (lambda: resolve_owner("4294967296", None, None),
         "uids and gids must be in range 0-2147483647, not 4294967296", None),
    ],
)  # fmt: skip
def test_steps(call: Callable[[], object], message: str, hint: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ca, "_BUNDLES", ())
    with pytest.raises(StagewrightError) as caught:
        call()
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("helpers", "message"),
    [
        (None, "cannot give a user namespace its ids: No such file or directory"),
        (("/bin/false", "/bin/false"), "/bin/false failed: exit status 1"),
    ],
)
def test_ids_that_are_refused(helpers: tuple[str, str] | None, message: str) -> None:
    extents = (Extent(0, 0, 1),)
    with pytest.raises(PrivilegeNeededError) as caught:
        write(1 << 30, IdMap(extents, extents, helpers))
    assert caught.value.message == message


def test_a_chain_that_an_old_kernel_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "_has_lowerdir_plus", lambda: False)
    with pytest.raises(StoreError) as caught:
        overlay.mount(tuple(f"/store/{number:020}" for number in range(400)))
    assert caught.value.message == "a chain of 400 layers does not fit into one mount call of this kernel"


@pytest.mark.skipif(os.geteuid() != 0, reason="standard input is read by root, of a namespace at least")
def test_a_folder_as_standard_input(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IntegrityError) as caught:
        StandardInput(threading.Event(), handle).head()
    os.close(handle)
    assert caught.value.message == "cannot read standard input: Is a directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="steps in a chroot are root's")
@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (TmpfsMount("/proc/x"), "nothing can be mounted at /proc/x, which is the kernel's or the root directory"),
        (TmpfsMount("/up/.."), "nothing can be mounted at /up/.., which is the kernel's or the root directory"),
        (BindMount("/m", "/nonexistent/source"), "cannot put /m in place: No such file or directory"),
    ],
)
def test_what_a_chroot_has_no_place_for(tmp_path: Path, mount: Mount, message: str) -> None:
    (tmp_path / "upper" / "up").mkdir(parents=True)
    step = replace(STEP, root=Root((), f"{tmp_path}/upper", f"{tmp_path}/work"), mounts=(mount,))
    with pytest.raises(SandboxError) as caught:
        in_chroot(step)
    assert caught.value.message == message
