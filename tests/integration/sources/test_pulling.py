"""Layers that are unpacked while they arrive: what is certain when, and what is left of those that go wrong."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drafts import drafts
from image_machine import Machine, digest_of
from tars import tar_of

from stagewright.content.blobs import BlobStore
from stagewright.errors import CanceledError, IntegrityError, RegistryError, StagewrightError
from stagewright.image.descriptor import Descriptor
from stagewright.registry.errors import UnreachableError

WAIT_S = 30.0
# Incompressible, and several of the pieces in which a layer is decompressed.
LARGE = {f"d/f{number}": os.urandom(1 << 20) for number in range(8)}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.snapshots.close()
    made.db.close()


def left_behind(machine: Machine) -> list[str]:
    """What is under way in the store, by its kind."""
    found = ["draft" for _ in drafts(Path(machine.snapshots.folder_named("")))]
    ingest = machine.blobs._ingest
    found += ["ingest" for _ in (os.listdir(ingest) if ingest.exists() else ())]
    found += [thread.name for thread in threading.enumerate() if thread.name.startswith(("layer-", "read-ahead"))]
    return found


def drafted(machine: Machine) -> set[str]:
    """The names of the files in drafts, which come and go meanwhile."""
    return {name for _, _, names in os.walk(machine.snapshots.folder_named("drafts")) for name in names}


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came to it")


def stream(
    data: bytes, at_half: Callable[[threading.Event], None] = lambda cancel: None
) -> Callable[[Descriptor, BlobStore, Callable[[int, int], None], threading.Event], None]:
    """Fetches a blob whose bytes are `data`, and calls `at_half` when half of them are there."""

    def fetch(
        blob: Descriptor, store: BlobStore, progress: Callable[[int, int], None], cancel: threading.Event
    ) -> None:
        with store.writer(expected=blob.digest, size=blob.size) as writer:
            for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
                writer.write(piece)
                progress(writer.offset, blob.size)
                if writer.offset < len(data):
                    at_half(cancel)
            writer.commit()

    return fetch


def packed(data: bytes) -> bytes:
    """As the registry has a layer."""
    return gzip.compress(data, mtime=0)


def test_a_layer_is_unpacked_while_it_arrives_and_used_when_it_is_whole(machine: Machine) -> None:
    layer = tar_of(LARGE)
    machine.registry.image(layer)
    seen: list[object] = []

    def at_half(cancel: threading.Event) -> None:
        until(lambda: "f0" in drafted(machine))
        seen.append(machine.snapshots.rows())
        seen.append(machine.blobs.has(digest_of(packed(layer))))

    machine.registry.streams[digest_of(packed(layer))] = stream(packed(layer), at_half)
    snapshot = machine.pull()
    assert seen == [[], False]
    assert machine.files(snapshot) == LARGE
    assert machine.blobs.is_whole(digest_of(packed(layer)))
    assert left_behind(machine) == []


@pytest.mark.parametrize("wrong", ["last byte", "middle", "shorter", "longer", "no archive"])
def test_of_wrong_bytes_nothing_is_left(machine: Machine, wrong: str) -> None:
    layer = tar_of(LARGE)
    machine.registry.image(layer)
    right = packed(layer)
    half = len(right) // 2
    sent = {
        "last byte": right[:-1] + bytes([right[-1] ^ 1]),
        "middle": right[:half] + bytes([right[half] ^ 1]) + right[half + 1 :],
        "shorter": right[:-10],
        "longer": right + b"x",
        "no archive": b"x" * len(right),
    }[wrong]
    machine.registry.streams[digest_of(right)] = stream(sent)
    with pytest.raises(IntegrityError, match=r"longer than|has digest|expected"):
        machine.pull()
    assert machine.snapshots.rows() == []
    assert not machine.blobs.has(digest_of(right))
    assert left_behind(machine) == []


def test_bytes_that_unpack_well_are_not_used_if_the_digest_is_another(machine: Machine) -> None:
    """The archive says the same, with the diff ID of the config, but it is not the blob that the manifest names."""
    layer = tar_of(LARGE)
    machine.registry.image(layer)
    other = gzip.compress(layer, compresslevel=1, mtime=0)
    assert other != packed(layer)
    data = other.ljust(len(packed(layer)), b"\0") if len(other) < len(packed(layer)) else other
    machine.registry.streams[digest_of(packed(layer))] = stream(data)
    with pytest.raises(IntegrityError, match=r"has digest|longer than"):
        machine.pull()
    assert machine.snapshots.rows() == []
    assert left_behind(machine) == []


def test_a_blob_of_another_diff_id_is_the_images_fault(machine: Machine) -> None:
    layer = tar_of(LARGE)
    machine.registry.image(layer, diff_ids=(digest_of(b"other"),))
    machine.registry.streams[digest_of(packed(layer))] = stream(packed(layer))
    with pytest.raises(IntegrityError, match=f"layer has diff ID {digest_of(layer)}, expected {digest_of(b'other')}"):
        machine.pull()
    assert machine.snapshots.rows() == []
    assert machine.blobs.has(digest_of(packed(layer)))
    assert left_behind(machine) == []


def test_a_registry_that_dies_in_the_middle_ends_the_pull(machine: Machine) -> None:
    base, layer = tar_of({"a": b"1"}), tar_of(LARGE)
    machine.registry.image(base, layer)

    def die(cancel: threading.Event) -> None:
        until(lambda: "f0" in drafted(machine))
        raise UnreachableError("it went away", connected=True)

    machine.registry.streams[digest_of(packed(layer))] = stream(packed(layer), die)
    with pytest.raises(RegistryError, match="it went away"):
        machine.pull()
    assert left_behind(machine) == []
    # What was certain before may be kept.
    assert len(machine.snapshots.rows()) <= 1
    machine.registry.streams.clear()
    assert machine.files(machine.pull()) == {"a": b"1", **LARGE}


def test_a_download_that_begins_anew_is_unpacked_anew(machine: Machine) -> None:
    layer = tar_of(LARGE)
    machine.registry.image(layer)
    right = packed(layer)

    def fetch(
        blob: Descriptor, store: BlobStore, progress: Callable[[int, int], None], cancel: threading.Event
    ) -> None:
        with store.writer(expected=blob.digest, size=blob.size) as writer:
            writer.write(right[: len(right) // 2])
            progress(writer.offset, blob.size)
            until(lambda: "f0" in drafted(machine))
        stream(right)(blob, store, progress, cancel)

    machine.registry.streams[digest_of(right)] = fetch
    assert machine.files(machine.pull()) == LARGE
    assert left_behind(machine) == []


def test_a_pull_is_canceled_in_the_middle_of_a_layer(machine: Machine) -> None:
    layer = tar_of(LARGE)
    machine.registry.image(layer, tar_of({"z": b"z"}))

    def cancel_it(cancel: threading.Event) -> None:
        until(lambda: "f0" in drafted(machine))
        machine.cancel.set()
        assert cancel.is_set()
        raise CanceledError

    machine.registry.streams[digest_of(packed(layer))] = stream(packed(layer), cancel_it)
    with pytest.raises(CanceledError):
        machine.pull()
    assert machine.snapshots.rows() == []
    assert left_behind(machine) == []


def member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "", data: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(info, io.BytesIO(data))
    size = 512 + (len(data) + 511) // 512 * 512
    return out.getvalue()[:size]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor unpacks one layer at a time")
def test_an_upper_layer_may_be_ready_first(machine: Machine) -> None:
    base, top = tar_of(LARGE), tar_of({"t": b"t"})
    machine.registry.image(base, top)
    # The small layer is unpacked while half of the large one below it is still to come.
    machine.registry.streams[digest_of(packed(base))] = stream(
        packed(base), lambda cancel: until(lambda: "t" in drafted(machine))
    )
    snapshot = machine.pull()
    assert machine.files(snapshot) == {**LARGE, "t": b"t"}
    assert len(machine.snapshots.layers(snapshot)) == 2
    assert left_behind(machine) == []


def test_members_that_need_the_layers_below_wait_for_them(machine: Machine) -> None:
    """A folder that is only implied has the mode that it has below, a link leads to a file of the layer below."""
    base = member("p", tarfile.DIRTYPE, 0o711) + member("p/f", data=b"below") + member("q", data=b"q") + bytes(1024)
    top = member("p/n", data=b"new") + member("l", tarfile.LNKTYPE, link="p/f") + bytes(1024)
    over = member(".wh..wh..opq") + member("only", data=b"only") + bytes(1024)
    machine.registry.image(base, top, over)
    started = threading.Event()

    def slow(cancel: threading.Event) -> None:
        assert started.wait(WAIT_S)

    machine.registry.streams[digest_of(packed(base))] = stream(packed(base), slow)

    def second(
        blob: Descriptor, store: BlobStore, progress: Callable[[int, int], None], cancel: threading.Event
    ) -> None:
        stream(packed(top))(blob, store, progress, cancel)
        started.set()

    machine.registry.streams[digest_of(packed(top))] = second
    whole = machine.pull()
    assert machine.files(whole) == {"only": b"only"}
    two = machine.snapshots.layers(whole)[1]
    assert machine.files(two) == {"p/f": b"below", "p/n": b"new", "q": b"q", "l": b"below"}
    with machine.snapshots.view(two) as root:
        assert os.stat("p", dir_fd=root).st_mode & 0o7777 == 0o711
        assert os.stat("l", dir_fd=root).st_ino == os.stat("p/f", dir_fd=root).st_ino
    assert left_behind(machine) == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_layer_that_is_no_archive_fails_the_pull(machine: Machine, which: int) -> None:
    layers = [tar_of({f"f{number}": b"x"}) for number in range(3)]
    bad = b"no archive" * 200
    tars = [bad if number == which else layer for number, layer in enumerate(layers)]
    machine.registry.image(*tars)
    with pytest.raises(IntegrityError, match="tar"):
        machine.pull()
    assert len(machine.snapshots.rows()) <= which
    assert left_behind(machine) == []


def test_another_build_may_be_first(machine: Machine) -> None:
    """Both unpack it; the second to finish takes what the first has made."""
    layer = tar_of(LARGE)
    machine.registry.image(layer)
    digest = digest_of(packed(layer))
    source = machine.source()
    image = machine.resolve(source)
    found: list[int | None] = []

    def other(cancel: threading.Event) -> None:
        until(lambda: "f0" in drafted(machine))
        machine.registry.streams.clear()
        found.append(machine.pull())

    machine.registry.streams[digest] = stream(packed(layer), other)
    assert [source.snapshot(image, machine.reporter(), machine.cancel)] == found
    assert len(machine.snapshots.rows()) == 1
    assert left_behind(machine) == []


def test_a_tail_tells_of_a_writer_that_gives_up(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert store.follow(digest_of(b"abc")) is None
    with store.writer(expected=digest_of(b"abc"), size=3) as writer:
        tail = store.follow(digest_of(b"abc"))
        assert tail is not None
        writer.write(b"ab")
        with tail:
            assert tail.read(10) == b"ab"
            writer.discard()
            with pytest.raises(StagewrightError, match="did not come whole"):
                tail.read(10)
    assert store.follow(digest_of(b"abc")) is None
    with store.writer(expected=digest_of(b"abc"), size=3) as writer:
        tail = store.follow(digest_of(b"abc"))
        assert tail is not None
        with tail:
            writer.write(b"abc")
            writer.commit()
            assert (tail.read(2), tail.read(2), tail.read(2)) == (b"ab", b"c", b"")
    assert writer.follow() is None
