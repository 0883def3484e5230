"""Folders become layers and layers folders, with GNU tar, umoci's rules and hypothesis as witnesses."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import is_root_of_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagewright.content.blobs import BlobStore
from stagewright.content.db import Database
from stagewright.errors import IntegrityError
from stagewright.snapshots import overlay
from stagewright.snapshots.compress import Compression, LayerBlob
from stagewright.snapshots.layers import LayerBlobs
from stagewright.snapshots.pack import convert, pack
from stagewright.snapshots.store import SnapshotStore
from stagewright.snapshots.unpack import apply

PLAIN = Compression("uncompressed")


class World:
    """A store of snapshots and one of blobs."""

    def __init__(self, root: Path) -> None:
        self.db = Database(root / "metadata.db")
        self.snapshots = SnapshotStore(root / "snapshots", self.db)
        self.blobs = BlobStore(root / "content")
        self.layers = LayerBlobs(self.snapshots, self.blobs, self.db)

    def unpack(self, blob: LayerBlob, parent: int | None = None) -> int:
        draft = self.snapshots.prepare(parent)
        with self.blobs.open(blob.digest) as stream:
            apply(stream, draft, lambda: self.snapshots.lowers(parent), blob.diff_id)
        return self.snapshots.commit(draft)

    def members(self, blob: LayerBlob) -> list[tarfile.TarInfo]:
        with tarfile.open(self.blobs.path(blob.digest)) as tar:
            return tar.getmembers()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.snapshots.close()
    made.db.close()


def state(folder: str) -> dict[bytes, tuple]:
    """Everything about a folder that a layer holds; hard links as the sets of names that are one file."""
    found = {}
    names: dict[int, list[bytes]] = {}
    for here, dirs, files in os.walk(os.fsencode(folder)):
        for name in dirs + files:
            path = os.path.join(here, name)
            info = os.lstat(path)
            relative = os.path.relpath(path, os.fsencode(folder))
            content: object = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
                names.setdefault(info.st_ino, []).append(relative)
            else:
                content = info.st_rdev
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            is_whiteout = overlay.is_whiteout(info, path)
            mode = 0 if stat.S_ISLNK(info.st_mode) or is_whiteout else info.st_mode
            found[relative] = (
                mode,
                # A whiteout in a folder with the set-group-ID bit is of that group.
                *((0, 0) if is_whiteout else (info.st_uid, info.st_gid)),
                int(info.st_mtime),
                content,
                tuple(sorted(xattrs.items())),
            )
    found[b"/links"] = tuple(sorted(tuple(sorted(group)) for group in names.values() if len(group) > 1))
    return found


# --- trees made by hypothesis -------------------------------------------------------------------------------------

CAPABILITY = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
# In a user namespace there are no other IDs than those that it maps, and nobody makes devices.
HIGHEST_ID = 3_000_000 if is_root_of_machine() else 65_535
COMPONENTS = st.one_of(
    st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_")),
    st.sampled_from([b"a", b"b", b"a.b", b"caf\xc3\xa9", b"x" * 120, b"new\nline"]),
).filter(lambda name: name not in (b".", b"..") and not name.startswith(b".wh."))
PATHS = st.lists(COMPONENTS, min_size=1, max_size=4).map(b"/".join)
NODES = st.tuples(
    st.sampled_from(["file", "dir", "opaque", "link", "hard", "fifo", "device", "whiteout"]),
    st.integers(0, 0o7777),
    st.integers(0, min(70_000, HIGHEST_ID)),
    st.integers(0, HIGHEST_ID),
    st.integers(0, 1 << 33),
    st.binary(max_size=1500),
    st.just({}),
)
TREES = st.dictionaries(PATHS, NODES, max_size=12)


def build(folder: str, tree: dict[bytes, tuple]) -> None:
    """Make the tree in a folder, leaving out what contradicts itself."""
    times = []
    files: list[bytes] = []
    for path, (kind, mode, uid, gid, mtime, data, xattrs) in sorted(tree.items()):
        target = os.path.join(os.fsencode(folder), path)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if kind == "file":
                with open(target, "xb") as file:
                    file.write(data)
                files.append(target)
            elif kind in ("dir", "opaque"):
                os.mkdir(target)
            elif kind == "link":
                os.symlink(b"nowhere/" + data.replace(b"\0", b"0"), target)
            elif kind == "hard":
                if files:
                    os.link(files[len(data) % len(files)], target)
                continue
            elif kind == "fifo":
                os.mkfifo(target)
            elif kind == "device" and not is_root_of_machine():
                continue
            else:
                os.mknod(target, stat.S_IFCHR, 0 if kind == "whiteout" else os.makedev(1, 3))
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            continue
        if kind == "whiteout":
            uid = gid = 0
        os.chown(target, uid, gid, follow_symlinks=False)
        if kind not in ("link", "whiteout"):
            os.chmod(target, mode)
        if kind in ("file", "dir", "opaque"):
            for key, value in xattrs.items():
                os.setxattr(target, key, value)
        if kind == "opaque":
            os.setxattr(target, overlay.xattr_prefix() + "opaque", b"y")
        times.append((target, mtime))
    for here, dirs, _ in os.walk(os.fsencode(folder), topdown=False):
        times += [
            (os.path.join(here, name), 11) for name in dirs if all(os.path.join(here, name) != t for t, _ in times)
        ]
    for target, mtime in times:
        os.utime(target, (mtime, mtime), follow_symlinks=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_a_layer_comes_back_as_it_was(tree: dict[bytes, tuple]) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        world = World(root)
        source = root / "source"
        source.mkdir()
        build(str(source), tree)
        blob = pack(str(source), world.blobs, PLAIN)
        draft = world.snapshots.prepare(None)
        with world.blobs.open(blob.digest) as stream:
            apply(stream, draft, tuple, blob.diff_id)
        assert state(draft.fs) == state(str(source))
        assert pack(draft.fs, world.blobs, PLAIN) == blob
        world.snapshots.discard(draft)
        world.snapshots.close()
        world.db.close()
    finally:
        shutil.rmtree(root)


# --- single cases -------------------------------------------------------------------------------------------------


def test_gnu_tar_reads_what_is_packed(world: World, tmp_path: Path) -> None:
    draft = world.snapshots.prepare(None)
    build(
        draft.fs,
        {
            b"d": ("dir", 0o2750, 5, 6, 1000, b"", {}),
            b"d/f": ("file", 0o4755, 7, HIGHEST_ID, 1 << 33, b"content", {"security.capability": CAPABILITY}),
            b"d/h": ("hard", 0, 0, 0, 0, b"", {}),
            b"d/" + b"n" * 200: ("file", 0o644, 0, 0, 3, b"", {}),
            b"l": ("link", 0, 0, 0, 4, b"t" * 150, {}),
            b"null": ("device", 0o666, 0, 0, 5, b"", {}),
            b"pipe": ("fifo", 0o600, 0, 0, 6, b"", {}),
        },
    )
    blob = pack(draft.fs, world.blobs, Compression())
    target = tmp_path / "out"
    target.mkdir()
    command = ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpzf"]
    subprocess.run([*command, str(world.blobs.path(blob.digest)), "-C", str(target)], check=True)
    assert state(str(target)) == state(draft.fs)


def test_members_are_in_byte_order_below_their_folders(world: World) -> None:
    draft = world.snapshots.prepare(None)
    for name in ("b", "a/x", "a.b", "a/B", "Z"):
        path = Path(draft.fs, name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = [member.name for member in world.members(pack(draft.fs, world.blobs, PLAIN))]
    assert names == ["Z", "a", "a/B", "a/x", "a.b", "b"]


def test_what_a_step_removed_becomes_whiteouts_by_name(world: World) -> None:
    snapshots = world.snapshots
    base = snapshots.prepare(None)
    for name in ("gone", "dir/old", "kept/old"):
        path = Path(base.fs, name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    draft = snapshots.prepare(snapshots.commit(base))
    with snapshots.mount(draft) as root:
        at = f"/proc/self/fd/{root}"
        os.unlink(f"{at}/gone")
        shutil.rmtree(f"{at}/dir")
        os.mkdir(f"{at}/dir")
        Path(f"{at}/dir/new").touch()
        os.unlink(f"{at}/kept/old")
        os.makedirs(f"{at}/fresh/deep")
    blob = world.layers.obtain(snapshots.commit(draft), PLAIN)
    members = {member.name: member for member in world.members(blob)}
    assert sorted(members) == [
        ".wh.gone", "dir", "dir/.wh.old", "dir/new", "fresh", "fresh/deep", "kept", "kept/.wh.old",
    ]  # fmt: skip
    assert (members[".wh.gone"].mode, members[".wh.gone"].size) == (0, 0)


def test_attributes_of_this_machine_stay_here(world: World) -> None:
    draft = world.snapshots.prepare(None)
    path = Path(draft.fs, "f")
    path.touch()
    attributes = {"user.k": b"v", "user.overlay.k": b"v", "security.capability": CAPABILITY}
    if is_root_of_machine():
        attributes["trusted.k"] = b"v"
    for key, value in attributes.items():
        os.setxattr(path, key, value)
    (member,) = world.members(pack(draft.fs, world.blobs, PLAIN))
    assert list(member.pax_headers) == ["SCHILY.xattr.security.capability"]


def test_sockets_are_left_out(world: World) -> None:
    import socket

    draft = world.snapshots.prepare(None)
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(draft.fs, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/s")
        os.close(folder)
    assert world.members(pack(draft.fs, world.blobs, PLAIN)) == []


def test_times_later_than_the_epoch_are_put_back(world: World) -> None:
    draft = world.snapshots.prepare(None)
    for name, mtime in (("old", 100.9), ("new", 5000.5)):
        Path(draft.fs, name).touch()
        os.utime(f"{draft.fs}/{name}", (mtime, mtime))
    members = world.members(pack(draft.fs, world.blobs, PLAIN, epoch=1000))
    assert {member.name: member.mtime for member in members} == {"old": 100, "new": 1000}


# --- which blob a layer is known as -------------------------------------------------------------------------------


def pulled_layer(world: World) -> tuple[int, LayerBlob]:
    """A snapshot that was unpacked from an archive which we would pack otherwise."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("f")
        info.uname = "somebody"
        tar.addfile(info)
    data = buffer.getvalue()
    draft = world.snapshots.prepare(None)
    diff_id = apply(io.BytesIO(data), draft, tuple)
    snapshot = world.snapshots.commit(draft)
    blob = LayerBlob("application/vnd.docker.image.rootfs.diff.tar.gzip", world.blobs.write(data), len(data), diff_id)
    world.layers.record_pulled(snapshot, blob)
    return snapshot, blob


def test_a_pulled_blob_is_taken_as_it_is(world: World) -> None:
    snapshot, blob = pulled_layer(world)
    assert world.layers.pulled(snapshot) == blob
    assert world.layers.obtain(snapshot, Compression("zstd"), epoch=0) == blob
    assert world.layers.obtain(snapshot, Compression("gzip"), force=True) == blob


def test_force_compression_keeps_the_diff_id(world: World) -> None:
    snapshot, blob = pulled_layer(world)
    converted = world.layers.obtain(snapshot, Compression("zstd"), force=True)
    assert (converted.diff_id, converted.media_type) == (blob.diff_id, "application/vnd.oci.image.layer.v1.tar+zstd")
    assert world.layers.obtain(snapshot, Compression("zstd"), force=True) == converted
    assert converted.digest in world.layers.digests()


def test_a_blob_that_is_not_what_it_says_is_not_converted(world: World) -> None:
    _, blob = pulled_layer(world)
    wrong = LayerBlob(blob.media_type, blob.digest, blob.size, "sha256:" + "0" * 64)
    with pytest.raises(IntegrityError, match=f"blob {blob.digest} does not hold the layer {wrong.diff_id}"):
        convert(wrong, world.blobs, PLAIN)


def test_a_known_blob_is_not_packed_again(world: World) -> None:
    draft = world.snapshots.prepare(None)
    Path(draft.fs, "f").write_text("x")
    snapshot = world.snapshots.commit(draft)
    first = world.layers.obtain(snapshot, Compression())
    # Packed again it would be another one.
    Path(world.snapshots.folder(snapshot), "f").write_text("changed")
    assert world.layers.obtain(snapshot, Compression("gzip", 2)) == first
    assert world.layers.obtain(snapshot, Compression("zstd")).diff_id != first.diff_id
    world.blobs.delete(first.digest)
    assert world.layers.obtain(snapshot, Compression()).diff_id != first.diff_id


def test_grafts_share_their_blob(world: World) -> None:
    draft = world.snapshots.prepare(None)
    Path(draft.fs, "f").write_text("x")
    snapshot = world.snapshots.commit(draft)
    base = world.snapshots.commit(world.snapshots.prepare(None))
    grafted = world.snapshots.graft(snapshot, base)
    blob = world.layers.obtain(snapshot, Compression())
    world.blobs.path(blob.digest).stat()
    assert world.layers.obtain(grafted, Compression()) == blob
    assert len(world.db.query("SELECT * FROM layer_blobs")) == 1


def test_umoci_unpacks_our_layers_to_the_same_files(world: World, tmp_path: Path) -> None:
    draft = world.snapshots.prepare(None)
    build(
        draft.fs,
        {
            b"d": ("dir", 0o1777, 5, 6, 1000, b"", {}),
            b"d/f": ("file", 0o4755, 7, 8, 2000, b"content", {}),
            b"d/h": ("hard", 0, 0, 0, 0, b"", {}),
            b"l": ("link", 0, 0, 0, 4, b"d/f", {}),
            b"null": ("device", 0o666, 0, 0, 5, b"", {}),
        },
    )
    blob = pack(draft.fs, world.blobs, Compression())
    target = tmp_path / "out"
    command = ["umoci", "raw", "unpack", "--image", f"{tmp_path}/layout:x", str(target)]
    subprocess.run(["umoci", "init", "--layout", f"{tmp_path}/layout"], check=True)
    subprocess.run(["umoci", "new", "--image", f"{tmp_path}/layout:x"], check=True)
    with tempfile.NamedTemporaryFile() as plain:
        subprocess.run(["gunzip", "-c", str(world.blobs.path(blob.digest))], stdout=plain, check=True)
        subprocess.run(["umoci", "raw", "add-layer", "--image", f"{tmp_path}/layout:x", plain.name], check=True)
    subprocess.run(command, check=True)
    assert state(str(target)) == state(draft.fs)
