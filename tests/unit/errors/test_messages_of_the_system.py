"""What is said where the system refuses a file or a folder: which one, and why, in no language but the reader's."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest

from stagewright import loading
from stagewright.cache.locks import LockFile
from stagewright.content.blobs import BlobStore
from stagewright.content.db import SCHEMA_VERSION, Database
from stagewright.content.remote import RemoteBlobs
from stagewright.errors import IntegrityError, LostLayerError, SandboxError, StoreError, UsageError, system_reason
from stagewright.exporters.archive import write_layout
from stagewright.exporters.engine import load
from stagewright.exporters.files import copy_files
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.progress.events import VertexEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.sandbox.launching import LauncherSlot
from stagewright.snapshots import overlay
from stagewright.snapshots.copies import CopiesSnapshotter
from stagewright.snapshots.fuse import FuseSnapshotter
from stagewright.snapshots.sinks import FileSink
from stagewright.snapshots.store import SnapshotStore
from stagewright.snapshots.tarheader import header
from stagewright.snapshots.tarreader import DIRECTORY, REGULAR
from stagewright.snapshots.tarwriter import write_tree
from stagewright.sources import archive

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file where a folder is looked for."""
    path = tmp_path / "file"
    path.write_text("x")
    return path


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(2, "No such file", b"/a\xff"), "/a\udcff: No such file"),
        (OSError(18, "Invalid cross-device link", "/a", None, "/b"), "/a: Invalid cross-device link"),
        (OSError(9, "Bad file descriptor", 3), "Bad file descriptor"),
        (OSError("gone"), "gone"),
    ],
)
def test_reasons(error: OSError, shown: str) -> None:
    assert system_reason(error) == shown


def test_a_lock_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught, LockFile(tmp_path / "no" / "locks").hold("x"):
        pass
    assert caught.value.message == f"cannot lock anything in {tmp_path}/no/locks: No such file or directory"


def test_a_store_of_the_future(tmp_path: Path) -> None:
    database = Database(tmp_path / "metadata")
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(StoreError) as caught:
        Database(tmp_path / "metadata")
    assert caught.value.message == (
        f"{tmp_path}/metadata was made by another version of Stagewright"
        f" (schema {SCHEMA_VERSION + 1}, this one has {SCHEMA_VERSION})"
    )
    assert caught.value.hint == "use that version, or another --root, or remove the state directory"


def test_blobs_without_a_folder_to_write_in(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    (tmp_path / "ingest").touch()
    with pytest.raises(StoreError) as caught:
        blobs.write(b"x")
    assert caught.value.message == f"cannot write to {tmp_path}/ingest: Not a directory"


def test_a_layer_that_no_cache_has(tmp_path: Path) -> None:
    with pytest.raises(LostLayerError) as caught:
        RemoteBlobs(BlobStore(tmp_path)).fetch(Descriptor(mediatypes.OCI_LAYER, DIGEST, 1))
    assert caught.value.message == (
        f"layer {DIGEST} is not in the store and cannot be fetched: no place is known that has it"
    )


def test_files_into_a_file(tmp_path: Path, file: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(StoreError) as caught:
        copy_files(str(tmp_path / "source"), f"{file}/out")
    assert caught.value.message == f"cannot write into {file}/out: {file}/out: Not a directory"


def test_a_layout_in_a_file(tmp_path: Path, file: Path) -> None:
    with pytest.raises(StoreError) as caught:
        write_layout([], BlobStore(tmp_path / "blobs"), f"{file}/out")
    assert caught.value.message == f"cannot write the OCI layout {file}/out: Not a directory"


def test_keys_of_an_engine_that_are_not_there(tmp_path: Path) -> None:
    env = {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    with pytest.raises(UsageError) as caught:
        load(env, lambda sink: None)
    assert (
        caught.value.message == f"cannot use the TLS keys of the Docker engine in {tmp_path}: No such file or directory"
    )


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_layer_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        write_tree(f"{tmp_path}/gone", FileSink(io.BytesIO()))
    assert caught.value.message == f"cannot read a file of a layer: {tmp_path}/gone: No such file or directory"


def test_a_file_that_shrinks_while_it_is_packed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(9))

    class Meddler(FileSink):
        def write(self, data: bytes) -> None:
            os.truncate(tmp_path / "f", 4)
            super().write(data)

    with pytest.raises(StoreError) as caught:
        write_tree(str(tmp_path), Meddler(io.BytesIO()))
    assert caught.value.message == f"{tmp_path}/f became shorter while it was read"


def test_attributes_that_no_layer_holds() -> None:
    with pytest.raises(StoreError) as caught:
        header(b"f", REGULAR, xattrs={"security.capability": bytes(2 << 20)})
    assert caught.value.message == "the extended attributes of 'f' are too large for a layer"


def test_a_draft_is_committed_once(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata"))
    draft = store.prepare(None)
    store.commit(draft)
    with pytest.raises(StoreError) as caught:
        store.commit(draft)
    assert caught.value.message == f"draft {draft.path} was already committed or discarded"


def test_a_store_whose_folder_is_gone(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata"))
    shutil.rmtree(tmp_path / "snapshots")
    (tmp_path / "snapshots").touch()
    with pytest.raises(StoreError) as caught:
        store.prepare(None)
    assert caught.value.message.startswith(
        f"cannot use the snapshot directory {tmp_path}/snapshots: {tmp_path}/snapshots/"
    )
    assert caught.value.message.endswith(": Not a directory")


def test_copies_of_a_layer_that_is_gone(tmp_path: Path) -> None:
    def new_folder() -> str:
        (tmp_path / "copy").mkdir()
        return str(tmp_path / "copy")

    snapshotter = CopiesSnapshotter(new_folder, shutil.rmtree)
    with pytest.raises(StoreError) as caught, snapshotter.view((f"{tmp_path}/gone",)):
        pass
    assert caught.value.message == f"cannot copy the files of 1 layers: {tmp_path}/gone: No such file or directory"
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("lower", "message"),
    [
        ("/a,b", "fuse-overlayfs cannot use the path /a,b"),
        ("/a", "cannot mount by {device}: No such file or directory"),
    ],
)
def test_fuse_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lower: str, message: str) -> None:
    (tmp_path / "fuse-overlayfs").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("stagewright.snapshots.fuse.DEVICE", f"{tmp_path}/device")
    with pytest.raises(StoreError) as caught, FuseSnapshotter(str(tmp_path)).view((lower,)):
        pass
    assert caught.value.message == message.format(device=tmp_path / "device")


def test_fuse_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError) as caught, FuseSnapshotter(str(tmp_path)).view(()):
        pass
    assert caught.value.message == "cannot merge 1 layers: fuse-overlayfs is not installed"


def test_more_layers_than_overlayfs_takes() -> None:
    with pytest.raises(StoreError) as caught:
        overlay.mount(["/a"] * (overlay.MAX_LOWERS + 1))
    assert caught.value.message == "a chain of 501 layers is more than overlayfs takes (500)"


def test_blobs(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    with pytest.raises(IntegrityError) as caught, blobs.writer(expected=DIGEST, size=1) as writer:
        writer.write(b"xx")
    assert caught.value.message == f"blob {DIGEST} is longer than its 1 bytes"
    digest = blobs.write(b"whole")
    (path,) = tmp_path.rglob(digest.removeprefix("sha256:"))
    path.chmod(0o600)
    path.write_bytes(b"wrong")
    with pytest.raises(IntegrityError) as caught, blobs.open_verified(digest) as file:
        file.read()
    assert caught.value.message == f"blob {digest} was damaged on the disk, and has been removed"
    assert not blobs.has(digest)


# --- archives of images -----------------------------------------------------------------------------------------------


def test_more_members_than_any_image_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_MAX_MEMBERS", 2)
    data = b"".join(header(b"f%d" % number, REGULAR) for number in range(3))
    with pytest.raises(IntegrityError) as caught:
        loading.load_images(io.BytesIO(data), BlobStore(tmp_path))
    assert caught.value.message == "the archive has more than 2 members"


def test_more_folders_than_any_context_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MAX_DIRECTORIES", 500)
    source = archive.ArchiveSource(SnapshotStore(tmp_path / "snapshots", Database(tmp_path / "metadata")))
    data = b"".join(header(b"d%d/" % number, DIRECTORY) for number in range(3))
    with pytest.raises(IntegrityError) as caught:
        source.take(io.BytesIO(data), Reporter(Emitter(None), VertexEvent(DIGEST, "context")))
    source.close()
    assert caught.value.message == (
        "failed to read the build context from standard input: the archive has too many directories"
    )


# --- steps ------------------------------------------------------------------------------------------------------------


def test_no_step_starts_once_the_runtime_is_closed() -> None:
    slot = LauncherSlot()
    slot.close()
    with pytest.raises(SandboxError) as caught:
        slot.get()
    assert caught.value.message == "the runtime is closed"
