"""Layers merged in each of the three ways: the same trees, and the same layers of the same changes."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from drafts import drafts
from processes import commands

from stagewright.content.db import Database
from stagewright.errors import StoreError, UsageError
from stagewright.snapshots import fuse, selection
from stagewright.snapshots.fuse import FuseSnapshotter
from stagewright.snapshots.store import SnapshotStore
from stagewright.snapshots.tree import content_size, walk

NAMES = [name for name in selection.NAMES if name != "auto"]
AGES_AGO = 1_000_000_000
# What it writes for itself, and nobody reads without it.
OVERLAYS_NOTES = {
    f"{prefix}.overlay.{note}" for prefix in ("trusted", "user") for note in ("origin", "impure", "nlink", "uuid")
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    wanted: str = request.param
    if wanted == "fuse-overlayfs" and (refused := fuse.refusal()):
        pytest.skip(refused)
    return wanted


@pytest.fixture
def store(tmp_path: Path, name: str) -> Iterator[SnapshotStore]:
    with closing(Database(tmp_path / "metadata.db")) as db, closing(opened(tmp_path, db, name)) as store:
        yield store


def opened(folder: Path, db: Database, name: str) -> SnapshotStore:
    return SnapshotStore(folder / "snapshots", db, name)


def layer(store: SnapshotStore, parent: int | None, change: Callable[[Path], None]) -> int:
    """A snapshot of what `change` does to the merged root."""
    draft = store.prepare(parent)
    with store.mount(draft) as root:
        change(Path(f"/proc/self/fd/{root}"))
    return store.commit(draft)


def fill(root: Path) -> None:
    """Something of every kind, old enough that no clock's tick matters."""
    for path, text in {"a": "1", "dir/b": "2", "dir/deep/c": "3", "gone/d": "4", "kept": "5", "swap": "6"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "link").symlink_to("dir/b")
    os.link(root / "dir" / "deep" / "c", root / "same")
    os.mkfifo(root / "pipe", 0o640)
    os.chown(root / "kept", 12, 34)
    os.chmod(root / "dir", 0o2750)
    os.setxattr(root / "kept", "user.note", b"n")
    (root / "again").mkdir()
    (root / "again" / "old").write_text("old")
    (root / "again" / "both").write_text("both")
    for found in sorted(root.rglob("*"), reverse=True):
        os.utime(found, (AGES_AGO, AGES_AGO), follow_symlinks=False)


def work(root: Path) -> None:
    """Changes of every kind, and what looks like one and is none."""
    (root / "a").write_text("changed")
    (root / "dir" / "deep" / "new").write_text("new")
    shutil.rmtree(root / "gone")
    os.close(os.open(root / "kept", os.O_WRONLY))
    os.chmod(root / "dir" / "b", 0o644)
    (root / "swap").unlink()
    (root / "swap").mkdir()
    (root / "swap" / "inner").touch()
    shutil.rmtree(root / "again")
    (root / "again").mkdir()
    (root / "again" / "both").write_text("other")
    (root / "again" / "fresh").touch()
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    (root / "one").write_text("x")
    os.link(root / "one", root / "two")
    (root / "came").touch()
    (root / "came").unlink()
    for path in ("a", "dir/deep/new", "swap/inner", "swap", "again/both", "again/fresh", "again", "one", "link"):
        os.utime(root / path, (AGES_AGO + 1, AGES_AGO + 1), follow_symlinks=False)


def entries(folder: str) -> dict[str, tuple[object, ...]]:
    """What a layer says: names, kinds, owners, modes and contents, whose links and what times that are set."""
    found: dict[str, tuple[object, ...]] = {}
    for name, path, info in walk(folder):
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = Path(os.fsdecode(path)).read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        mtime = info.st_mtime_ns if info.st_mtime < AGES_AGO + 10 else "now"
        links = info.st_nlink if stat.S_ISREG(info.st_mode) else 0
        attributes = [key for key in os.listxattr(path, follow_symlinks=False) if key not in OVERLAYS_NOTES]
        mode = info.st_mode if not stat.S_ISCHR(info.st_mode) else stat.S_IFCHR
        found[os.fsdecode(name)] = (mode, info.st_uid, info.st_gid, content, mtime, links, tuple(sorted(attributes)))
    return found


def comparable(store: SnapshotStore, snapshot: int, name: str) -> dict[str, tuple[object, ...]]:
    """All that a layer says; fuse-overlayfs may lose the times of folders in which a file was changed."""
    found = entries(store.folder(snapshot))
    if name != "fuse-overlayfs":
        return found
    return {path: entry[:4] if stat.S_ISDIR(int(str(entry[0]))) else entry for path, entry in found.items()}


def test_the_changes_of_a_step_are_the_same_layer(store: SnapshotStore, tmp_path: Path, name: str) -> None:
    base = layer(store, None, fill)
    second = layer(store, base, work)
    (tmp_path / "overlay").mkdir()
    with (
        closing(Database(tmp_path / "overlay" / "metadata.db")) as db,
        closing(opened(tmp_path / "overlay", db, "overlay")) as other,
    ):
        reference = layer(other, layer(other, None, fill), work)
        assert comparable(store, second, name) == comparable(other, reference, name)
    found = entries(store.folder(second))
    assert "kept" not in found
    assert "pipe" not in found
    assert {name for name, entry in found.items() if entry[0] == stat.S_IFCHR} == {"gone", "again/old"}
    assert all(entry[6] == () for entry in found.values())
    assert found["one"][5] == found["two"][5] == 2


def test_one_of_several_names_of_a_file_below_is_written_to(store: SnapshotStore, name: str) -> None:
    if name == "fuse-overlayfs":
        pytest.skip("fuse-overlayfs writes to another name of the file, as the order in the folder has it")
    base = layer(store, None, fill)
    second = layer(store, base, lambda root: (root / "same").write_text("changed"))
    assert set(entries(store.folder(second))) == {"same"}
    with store.view(second) as root:
        texts = [Path(f"/proc/self/fd/{root}/{path}").read_text() for path in ("same", "dir/deep/c")]
    assert texts == ["changed", "3"]


def test_settling_says_how_large_the_layer_is(store: SnapshotStore) -> None:
    base = layer(store, None, fill)
    draft = store.prepare(base)
    with store.mount(draft) as root:
        work(Path(f"/proc/self/fd/{root}"))
    size = store.settle(draft)
    # Two names of one file count once, a file that is as it was below does not; links and whiteouts are no files.
    assert size == sum(map(len, ("changed", "new", "other", "x")))
    assert store.settle(draft) == size
    assert content_size(store.folder(store.commit(draft))) == size


def test_a_store_is_read_in_every_way(store: SnapshotStore, tmp_path: Path) -> None:
    top = layer(store, layer(store, None, fill), work)
    trees = []
    for other_name in NAMES:
        if other_name == "fuse-overlayfs" and fuse.refusal():
            continue
        with (
            closing(Database(tmp_path / "metadata.db")) as db,
            closing(opened(tmp_path, db, other_name)) as other,
            other.view(top) as root,
        ):
            trees.append({key: value[:5] for key, value in entries(f"/proc/self/fd/{root}").items()})
    assert all(tree == trees[0] for tree in trees)
    assert trees[0]["again/both"][3] == b"other"
    assert "again/old" not in trees[0]
    assert "gone" not in trees[0]


def test_an_opaque_directory_hides_what_is_below(store: SnapshotStore) -> None:
    from stagewright.snapshots import overlay

    base = layer(store, None, fill)
    draft = store.prepare(base)
    os.mkdir(os.path.join(draft.fs, "dir"))
    overlay.make_opaque(os.path.join(draft.fs, "dir"))
    Path(draft.fs, "dir", "only").touch()
    with store.view(store.commit(draft)) as root:
        assert os.listdir(f"/proc/self/fd/{root}/dir") == ["only"]


def test_whiteouts_where_nobody_makes_devices(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from stagewright.snapshots import overlay

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    base = layer(store, None, fill)
    draft = store.prepare(base)
    with monkeypatch.context() as patch:
        patch.setattr(os, "mknod", refuse)
        os.mkdir(os.path.join(draft.fs, "dir"))
        overlay.make_whiteout(draft.fs, draft.fs, b"gone", 5)
        overlay.make_whiteout(draft.fs, os.path.join(draft.fs, "dir"), b"b", 5)
    top = store.commit(draft)
    path = os.path.join(store.folder(top), "gone")
    info = os.lstat(path)
    assert stat.S_ISREG(info.st_mode)
    assert overlay.is_whiteout(info, path)
    if store.choice().snapshotter.name != "copies" and _release() < (6, 8):
        pytest.skip("overlayfs knows this form since Linux 6.8")
    if store.choice().snapshotter.name == "fuse-overlayfs":
        pytest.skip("fuse-overlayfs does not know this form, which is not made where it works")
    with store.view(top) as root:
        assert "gone" not in os.listdir(root)
        assert os.listdir(f"/proc/self/fd/{root}/dir") == ["deep"]


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


def test_views_of_several_at_once(store: SnapshotStore) -> None:
    base = layer(store, None, fill)
    second = layer(store, base, work)
    with store.view(base) as one, store.view(second) as two, store.view(base) as three:
        texts = [Path(f"/proc/self/fd/{root}/a").read_text() for root in (one, two, three)]
    assert texts == ["1", "changed", "1"]


def test_a_draft_that_is_discarded_changes_nothing(store: SnapshotStore) -> None:
    base = layer(store, None, fill)
    draft = store.prepare(base)
    with store.mount(draft) as root:
        work(Path(f"/proc/self/fd/{root}"))
    store.discard(draft)
    with store.view(base) as root:
        assert Path(f"/proc/self/fd/{root}/a").read_text() == "1"


def test_nothing_is_left(store: SnapshotStore, tmp_path: Path) -> None:
    base = layer(store, None, fill)
    with store.view(base):
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    store.close()
    assert drafts(tmp_path / "snapshots") == []


def test_a_killed_process_leaves_no_mount_and_no_server(name: str, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from stagewright.content.db import Database
from stagewright.snapshots.store import SnapshotStore
root = Path({str(tmp_path)!r})
store = SnapshotStore(root / "snapshots", Database(root / "metadata.db"), {name!r})
draft = store.prepare(None)
with store.mount(draft):
    print("mounted", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"mounted\n"
    servers = [os.pidfd_open(pid) for pid, words in commands().items() if _serves(words, tmp_path)]
    assert len(servers) == (1 if name == "fuse-overlayfs" else 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    import select

    for server in servers:
        assert select.select([server], [], [], 20)[0], "the server of the mount outlives the process"
        os.close(server)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    with closing(Database(tmp_path / "metadata.db")) as db:
        store = opened(tmp_path, db, name)
        store.clean()
    assert drafts(tmp_path / "snapshots") == []
    process.stdin.close()
    process.stdout.close()


def _serves(words: list[bytes], folder: Path) -> bool:
    return bool(words) and words[0].endswith(b"fuse-overlayfs") and any(os.fsencode(folder) in word for word in words)


# --- copies alone ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[SnapshotStore]:
    with closing(Database(tmp_path / "metadata.db")) as db, closing(opened(tmp_path, db, "copies")) as store:
        yield store


def inode(store: SnapshotStore, parent: int | None) -> tuple[int, int]:
    """The inode of a file that all layers have, as the next step would see it, and what is committed of the step."""
    draft = store.prepare(parent)
    with store.lend(draft) as tree:
        assert isinstance(tree, str)
        number = os.stat(os.path.join(tree, "kept")).st_ino
    return number, store.commit(draft)


def test_the_tree_of_a_step_is_handed_on(copies: SnapshotStore) -> None:
    first = layer(copies, None, fill)
    number, second = inode(copies, first)
    beside, _ = inode(copies, first)
    further = copies.prepare(second)
    Path(further.fs, "copied").touch()
    after_copy, last = inode(copies, copies.commit(further))
    assert number == after_copy
    assert beside != number
    with copies.view(last) as root:
        assert {"copied", "kept"} <= set(os.listdir(root))


def test_trees_to_write_share_no_file_with_a_layer(copies: SnapshotStore) -> None:
    base = layer(copies, None, fill)
    number, _ = inode(copies, base)
    assert number != os.stat(os.path.join(copies.folder(base), "kept")).st_ino


def test_a_change_within_the_clocks_tick_is_found(copies: SnapshotStore) -> None:
    top = None
    for text in "abcdefghij":
        top = layer(copies, top, lambda root, text=text: (root / "f").write_text(text) and None)  # type: ignore[misc]
        assert Path(copies.folder(top), "f").read_text() == text


# --- the choice -----------------------------------------------------------------------------------------------------


def test_the_kernel_is_the_first_choice(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "metadata.db")) as db:
        choice = opened(tmp_path, db, "auto").choice()
    assert (choice.snapshotter.name, choice.refusals) == ("overlay", ())


def test_what_is_worse_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise StoreError("no overlay here")

    monkeypatch.setattr("stagewright.snapshots.overlay.mount", refuse)
    monkeypatch.setattr(fuse, "refusal", lambda: None)
    with closing(Database(tmp_path / "metadata.db")) as db:
        choice = opened(tmp_path, db, "auto").choice()
        assert isinstance(choice.snapshotter, FuseSnapshotter)
        assert choice.refusals == (("overlay", "no overlay here"),)
        monkeypatch.setattr(fuse, "refusal", lambda: "no device")
        choice = opened(tmp_path, db, "auto").choice()
        assert choice.snapshotter.name == "copies"
        assert choice.refusals == (("overlay", "no overlay here"), ("fuse-overlayfs", "no device"))


def test_fuse_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert fuse.refusal() == "fuse-overlayfs is not installed"
    monkeypatch.setattr(fuse, "DEVICE", str(tmp_path / "missing"))
    if shutil.which("fuse-overlayfs"):
        assert fuse.refusal() == f"{tmp_path}/missing cannot be used: No such file or directory"


@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="there is no FUSE")
def test_a_program_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fuse-overlayfs").write_bytes(bytes(9))
    (tmp_path / "fuse-overlayfs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError) as caught, fuse.FuseSnapshotter(str(tmp_path)).view(()):
        pass
    assert caught.value.message == f"cannot start {tmp_path}/fuse-overlayfs: Exec format error"


def test_an_unknown_way_is_refused(tmp_path: Path) -> None:
    with (
        closing(Database(tmp_path / "metadata.db")) as db,
        pytest.raises(UsageError, match='there is no snapshotter "zfs"'),
    ):
        opened(tmp_path, db, "zfs").choice()
