import json
import re

import pytest
from store_world import World, digest_of

from stagewright import store
from stagewright.cache.leases import BuildLease
from stagewright.errors import IntegrityError, NotFoundError, UsageError
from stagewright.image.descriptor import Descriptor
from stagewright.image.platform import Platform, host_platform


def test_list(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one", b"one", b"two")
    other = world.image("registry.example.com/team/other:2", b"x", platform=Platform("linux", "s390x"))
    first, second = world.store.images()
    assert (first.name, first.digest) == ("app:1", app.digest)
    assert first.config_digest == world.manifest(app)["config"]["digest"]
    assert first.created == 1714979289.0
    assert first.size == sum(world.state.blobs.size(digest) for digest in world.blobs_of(app))
    assert first.platform == str(host_platform())
    assert (second.name, second.digest) == ("registry.example.com/team/other:2", other.digest)
    assert second.platform == "linux/s390x"


def test_a_damaged_image_is_listed_and_can_be_removed(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    world.state.blobs.delete(app.digest)
    (info,) = world.store.images()
    assert (info.name, info.config_digest, info.platform) == ("app:1", "", "unknown")
    with pytest.raises(NotFoundError, match="not in the store"):
        world.store.inspect("app:1")
    world.store.remove("app:1")
    assert world.store.images() == []


def test_inspect(world: World) -> None:
    app = world.image("docker.io/library/app:latest", b"one", b"two")
    world.state.images.put("docker.io/library/app:2", app)
    facts = world.store.inspect("app")
    layers = world.manifest(app)["layers"]
    assert (facts["name"], facts["names"]) == ("app:2", ["app:2", "app:latest"])
    assert (facts["digest"], facts["media_type"]) == (app.digest, app.media_type)
    assert [layer["digest"] for layer in facts["layers"]] == [layer["digest"] for layer in layers]
    assert [layer["diff_id"] for layer in facts["layers"]] == facts["config"]["rootfs"]["diff_ids"]
    assert facts["created"] == "2024-05-06T07:08:09Z"
    assert facts["history"] == []
    assert facts["config"]["architecture"] == host_platform().architecture


def test_inspect_by_digest(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    world.image("docker.io/library/other:1", b"two")
    config = world.manifest(app)["config"]["digest"]
    whole = world.store.inspect("app:1")
    for name in (app.digest, app.digest[:13], app.digest[7:], app.digest[7:13], config, config[7:20]):
        assert world.store.inspect(name) == whole, name
    assert world.store.inspect(f"app@{app.digest}") == whole
    assert world.store.inspect(f"app@{config}") == whole
    for name in (f"other@{app.digest}", app.digest[7:12], "abcdef0123", digest_of(b"?"), "app:2", "sha256:" + "0" * 64):
        with pytest.raises(NotFoundError, match="no image"):
            world.store.inspect(name)
    with pytest.raises(UsageError):
        world.store.inspect("App:1")


def test_the_beginning_of_two_digests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        world.image(f"docker.io/library/app:{number}", b"%d" % number)
    # With 80 digests, two that begin with the same digit are certain; with the same six, they would be luck.
    monkeypatch.setattr(store, "_ID", re.compile("(?:sha256:)?([0-9a-f]{1,64})"))
    for digit in "0123456789abcdef":
        if sum(info.digest[7] == digit for info in world.store.images()) > 1:
            with pytest.raises(UsageError, match=f"sha256:{digit} is the beginning of several digests: sha256:{digit}"):
                world.store.inspect(f"sha256:{digit}")
            return
    pytest.fail("forty digests begin with different digits")


def test_an_image_whose_config_has_other_layers(world: World) -> None:
    made = world.image(None, b"one", b"two")
    document = world.manifest(made)
    document["layers"].pop()
    data = json.dumps(document).encode()
    wrong = Descriptor(made.media_type, world.state.blobs.write(data), len(data))
    world.state.images.put("docker.io/library/app:1", wrong)
    with pytest.raises(IntegrityError, match=f"image {digest_of(data)} has 1 layers, its config 2"):
        world.store.inspect("app:1")


def test_inspect_what_has_no_name(world: World) -> None:
    app = world.image(None, b"one")
    facts = world.store.inspect(app.digest)
    assert (facts["name"], facts["names"], facts["digest"]) == (None, [], app.digest)
    with pytest.raises(NotFoundError):
        world.store.inspect(world.manifest(app)["layers"][0]["digest"])


def test_inspect_takes_the_host_s_image_of_an_index(world: World) -> None:
    foreign = world.image(None, b"foreign", platform=Platform("linux", "s390x"))
    own = world.image(None, b"own")
    index = world.index("docker.io/library/app:1", foreign, own)
    facts = world.store.inspect("app:1")
    assert (facts["digest"], facts["manifest_digest"]) == (index.digest, own.digest)
    world.state.blobs.delete(own.digest)
    assert world.store.inspect("app:1")["manifest_digest"] == foreign.digest
    world.state.blobs.delete(foreign.digest)
    with pytest.raises(NotFoundError, match="no image of index"):
        world.store.inspect("app:1")


def test_a_config_that_contradicts_the_manifest(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    data = world.state.blobs.read(world.manifest(app)["config"]["digest"])
    path = world.state.blobs.path(digest_of(data))
    path.write_bytes(data.replace(b"2024", b"2025"))
    with pytest.raises(IntegrityError):
        world.store.inspect("app:1")


def test_tag(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    world.store.tag("app:1", "registry.example.com/app")
    world.store.tag(app.digest[7:19], "app:2")
    assert [info.name for info in world.store.images()] == ["app:1", "app:2", "registry.example.com/app:latest"]
    assert {info.digest for info in world.store.images()} == {app.digest}
    with pytest.raises(NotFoundError):
        world.store.tag("nothing", "app:3")
    with pytest.raises(UsageError, match="digest"):
        world.store.tag("app:1", f"app@{app.digest}")
    with pytest.raises(UsageError):
        world.store.tag("app:1", "App")


def test_remove_a_name_and_then_the_last_one(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one", b"shared")
    other = world.image("docker.io/library/other:1", b"shared")
    world.store.tag("app:1", "app:2")
    assert world.store.remove("app:1") == ["Untagged: app:1"]
    assert world.blobs_of(app) <= world.all_blobs()
    assert world.store.remove("app:2") == ["Untagged: app:2", f"Deleted: {app.digest}"]
    assert world.all_blobs() == world.blobs_of(other)
    with pytest.raises(NotFoundError):
        world.store.remove("app:2")


def test_remove_by_digest_takes_all_names(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    world.store.tag("app:1", "app:2")
    assert world.store.remove(app.digest[7:17]) == ["Untagged: app:1", "Untagged: app:2", f"Deleted: {app.digest}"]
    assert world.all_blobs() == set()


def test_remove_leaves_what_the_cache_has(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    (layer,) = world.unpacked(app)
    world.result("pulled", layer)
    blob = world.manifest(app)["layers"][0]["digest"]
    world.store.remove("app:1")
    assert world.all_blobs() == {blob}
    assert world.snapshot_ids() == [layer]


def test_remove_while_a_build_runs_leaves_the_blobs_to_a_prune(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    with BuildLease(world.state.locks):
        assert world.store.remove("app:1") == ["Untagged: app:1"]
    assert world.blobs_of(app) <= world.all_blobs()
    world.store.prune()
    assert world.all_blobs() == set()


def test_push_wants_a_name(world: World) -> None:
    app = world.image("docker.io/library/app:1", b"one")
    with pytest.raises(NotFoundError, match="no image"):
        world.store.push(app.digest)


def test_info(world: World) -> None:
    world.image("docker.io/library/app:1", b"one")
    world.config.write_text('oci-runtime = "/usr/bin/crun"\n')
    facts = world.store.info()
    assert facts["root"] == str(world.root)
    assert facts["config"] == str(world.config)
    assert facts["runtime"] == "/usr/bin/crun"
    assert facts["store"]["images"] == 1
    assert facts["store"]["blobs"] == 3
