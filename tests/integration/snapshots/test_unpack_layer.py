"""Layers are unpacked to the right files, and never outside of their folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import zstandard
from drafts import drafts
from harness import is_root_of_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from stagewright.content.db import Database
from stagewright.errors import IntegrityError, StoreError
from stagewright.snapshots import overlay
from stagewright.snapshots.store import Draft, SnapshotStore
from stagewright.snapshots.unpack import apply

Member = tuple[str, dict[str, object]] | tuple[str, dict[str, object], bytes]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SnapshotStore]:
    db = Database(tmp_path / "metadata.db")
    made = SnapshotStore(tmp_path / "snapshots", db)
    yield made
    made.close()
    db.close()


def archive(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, fields, *content in members:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            data = content[0] if content else b""
            info.size = len(data)
            # Python's writer takes trailing slashes away; the names here are what is tested.
            info.name = name
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def regular(name: str, data: bytes = b"", **fields: object) -> Member:
    return name, fields, data


def directory(name: str, **fields: object) -> Member:
    return name, {"type": tarfile.DIRTYPE, "mode": 0o755, **fields}


def symlink(name: str, target: str) -> Member:
    return name, {"type": tarfile.SYMTYPE, "linkname": target}


def hard_link(name: str, target: str, **fields: object) -> Member:
    return name, {"type": tarfile.LNKTYPE, "linkname": target, **fields}


def unpack(store: SnapshotStore, data: bytes, parent: int | None = None) -> Draft:
    draft = store.prepare(parent)
    apply(io.BytesIO(data), draft, lambda: store.lowers(parent), "sha256:" + hashlib.sha256(data).hexdigest())
    return draft


def layer(store: SnapshotStore, *members: Member, parent: int | None = None) -> int:
    return store.commit(unpack(store, archive(*members), parent))


def listing(store: SnapshotStore, snapshot: int) -> dict[str, str]:
    """The merged files: content, link target, or "/" for a directory."""
    found = {}
    with store.view(snapshot) as root:
        base = f"/proc/self/fd/{root}"
        for folder, dirs, names in os.walk(base):
            for name in dirs + names:
                path = os.path.join(folder, name)
                text = "/"
                if os.path.islink(path):
                    text = "-> " + os.readlink(path)
                elif not os.path.isdir(path):
                    text = Path(path).read_text()
                found[os.path.relpath(path, base)] = text
    return found


def test_every_kind_of_member(store: SnapshotStore) -> None:
    draft = unpack(
        store,
        archive(
            directory("d", mode=0o1777, uid=5, gid=6, mtime=1000),
            regular("d/suid", b"x", mode=0o6755, uid=1, gid=2, mtime=1234.000000789),
            regular("e/" * 60 + "f" * 250, b"long"),
            symlink("link", "/nowhere/" + "y" * 200),
            hard_link("hard", "d/suid", mode=0o6755, uid=1, gid=2),
            ("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666}),
            ("disk", {"type": tarfile.BLKTYPE, "devmajor": 253, "devminor": 70000, "mode": 0o660, "gid": 6}),
            ("pipe", {"type": tarfile.FIFOTYPE, "mode": 0o622}),
        ),
    )
    at = draft.fs
    info = os.lstat(f"{at}/d")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o1777, 5, 6, 1000)
    info = os.lstat(f"{at}/d/suid")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o6755, 1, 2)
    assert os.path.samefile(f"{at}/d/suid", f"{at}/hard")
    assert Path(at, "e/" * 60 + "f" * 250).read_bytes() == b"long"
    assert os.readlink(f"{at}/link") == "/nowhere/" + "y" * 200
    devices = {name: os.lstat(f"{at}/{name}").st_rdev for name in ("null", "disk") if os.path.lexists(f"{at}/{name}")}
    # Nobody makes devices in a user namespace, where an image does without.
    expected = {"null": os.makedev(1, 3), "disk": os.makedev(253, 70000)}
    assert devices == (expected if is_root_of_machine() else {})
    assert stat.S_ISFIFO(os.lstat(f"{at}/pipe").st_mode)
    assert stat.S_IMODE(os.lstat(f"{at}/pipe").st_mode) == 0o622


def test_times_have_nanoseconds_and_directories_keep_theirs(store: SnapshotStore) -> None:
    members = archive(
        ("d/f", {"pax_headers": {"mtime": "1234.000000789"}}, b"x"),
        directory("d", pax_headers={"mtime": "99.5"}),
        regular("d/g"),
    )
    draft = unpack(store, members)
    assert os.lstat(f"{draft.fs}/d/f").st_mtime_ns == 1_234_000_000_789
    assert os.lstat(f"{draft.fs}/d").st_mtime_ns == 99_500_000_000


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_compression_is_found_by_its_first_bytes(store: SnapshotStore, pack: Callable[[bytes], bytes]) -> None:
    data = archive(regular("f", os.urandom(3_000_000)))
    draft = store.prepare(None)
    assert apply(io.BytesIO(pack(data)), draft, tuple) == "sha256:" + hashlib.sha256(data).hexdigest()
    assert os.path.getsize(f"{draft.fs}/f") == 3_000_000


def test_a_wrong_diff_id_is_an_error(store: SnapshotStore) -> None:
    with pytest.raises(IntegrityError, match=r"layer has diff ID sha256:[0-9a-f]{64}, expected sha256:"):
        apply(io.BytesIO(archive(regular("f"))), store.prepare(None), tuple, "sha256:" + "0" * 64)


def test_an_empty_stream_is_an_empty_layer(store: SnapshotStore) -> None:
    assert os.listdir(unpack(store, b"").fs) == []


def test_bytes_after_the_end_count_for_the_diff_id(store: SnapshotStore) -> None:
    data = archive(regular("f")) + b"rest" * 1_000_000
    assert os.listdir(unpack(store, data).fs) == ["f"]


def test_whiteouts_hide_files_of_lower_layers(store: SnapshotStore) -> None:
    base = layer(store, regular("etc/a", b"1"), regular("etc/b", b"2"), regular("gone/x"), regular("opq/old"))
    top = layer(
        store,
        directory("etc"),
        regular("etc/.wh.a"),
        regular(".wh.gone"),
        directory("opq"),
        regular("opq/new"),
        regular("opq/.wh..wh..opq"),
        parent=base,
    )
    assert listing(store, top) == {"etc": "/", "etc/b": "2", "opq": "/", "opq/new": ""}


def test_an_opaque_root_hides_everything_below(store: SnapshotStore) -> None:
    base = layer(store, regular("a/x"), regular("b/y"), regular("c"))
    top = layer(store, regular(".wh..wh..opq"), regular("b/z"), regular("d"), parent=base)
    assert listing(store, top) == {"b": "/", "b/z": "", "d": ""}


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_does_not_hide_its_own_layer(store: SnapshotStore, order: int) -> None:
    base = layer(store, regular("d/old"), regular("f", b"old"))
    members = [regular(".wh.d"), regular(".wh.f"), directory("d"), regular("d/new"), regular("f", b"new")]
    if order < 0:
        members = members[2:] + members[:2]
    top = layer(store, *members, parent=base)
    assert listing(store, top) == {"d": "/", "d/new": "", "f": "new"}


def test_aufs_metadata_is_left_out(store: SnapshotStore) -> None:
    top = layer(store, directory(".wh..wh.plnk"), regular(".wh..wh.plnk/1.2"), regular(".wh..wh.aufs"), regular("f"))
    assert listing(store, top) == {"f": ""}


def test_parents_that_are_no_members_come_from_below(store: SnapshotStore) -> None:
    base = layer(store, directory("srv", mode=0o710, uid=7, gid=8, mtime=55), regular("srv/a"))
    top = layer(store, regular("srv/b", mtime=77), regular("new/deep/c", mtime=66), parent=base)
    folder = store.folder(top)
    info = os.lstat(f"{folder}/srv")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o710, 7, 8, 55)
    info = os.lstat(f"{folder}/new/deep")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_mtime) == (0o755, 0, 66)
    assert listing(store, top)["srv/a"] == ""


def test_a_link_of_a_lower_layer_gives_way_to_a_directory(store: SnapshotStore) -> None:
    base = layer(store, regular("usr/bin/sh", b"sh"), symlink("bin", "usr/bin"))
    top = layer(store, regular("bin/tool", b"t"), parent=base)
    assert listing(store, top) == {"usr": "/", "usr/bin": "/", "usr/bin/sh": "sh", "bin": "/", "bin/tool": "t"}


def test_a_link_of_the_same_layer_is_followed_inside(store: SnapshotStore) -> None:
    top = layer(store, directory("usr/bin"), symlink("bin", "usr/bin"), regular("bin/tool", b"t"))
    assert listing(store, top) == {"usr": "/", "usr/bin": "/", "bin": "-> usr/bin", "usr/bin/tool": "t"}


def test_hard_links_reach_into_lower_layers(store: SnapshotStore) -> None:
    base = layer(
        store, directory("lib", mode=0o711), regular("lib/a", b"data", uid=3, mode=0o640), symlink("lib/l", "/x")
    )
    middle = layer(store, regular("other"), parent=base)
    top = layer(store, hard_link("b", "lib/a", uid=3, mode=0o640), hard_link("s", "/lib/l"), parent=middle)
    folder = store.folder(top)
    assert os.path.samefile(f"{folder}/b", f"{folder}/lib/a")
    assert not os.path.samefile(f"{folder}/b", f"{store.folder(base)}/lib/a")
    assert Path(folder, "b").read_bytes() == b"data"
    assert stat.S_IMODE(os.lstat(f"{folder}/lib").st_mode) == 0o711
    assert os.readlink(f"{folder}/s") == "/x"
    assert os.lstat(f"{folder}/b").st_uid == 3


def test_a_hard_link_to_what_a_layer_hides_is_an_error(store: SnapshotStore) -> None:
    base = layer(store, regular("d/a", b"data"))
    hidden = layer(store, regular(".wh.d"), parent=base)
    for members, parent in (([hard_link("b", "d/a")], hidden), ([regular("d/.wh.a"), hard_link("b", "d/a")], base)):
        with pytest.raises(IntegrityError, match="hard link"):
            unpack(store, archive(*members), parent)


def test_later_members_replace_earlier_ones(store: SnapshotStore) -> None:
    top = layer(
        store,
        regular("a", b"1"),
        regular("a", b"2"),
        regular("d/x/y"),
        regular("d", b"file"),
        regular("e"),
        regular("e2/f", b"in"),
        symlink("e", "e2"),
        regular("l"),
        directory("l"),
        regular("l/in"),
        hard_link("h", "a"),
        hard_link("h", "h"),
    )
    assert listing(store, top) == {
        "a": "2", "d": "file", "e": "-> e2", "e2": "/", "e2/f": "in", "l": "/", "l/in": "", "h": "2",
    }  # fmt: skip


def test_extended_attributes(store: SnapshotStore) -> None:
    capability = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    headers = {
        "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.user.note": "hello",
        "SCHILY.xattr.user.empty": "",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.redirect": "/etc",
    }
    draft = unpack(store, archive(("f", {"pax_headers": headers, "uid": 9}), directory("d", pax_headers=headers)))
    for name in ("f", "d"):
        path = f"{draft.fs}/{name}"
        assert os.getxattr(path, "user.note") == b"hello"
        assert os.getxattr(path, "user.empty") == b""
        assert not any(overlay.is_overlay_xattr(key) for key in os.listxattr(path))
    assert os.getxattr(f"{draft.fs}/f", "security.capability") == capability


def test_names_in_nix_may_be_absolute(store: SnapshotStore) -> None:
    top = layer(store, directory("/nix"), directory("/nix/store"), regular("/nix/store/abc-hello/f", b"x"))
    assert listing(store, top)["nix/store/abc-hello/f"] == "x"


def test_names_that_are_not_utf8(store: SnapshotStore) -> None:
    draft = unpack(store, archive(regular("caf\udce9", b"x"), format=tarfile.GNU_FORMAT))
    assert os.listdir(os.fsencode(draft.fs)) == [b"caf\xe9"]


def test_very_deep_trees_come_and_go(store: SnapshotStore) -> None:
    deep = "/".join(["d"] * 1900)
    draft = unpack(store, archive(regular(deep + "/f", b"x"), regular("d", b"file")))
    assert Path(draft.fs, "d").read_bytes() == b"file"
    store.discard(draft)
    store.discard(unpack(store, archive(regular(deep + "/f", b"x"))))


HOSTILE = {
    "climbing name": ([regular("../evil", b"x")], "leads out"),
    "climbing name in the middle": ([regular("a/../../evil", b"x")], "leads out"),
    "climbing directory": ([directory("../evil")], "leads out"),
    "absolute name": ([regular("/tmp/evil", b"x")], "archive member '/tmp/evil' has an absolute name"),
    "absolute name of another nix": (
        [regular("/nixes/evil", b"x")],
        "archive member '/nixes/evil' has an absolute name",
    ),
    "absolute name through nix": ([regular("/nix/../../evil", b"x")], "leads out"),
    "through an absolute link": ([symlink("l", "OUTSIDE"), regular("l/evil", b"x")], "link out"),
    "through a climbing link": ([symlink("l", "../../.."), regular("l/evil", b"x")], "link out"),
    "through two links": ([symlink("a", "b"), symlink("b", "OUTSIDE"), regular("a/evil", b"x")], "link out"),
    "through a link inside a link": (
        [directory("d"), symlink("d/l", "../.."), symlink("k", "d/l"), regular("k/evil", b"x")],
        "link out",
    ),
    "through a link to nowhere": ([symlink("l", "tmp/nowhere"), regular("l/evil", b"x")], "link to nowhere"),
    "directory through a link": ([symlink("l", "OUTSIDE"), directory("l/evil")], "link out"),
    "link through a link": ([symlink("l", "OUTSIDE"), symlink("l/evil", "x")], "link out"),
    "whiteout through a link": ([symlink("l", "OUTSIDE"), regular("l/.wh.victim")], "link out"),
    "opaque through a link": ([symlink("l", "OUTSIDE"), regular("l/.wh..wh..opq")], "link out"),
    "whiteout of the parent": (
        [directory("d"), regular("d/.wh...")],
        r"archive member 'd/\.wh\.\.\.' is a whiteout of no file",
    ),
    "whiteout of itself": (
        [directory("d"), regular("d/.wh..")],
        r"archive member 'd/\.wh\.\.' is a whiteout of no file",
    ),
    "whiteout of nothing": ([regular(".wh.")], r"archive member '\.wh\.' is a whiteout of no file"),
    "hard link to outside": ([hard_link("h", "../../outside/victim")], "leads out"),
    "hard link to an absolute name": ([hard_link("h", "OUTSIDE/victim")], "does not exist"),
    "hard link through a link": ([symlink("l", "OUTSIDE"), hard_link("h", "l/victim")], "link out"),
    "hard link in place of a parent": ([symlink("l", "OUTSIDE"), hard_link("h", "l"), regular("h/evil")], "link out"),
    "hard link to a directory": (
        [directory("d"), hard_link("h", "d")],
        "archive member 'h' is a hard link to a directory",
    ),
    "hard link to the root": ([hard_link("h", ".")], "hard link"),
    "file as a parent": ([regular("f"), regular("f/g")], "Not a directory"),
    "endless links": ([symlink("a", "b"), symlink("b", "a"), regular("a/f")], "link out"),
    "endless name": ([regular("x" * 300)], "too long"),
    "endless path": ([regular("d/" * 3000 + "f")], "too long"),
    "name with a NUL": ([("f", {"pax_headers": {"path": "a\0b"}})], "NUL"),
    "impossible device": (
        [("c", {"type": tarfile.CHRTYPE, "devmajor": 5000, "devminor": 1})],
        "archive member 'c' has a device number that Linux does not have",
    ),
    "unknown type": ([("v", {"type": b"V"})], "archive member 'v' has an unknown type 'V'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_is_written_outside(store: SnapshotStore, tmp_path: Path, case: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "victim").write_text("kept")
    os.utime(outside, (1, 1))
    members, message = HOSTILE[case]
    for member in members:
        if "linkname" in member[1]:
            member[1]["linkname"] = str(member[1]["linkname"]).replace("OUTSIDE", str(outside))
    before = os.listdir(tmp_path)
    draft = store.prepare(None)
    with pytest.raises(IntegrityError, match=message):
        apply(io.BytesIO(archive(*members)), draft, tuple)
    assert os.listdir(outside) == ["victim"]
    info = os.stat(outside)
    assert (info.st_mtime, stat.S_IMODE(info.st_mode), os.listxattr(outside)) == (1, 0o755, [])
    info = os.stat(outside / "victim")
    assert (info.st_nlink, (outside / "victim").read_text()) == (1, "kept")
    assert os.listdir(tmp_path) == before
    store.discard(draft)
    assert drafts(tmp_path / "snapshots") == []


PARTS = st.sampled_from(["a", "b", "l", "..", ".", "", ".wh.a", ".wh.l", ".wh..wh..opq", "/"])
TARGETS = st.lists(st.sampled_from(["a", "b", "l", "..", "OUTSIDE", "victim", "/"]), min_size=1, max_size=4).map(
    "/".join
)
TYPES = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
ENTRIES = st.lists(st.tuples(st.lists(PARTS, min_size=1, max_size=4).map("/".join), TYPES, TARGETS), max_size=8)


def traces(*folders: Path) -> list[tuple[object, ...]]:
    """What any change in these folders would change."""
    found = []
    for path in [*folders, *sorted(folders[-1].rglob("*"))]:
        info = os.lstat(path)
        found.append((path, info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns, info.st_ctime_ns))
    return found


@settings(max_examples=100, deadline=None)
@given(ENTRIES, ENTRIES)
def test_no_archive_writes_outside(below: list[tuple[str, bytes, str]], above: list[tuple[str, bytes, str]]) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        outside = root / "outside"
        (outside / "a").mkdir(parents=True)
        (outside / "victim").touch()
        db = Database(root / "state" / "metadata.db")
        store = SnapshotStore(root / "state" / "snapshots", db)
        before = traces(root, outside)
        parent = None
        for members in (below, above):
            data = archive(
                *(
                    (name, {"type": kind, "linkname": target.replace("OUTSIDE", str(outside)), "mtime": 5, "uid": 7})
                    for name, kind, target in members
                )
            )
            draft = store.prepare(parent)
            try:
                apply(io.BytesIO(data), draft, partial(store.lowers, parent))
                parent = store.commit(draft)
            except IntegrityError:
                store.discard(draft)
        store.close()
        assert traces(root, outside) == before
        db.close()
    finally:
        shutil.rmtree(root)


def test_metadata_does_not_go_through_links(store: SnapshotStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    os.utime(victim, (1, 1))
    members = [
        directory("a/b", mode=0o777, uid=5, mtime=7),
        regular("a", b""),
        symlink("a", str(tmp_path)),
        ("link", {"type": tarfile.SYMTYPE, "linkname": str(victim), "mode": 0o777, "uid": 5, "mtime": 9}),
        hard_link("hard", "link", mode=0o777, uid=5, mtime=9),
        directory("victim", mode=0o777, mtime=8),
        symlink("victim", str(victim)),
    ]
    unpack(store, archive(*members))
    info = os.stat(victim)
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_mtime) == (0o700, 0, 1)


@pytest.mark.parametrize("cut", [100, 512, 600, 1000, 5000])
def test_a_truncated_archive_is_an_error(store: SnapshotStore, cut: int) -> None:
    data = archive(regular("f", b"x" * 5000))[: cut + 20]
    with pytest.raises(IntegrityError, match="ends too early"):
        apply(io.BytesIO(data), store.prepare(None), tuple)
    with pytest.raises(IntegrityError):
        whole = gzip.compress(archive(regular("f", os.urandom(5000))))
        apply(io.BytesIO(whole[: cut + 20]), store.prepare(None), tuple)


def test_a_failing_stream_fails_the_unpacking(store: SnapshotStore) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 3_000_000:
                raise ConnectionResetError("gone")
            return super().read(size)

    with pytest.raises(StoreError, match="cannot read the archive: gone"):
        apply(Broken(archive(regular("f", bytes(9_000_000)))), store.prepare(None), tuple)
