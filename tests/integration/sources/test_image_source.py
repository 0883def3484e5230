"""Images as inputs: what names mean, what is asked of registries, and layers that become snapshots."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from drafts import drafts
from image_machine import ARM64, NAME, Machine, digest_of
from tars import tar_of

from stagewright.errors import CanceledError, IntegrityError, NotFoundError, RegistryError
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, Manifest, parse_manifest
from stagewright.image.platform import Platform
from stagewright.progress.events import Event, StatusEvent, VertexEvent
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.records import replace
from stagewright.sources.image import chain_ids


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.snapshots.close()
    made.db.close()


def test_a_tag_is_asked_for_in_each_build(machine: Machine) -> None:
    first = machine.registry.image(tar_of({"a": b"1"}))
    assert machine.resolve(machine.source()) == first.digest
    assert machine.registry.asked == ["resolve", "manifest", "blob"]
    machine.registry.asked.clear()
    assert machine.resolve(machine.source()) == first.digest
    # What the tag leads to is known by its digest.
    assert machine.registry.asked == ["resolve"]
    moved = machine.registry.image(tar_of({"a": b"2"}))
    assert machine.resolve(machine.source()) == moved.digest != first.digest


def test_a_resolution_may_be_trusted_for_a_while(machine: Machine) -> None:
    first = machine.registry.image(tar_of({"a": b"1"}))
    machine.resolve(machine.source(ttl_s=3600))
    machine.registry.image(tar_of({"a": b"2"}))
    machine.registry.asked.clear()
    assert machine.resolve(machine.source(ttl_s=3600)) == first.digest
    assert machine.registry.asked == []
    machine.db.execute("UPDATE resolutions SET resolved = resolved - 4000")
    assert machine.resolve(machine.source(ttl_s=3600)) != first.digest
    # One from the future, after the clock was set back, is not trusted for ever.
    machine.registry.image(tar_of({"a": b"3"}))
    machine.db.execute("UPDATE resolutions SET resolved = resolved + 40000")
    machine.registry.asked.clear()
    machine.resolve(machine.source(ttl_s=3600))
    assert "resolve" in machine.registry.asked


def test_a_registry_out_of_reach(machine: Machine) -> None:
    machine.registry.down = True
    with pytest.raises(RegistryError):
        machine.resolve(machine.source())
    machine.registry.down = False
    known = machine.registry.image(tar_of({"a": b"1"}))
    machine.resolve(machine.source())
    machine.registry.down = True
    assert machine.resolve(machine.source()) == known.digest
    assert len(machine.warnings) == 1 and known.digest in machine.warnings[0] and "no route" in machine.warnings[0]


def test_a_tag_that_is_gone_is_not_taken_from_memory(machine: Machine) -> None:
    machine.registry.image(tar_of({"a": b"1"}))
    machine.resolve(machine.source())
    machine.registry.tag = None
    with pytest.raises(NotFoundError):
        machine.resolve(machine.source())


def test_offline_asks_nobody(machine: Machine) -> None:
    known = machine.registry.image(tar_of({"a": b"1"}))
    with pytest.raises(NotFoundError, match="app:1: not known here, and --offline forbids asking its registry"):
        machine.resolve(machine.source(offline=True))
    machine.resolve(machine.source())
    machine.registry.asked.clear()
    source = machine.source(offline=True)
    assert machine.resolve(source) == known.digest
    with pytest.raises(NotFoundError, match="app:1: a part of the image is not here, and --offline forbids a pull"):
        source.snapshot(known.digest, machine.reporter(), machine.cancel)
    assert (machine.registry.asked, machine.warnings) == ([], [])


def test_a_name_with_a_digest_is_asked_for_once(machine: Machine) -> None:
    known = machine.registry.image(tar_of({"a": b"1"}))
    name = f"{NAME}@{known.digest}"
    machine.resolve(machine.source(), name=name)
    machine.registry.asked.clear()
    assert machine.resolve(machine.source(), name=name) == known.digest
    assert machine.registry.asked == []


def test_the_image_store_comes_first_unless_pulling(machine: Machine) -> None:
    stored = machine.registry.image(tar_of({"a": b"stored"}))
    machine.resolve(machine.source())
    machine.images.put(NAME, stored)
    newer = machine.registry.image(tar_of({"a": b"newer"}))
    machine.registry.asked.clear()
    assert machine.resolve(machine.source()) == stored.digest
    assert machine.registry.asked == []
    assert machine.resolve(machine.source(pull=True)) == newer.digest


def test_a_stored_image_of_another_platform_is_passed_over(machine: Machine) -> None:
    arm = machine.registry.image(tar_of({"a": b"arm"}), platform=ARM64)
    amd = machine.registry.image(tar_of({"a": b"amd"}))
    only_arm = machine.registry.index(arm64=arm)
    machine.blobs.write(machine.registry.content[only_arm.digest])
    machine.images.put(NAME, only_arm)
    machine.registry.index(arm64=arm, amd64=amd)
    assert machine.resolve(machine.source()) == amd.digest
    machine.registry.asked.clear()
    assert machine.resolve(machine.source(), ARM64) == arm.digest


def test_an_index_leads_to_the_platform(machine: Machine) -> None:
    arm = machine.registry.image(tar_of({"a": b"arm"}), platform=ARM64)
    amd = machine.registry.image(tar_of({"a": b"amd"}))
    machine.registry.index(arm64=arm, amd64=amd)
    assert machine.resolve(machine.source(), ARM64) == arm.digest
    machine.registry.index(amd64=amd)
    with pytest.raises(NotFoundError, match="no image for platform linux/arm64"):
        machine.resolve(machine.source(), ARM64)


def test_indexes_in_indexes_end(machine: Machine) -> None:
    nested = machine.registry.image(tar_of({"a": b"1"}))
    for _ in range(9):
        nested = machine.registry.index(amd64=nested)
    with pytest.raises(IntegrityError, match="nested more than"):
        machine.resolve(machine.source())


def test_a_damaged_document_is_fetched_again(machine: Machine) -> None:
    known = machine.registry.image(tar_of({"a": b"1"}))
    machine.resolve(machine.source())
    for digest, _ in list(machine.blobs.digests()):
        machine.blobs.path(digest).write_bytes(b"damaged")
    machine.registry.asked.clear()
    assert machine.resolve(machine.source()) == known.digest
    assert machine.registry.asked == ["resolve", "manifest", "blob"]


def test_an_index_of_thousands_of_indexes_ends(machine: Machine) -> None:
    """Ten thousand entries that may all be meant, each an index of as many."""
    inner = machine.registry.index(s390x=machine.registry.image())
    for _ in range(2):
        inner = machine.registry.put(Index((inner,) * 1000).to_bytes(), mediatypes.OCI_INDEX)
    machine.registry.tag = inner
    with pytest.raises(IntegrityError, match="its indexes name more than 200 images that could be meant"):
        machine.resolve(machine.source())


def test_what_an_index_offers_is_told_in_part(machine: Machine) -> None:
    image = machine.registry.image()
    entries = tuple(replace(image, platform=Platform("linux", f"arch{number:03}")) for number in range(500))
    machine.registry.tag = machine.registry.put(Index(entries).to_bytes(), mediatypes.OCI_INDEX)
    with pytest.raises(NotFoundError, match="no image for platform linux/amd64") as caught:
        machine.resolve(machine.source())
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("linux/arch029")


@pytest.mark.parametrize("media_type", ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "text/html", ""])
def test_layers_of_a_type_that_nobody_knows(machine: Machine, media_type: str) -> None:
    manifest = parse_manifest(machine.registry.content[machine.registry.image(tar_of({"f": b"x"})).digest])
    assert isinstance(manifest, Manifest)
    layers = tuple(replace(layer, media_type=media_type) for layer in manifest.layers)
    changed = replace(manifest, layers=layers).to_bytes()
    machine.registry.tag = machine.registry.put(changed, mediatypes.OCI_MANIFEST)
    message = rf"app:1: layer sha256:.* is of the unknown media type '{re.escape(media_type)}'"
    with pytest.raises(IntegrityError, match=message):
        machine.pull()
    assert "blob" not in machine.registry.asked[3:]


def test_a_foreign_layer_comes_from_the_registry_alone(machine: Machine) -> None:
    """Its URLs would let an image have any server asked."""
    manifest = parse_manifest(machine.registry.content[machine.registry.image(tar_of({"f": b"x"})).digest])
    assert isinstance(manifest, Manifest)
    layers = tuple(
        replace(layer, media_type=mediatypes.DOCKER_FOREIGN_LAYER_GZIP, urls=("http://169.254.169.254/latest",))
        for layer in manifest.layers
    )
    changed = replace(manifest, layers=layers).to_bytes()
    machine.registry.tag = machine.registry.put(changed, mediatypes.OCI_MANIFEST)
    assert machine.files(machine.pull()) == {"f": b"x"}
    assert machine.registry.asked == ["resolve", "manifest", "blob", "blob"]


def test_a_huge_config_is_not_fetched(machine: Machine) -> None:
    config = Descriptor(mediatypes.OCI_CONFIG, digest_of(b"huge"), 1 << 40)
    machine.registry.tag = machine.registry.put(Manifest(config, ()).to_bytes(), mediatypes.OCI_MANIFEST)
    with pytest.raises(IntegrityError, match="more than"):
        machine.resolve(machine.source())
    assert "blob" not in machine.registry.asked


def test_a_blob_that_power_failed_on_is_fetched_again(machine: Machine) -> None:
    known = machine.registry.image(tar_of({"a": b"1"}))
    layer = parse_manifest(machine.registry.content[known.digest]).layers[0]
    machine.blobs.write(machine.registry.content[layer.digest])
    machine.blobs.path(layer.digest).write_bytes(b"")
    assert machine.files(machine.pull()) == {"a": b"1"}


def test_layers_become_snapshots_once(machine: Machine) -> None:
    base = tar_of({"a": b"1", "b": b"1"})
    machine.registry.image(base, tar_of({"b": b"2", "c": b"3"}))
    snapshot = machine.pull()
    assert machine.files(snapshot) == {"a": b"1", "b": b"2", "c": b"3"}
    machine.registry.asked.clear()
    assert machine.pull() == snapshot
    # Another image on the same base: only its own layer is fetched, and the base's snapshot is shared.
    machine.registry.image(base, tar_of({"d": b"4"}))
    other = machine.pull()
    assert machine.registry.asked.count("blob") == 2  # Its config and its layer.
    assert machine.files(other) == {"a": b"1", "b": b"1", "d": b"4"}
    assert machine.snapshots.layers(other)[0] == machine.snapshots.layers(snapshot)[0]


def test_the_same_layer_twice(machine: Machine) -> None:
    layer = tar_of({"a": b"1"})
    machine.registry.image(layer, layer, layer)
    snapshot = machine.pull()
    assert len(machine.snapshots.layers(snapshot)) == 3
    assert machine.files(snapshot) == {"a": b"1"}
    assert machine.registry.asked.count("blob") == 2


def test_an_image_without_layers(machine: Machine) -> None:
    machine.registry.image()
    assert machine.pull() is None


def test_rows_tell_compressed_bytes(machine: Machine) -> None:
    machine.registry.image(tar_of({f"f{number}": bytes(100_000) for number in range(20)}))
    machine.pull()
    rows: dict[str, list[StatusEvent]] = {}
    for event in machine.events:
        if isinstance(event, StatusEvent):
            rows.setdefault(event.id.split(":")[0], []).append(event)
    assert set(rows) == {"sha256", "extracting sha256"}
    for events in rows.values():
        assert all(event.current <= event.total for event in events)
        assert events[-1].current == events[-1].total and events[-1].completed is not None


@pytest.mark.parametrize("lie", ["count", "digest"])
def test_layers_that_are_not_what_the_config_says(machine: Machine, lie: str) -> None:
    layer = tar_of({"a": b"1"})
    machine.registry.image(layer, diff_ids=() if lie == "count" else (digest_of(b"other"),))
    with pytest.raises(IntegrityError):
        machine.pull()
    assert machine.snapshots.rows() == []
    assert drafts(Path(machine.snapshots.folder_named(""))) == []


def test_a_download_that_fails_ends_the_pull(machine: Machine) -> None:
    machine.registry.image(*(tar_of({f"f{number}": b"x"}) for number in range(8)))
    source = machine.source()
    digest = machine.resolve(source)
    started = threading.Semaphore(0)

    def fail(descriptor: Descriptor) -> None:
        started.release()
        raise RegistryError("it broke")

    machine.registry.on_blob = fail
    with pytest.raises(RegistryError, match="it broke"):
        source.snapshot(digest, machine.reporter(), machine.cancel)
    assert not [thread for thread in threading.enumerate() if thread.name == "layer-download"]
    machine.registry.on_blob = lambda descriptor: None
    assert len(machine.files(source.snapshot(digest, machine.reporter(), machine.cancel))) == 8


@pytest.mark.parametrize("when", ["downloading", "extracting"])
def test_a_pull_can_be_canceled(machine: Machine, when: str) -> None:
    machine.registry.image(*(tar_of({f"f{number}": b"x"}) for number in range(6)))
    source = machine.source()
    digest = machine.resolve(source)
    if when == "downloading":
        machine.registry.on_blob = lambda descriptor: machine.cancel.set()
    reporter = machine.reporter()
    if when == "extracting":

        def cancel(event: Event) -> None:
            if isinstance(event, StatusEvent) and event.id.startswith("extracting"):
                machine.cancel.set()

        reporter = Reporter(Emitter(cancel), VertexEvent("sha256:0", "image"))
    with pytest.raises(CanceledError):
        source.snapshot(digest, reporter, machine.cancel)
    assert not [thread for thread in threading.enumerate() if thread.name == "layer-download"]
    assert drafts(Path(machine.snapshots.folder_named(""))) == []


def test_two_pulls_at_once(machine: Machine) -> None:
    machine.registry.image(tar_of({"a": b"1"}), tar_of({"b": b"2"}))
    sources = [machine.source(), machine.source()]
    digest = {machine.resolve(source) for source in sources}.pop()
    # Each layer waits until both pulls ask for it.
    both = {layer: threading.Barrier(2) for layer in machine.registry.content}
    machine.registry.on_blob = lambda descriptor: both[descriptor.digest].wait(30) and None
    found: list[int | None] = []
    threads = [
        threading.Thread(
            target=lambda one=source: found.append(one.snapshot(digest, machine.reporter(), machine.cancel))
        )
        for source in sources
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2 and len(set(found)) == 1
    assert machine.files(found[0]) == {"a": b"1", "b": b"2"}


def test_chain_ids() -> None:
    assert chain_ids(()) == []
    one, two = digest_of(b"1"), digest_of(b"2")
    assert chain_ids((one, two)) == [one, digest_of(f"{one} {two}".encode())]
