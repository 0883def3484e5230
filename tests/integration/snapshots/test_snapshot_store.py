"""The snapshot store on real overlay mounts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagewright.content.db import Database
from stagewright.errors import LostSnapshotError, NotFoundError, StoreError
from stagewright.snapshots import overlay
from stagewright.snapshots.store import SnapshotStore


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "metadata.db")
    yield database
    database.close()


@pytest.fixture
def store(tmp_path: Path, db: Database) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots", db)


def snapshot(store: SnapshotStore, parent: int | None, files: dict[str, str | None]) -> int:
    """Commit a layer on `parent`: contents by path, None removes."""
    draft = store.prepare(parent)
    with store.mount(draft) as root:
        for path, text in files.items():
            full = f"/proc/self/fd/{root}/{path}"
            if text is None:
                os.unlink(full)
                continue
            os.makedirs(os.path.dirname(full), exist_ok=True)
            Path(full).write_text(text)
    return store.commit(draft)


def tree(store: SnapshotStore, snapshot: int | None) -> dict[str, str]:
    with store.view(snapshot) as root:
        base = f"/proc/self/fd/{root}"
        return {
            os.path.relpath(os.path.join(folder, name), base): Path(folder, name).read_text()
            for folder, _, names in os.walk(base)
            for name in names
        }


def test_layers_add_change_and_hide_files(store: SnapshotStore) -> None:
    first = snapshot(store, None, {"a": "1", "dir/b": "2"})
    second = snapshot(store, first, {"a": "changed", "dir/b": None, "dir/c": "3"})
    assert tree(store, first) == {"a": "1", "dir/b": "2"}
    assert tree(store, second) == {"a": "changed", "dir/c": "3"}
    assert tree(store, None) == {}
    assert store.layers(second) == (first, second)
    assert store.lowers(second) == (store.folder(second), store.folder(first))
    path = f"{store.folder(second)}/dir/b"
    assert overlay.is_whiteout(os.lstat(path), path)


def test_a_view_is_read_only(store: SnapshotStore) -> None:
    base = snapshot(store, None, {"a": "1"})
    with store.view(base) as root, pytest.raises(OSError, match="Read-only"):
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=root)


def test_no_mount_is_visible_or_left(store: SnapshotStore, tmp_path: Path) -> None:
    base = snapshot(store, None, {"a": "1"})
    draft = store.prepare(base)
    with store.mount(draft), store.view(base):
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    store.discard(draft)
    assert os.listdir(os.path.dirname(draft.path)) == []


def test_a_draft_can_be_mounted_again(store: SnapshotStore) -> None:
    draft = store.prepare(None)
    for name in ("first", "second"):
        with store.mount(draft) as root:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=root))
    assert tree(store, store.commit(draft)) == {"first": "", "second": ""}


def test_a_new_layer_has_the_root_directory_of_its_parent(store: SnapshotStore) -> None:
    draft = store.prepare(None)
    os.chmod(draft.fs, 0o1710)
    os.chown(draft.fs, 12, 34)
    parent = store.commit(draft)
    with store.view(snapshot(store, parent, {"x": ""})) as root:
        info = os.fstat(root)
    assert (info.st_mode & 0o7777, info.st_uid, info.st_gid) == (0o1710, 12, 34)


def test_the_classic_mount_serves_older_kernels(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(overlay, "_has_lowerdir_plus", lambda: False)
    before = os.getcwd()
    top = None
    for number in range(60):
        top = snapshot(store, top, {f"f{number}": str(number), "same": str(number)})
    assert tree(store, top) == {f"f{number}": str(number) for number in range(60)} | {"same": "59"}
    assert os.getcwd() == before
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_three_hundred_layers_are_one_mount(store: SnapshotStore) -> None:
    top = None
    for number in range(300):
        draft = store.prepare(top)
        Path(draft.fs, f"f{number}").write_text(str(number))
        top = store.commit(draft)
    assert len(tree(store, top)) == 300


def test_more_layers_than_overlayfs_takes_are_refused(store: SnapshotStore) -> None:
    with pytest.raises(StoreError, match="501 layers is more than overlayfs takes"):
        overlay.mount(("/",) * 501)


def test_layers_that_are_gone_cannot_be_mounted(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        overlay.mount((f"{tmp_path}/a", f"{tmp_path}/b"))
    assert caught.value.message == "cannot mount an overlay of 2 layers: No such file or directory"


def test_graft_puts_the_same_changes_on_another_parent(store: SnapshotStore) -> None:
    base = snapshot(store, None, {"usr/base": "b", "etc/x": "x"})
    link = snapshot(store, None, {"usr/bin/tool": "t"})
    grafted = store.graft(link, base)
    assert tree(store, grafted) == {"usr/base": "b", "etc/x": "x", "usr/bin/tool": "t"}
    assert store.graft(link, base) == grafted
    assert store.graft(link, None) == link
    assert store.folder(grafted) == store.folder(link)
    with pytest.raises(NotFoundError):
        store.graft(link, 99999)


def test_a_replaced_directory_hides_what_it_replaced(store: SnapshotStore) -> None:
    base = snapshot(store, None, {"dir/old": "o", "dir/sub/old": "o"})
    draft = store.prepare(base)
    with store.mount(draft) as root:
        subprocess.run(["rm", "-r", f"/proc/self/fd/{root}/dir"], check=True, pass_fds=[root])
        os.makedirs(f"/proc/self/fd/{root}/dir/sub")
        Path(f"/proc/self/fd/{root}/dir/sub/new").write_text("n")
    top = store.commit(draft)
    assert tree(store, top) == {"dir/sub/new": "n"}
    # As in BuildKit's layers, by name: what is grafted below it later is not hidden.
    for path in ("dir/old", "dir/sub/old"):
        assert overlay.is_whiteout(os.lstat(f"{store.folder(top)}/{path}"), f"{store.folder(top)}/{path}")
    assert not overlay.is_opaque(f"{store.folder(top)}/dir")


def test_remove_keeps_what_others_are_built_on(store: SnapshotStore, db: Database) -> None:
    base = snapshot(store, None, {"a": "x" * 5000})
    grafted = store.graft(base, snapshot(store, None, {"b": ""}))
    top = snapshot(store, grafted, {"c": ""})
    db.execute("INSERT INTO layer_blobs VALUES (?, '', 'm', 'd', 1, 'i')", (store.dir(base),))
    with pytest.raises(StoreError, match=f"snapshot {grafted} is in use by others that are built on it"):
        store.remove(grafted)
    store.remove(top)
    assert store.remove(grafted) == 0
    folder = store.folder(base)
    assert store.remove(base) >= 5000
    assert not os.path.exists(folder)
    assert db.query("SELECT * FROM layer_blobs") == []
    assert not store.exists(base)
    with pytest.raises(LostSnapshotError):
        store.lowers(base)


def test_chain_ids_name_one_snapshot(store: SnapshotStore) -> None:
    first, second = snapshot(store, None, {"a": ""}), snapshot(store, None, {"a": ""})
    assert store.by_chain("sha256:x") is None
    assert store.set_chain(first, "sha256:x") == first
    assert store.set_chain(second, "sha256:x") == first
    assert store.by_chain("sha256:x") == first


def test_size_counts_hard_links_once(store: SnapshotStore) -> None:
    draft = store.prepare(None)
    Path(draft.fs, "a").write_bytes(b"x" * 100_000)
    os.link(f"{draft.fs}/a", f"{draft.fs}/b")
    assert 100_000 <= store.size(store.commit(draft)) < 150_000


def test_a_finished_draft_cannot_be_committed(store: SnapshotStore) -> None:
    draft = store.prepare(None)
    store.discard(draft)
    store.discard(draft)
    with pytest.raises(StoreError):
        store.commit(draft)


KILLED = """
import os, sys
from pathlib import Path
from stagewright.content.db import Database
from stagewright.snapshots.store import SnapshotStore
root = Path(sys.argv[1])
store = SnapshotStore(root / "snapshots", Database(root / "metadata.db"))
draft = store.prepare(None)
with store.mount(draft) as fd:
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    print(draft.path, flush=True)
    sys.stdin.read()
"""


def test_only_the_drafts_of_dead_processes_are_cleaned(store: SnapshotStore, tmp_path: Path) -> None:
    mine = store.prepare(None)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        store.clean()
        assert os.path.exists(theirs)
        other.send_signal(signal.SIGKILL)
        other.wait()
    store.clean()
    assert not os.path.exists(theirs)
    assert os.path.exists(mine.path)
    store.discard(mine)


def test_a_folder_without_a_row_is_replaced_or_cleaned(store: SnapshotStore, tmp_path: Path) -> None:
    first = snapshot(store, None, {"a": ""})
    for number in (first + 1, first + 7):
        (tmp_path / "snapshots" / str(number) / "rest").mkdir(parents=True)
    second = snapshot(store, None, {"b": ""})
    assert tree(store, second) == {"b": ""}
    store.clean()
    assert not (tmp_path / "snapshots" / str(first + 7)).exists()
    assert tree(store, first) == {"a": ""}


def test_threads_commit_at_once(store: SnapshotStore) -> None:
    ids: list[int] = []

    def work(number: int) -> None:
        for step in range(5):
            ids.append(snapshot(store, None, {f"{number}-{step}": ""}))
            store.clean()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 20
    assert sorted(name for snapshot in ids for name in tree(store, snapshot)) == sorted(
        f"{number}-{step}" for number in range(4) for step in range(5)
    )
