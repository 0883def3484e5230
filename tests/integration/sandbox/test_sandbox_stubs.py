"""Mountpoints of a step leave nothing in its layer, and what the step itself did stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from box import Box, tree

from stagewright.errors import SandboxError
from stagewright.sandbox.spec import BindMount

OLD = 1_000_000_000


@pytest.fixture
def bare(lower: Path, tmp_path: Path) -> Path:
    """A root with nothing but a program: as FROM scratch and a static binary."""
    layer = tmp_path / "bare"
    (layer / "bin").mkdir(parents=True)
    shutil.copy(lower / "bin/busybox", layer / "bin/sh")
    os.utime(layer, (OLD, OLD))
    return layer


def test_a_bare_image_gets_the_folders_of_the_kernel_alone(box: Box, bare: Path) -> None:
    root = box.on(bare).fresh_root()
    ran = box.on(bare).sh("exit 0", root=root)
    assert tree(ran.upper) == ["dev", "proc", "sys"]
    assert {oct(os.stat(ran.upper / name).st_mode & 0o7777) for name in ("dev", "proc", "sys")} == {"0o755"}
    assert set(ran.outcome.created_mountpoints) == {"etc", "etc/hosts", "etc/resolv.conf"}


def test_the_time_of_the_root_is_as_before(box: Box, bare: Path) -> None:
    for name in ("dev", "proc", "sys"):
        (bare / name).mkdir()
    root = box.on(bare).fresh_root()
    assert root.upper is not None
    os.utime(root.upper, (OLD, OLD))
    box.on(bare).sh("exit 0", root=root)
    assert os.stat(root.upper).st_mtime == OLD


def test_directories_that_were_only_copied_up_vanish(box: Box) -> None:
    os.utime(box.lower / "etc", (OLD, OLD))
    ran = box.sh("true")
    assert "etc/resolv.conf" in ran.outcome.created_mountpoints
    assert tree(ran.upper) == []


def test_what_the_step_writes_beside_a_stub_stays(box: Box) -> None:
    ran = box.sh("echo x > /etc/mine")
    assert tree(ran.upper) == ["etc", "etc/mine"]
    written = os.stat(ran.upper / "etc/mine").st_mtime
    assert abs(os.stat(ran.upper / "etc").st_mtime - written) < 1
    assert os.stat(ran.upper / "etc").st_mtime > OLD


def test_a_changed_mode_of_a_directory_stays(box: Box) -> None:
    ran = box.sh("chmod 700 /etc || busybox chmod 700 /etc")
    assert tree(ran.upper) == ["etc"]
    assert os.stat(ran.upper / "etc").st_mode & 0o777 == 0o700


def test_a_changed_time_of_a_directory_stays(box: Box) -> None:
    ran = box.sh("touch -d @12345 /etc")
    assert tree(ran.upper) == ["etc"]
    assert os.stat(ran.upper / "etc").st_mtime == 12345


def test_deletions_beside_a_stub_stay(box: Box) -> None:
    ran = box.sh("rm /etc/group")
    assert tree(ran.upper) == ["etc", "etc/group"]
    assert os.stat(ran.upper / "etc/group").st_rdev == 0


@pytest.mark.parametrize("link", ["../run/systemd/resolve/stub-resolv.conf", "/run/resolvconf/resolv.conf"])
def test_a_dangling_link_as_resolver_file(box: Box, tmp_path: Path, link: str) -> None:
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True)
    (layer / "etc/resolv.conf").symlink_to(link)
    ran = box.sh("cat /etc/resolv.conf", root=box.fresh_root(layer))
    assert ran.out == Path("/etc/resolv.conf").read_text()
    assert tree(ran.upper) == []


def test_existing_files_are_not_touched(box: Box, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True)
    for name in ("hosts", "resolv.conf"):
        (layer / "etc" / name).write_text("of the image")
    ran = box.sh("true", root=box.fresh_root(layer))
    assert tree(ran.upper) == []
    assert not any(path.startswith("etc") for path in ran.outcome.created_mountpoints)


def test_a_parent_that_the_step_filled_stays(box: Box, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    ran = box.sh("touch /opt/own", mounts=(BindMount("/opt/tool/cache", str(tmp_path / "source")),))
    assert tree(ran.upper) == ["opt", "opt/own"]


def test_a_replaced_directory_does_not_lead_the_cleaning_out(box: Box, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "tool/cache").mkdir(parents=True)
    (tmp_path / "source").mkdir()
    mount = BindMount("/opt/tool/cache", str(tmp_path / "source"))
    ran = box.sh(f"mv /opt /moved && ln -s {outside} /opt; ls -d /moved", mounts=(mount,))
    assert (outside / "tool/cache").is_dir(), ran.err


def test_a_failed_start_leaves_nothing_either(box: Box) -> None:
    root = box.fresh_root()
    with pytest.raises(SandboxError):
        box.sh("true", root=root, mounts=(BindMount("/a/b/c", "/no/such/source"),))
    assert tree(Path(root.upper or "")) == []
