"""Against Debian's docker-registry: open, with basic and with bearer authentication; skopeo is the witness."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from registry_servers import ScriptedServer, TokenServer, client_for, make_image

from stagewright.config import RegistryTable
from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index
from stagewright.image.platform import Platform, parse_platform
from stagewright.registry.client import RegistryClient
from stagewright.registry.documents import fetch_image
from stagewright.registry.errors import UnauthorizedError
from stagewright.registry.reference import Reference
from stagewright.registry.transfer import fetch_layers, pull_image, push_image

AMD64 = Platform("linux", "amd64")


def docker_config(tmp_path: Path, host: str, **entry: str) -> str:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: entry}}))
    return str(tmp_path)


def user(password: str = "secret") -> str:
    return base64.b64encode(f"user:{password}".encode()).decode()


def test_an_image_goes_there_and_back(registry: str, store: BlobStore, tmp_path: Path) -> None:
    image = make_image(os.urandom(100_000), os.urandom(5_000_000), b"small")
    image.put_into(store)
    ref = Reference.parse(f"{registry}/team/app:1")
    client = client_for(registry, RegistryTable())
    lock, seen = threading.Lock(), dict[str, int]()

    def progress(blob: Descriptor, current: int, total: int) -> None:
        with lock:
            seen[blob.digest] = current
        assert total == blob.size

    push_image(client, ref, image.descriptor, store, progress=progress)
    assert seen == {blob.digest: blob.size for blob, _ in image.blobs}
    inspected = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{ref}"], check=True, capture_output=True
    )
    assert json.loads(inspected.stdout)["Digest"] == image.descriptor.digest

    fresh = BlobStore(tmp_path / "fresh")
    found, manifest, config = pull_image(client, ref, AMD64, fresh)
    assert found == image.descriptor and manifest == image.manifest
    assert {digest for digest, _ in fresh.digests()} == {image.descriptor.digest, image.blobs[0][0].digest}
    assert config.platform == AMD64
    fetch_layers(client, ref, manifest, fresh)
    assert dict(fresh.digests()) == dict(store.digests())


def test_what_skopeo_pushed_is_pulled(registry: str, store: BlobStore, tmp_path: Path) -> None:
    layout, image = BlobStore(tmp_path / "layout"), make_image(b"a" * 10_000)
    image.put_into(layout)
    (tmp_path / "layout" / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / "layout" / "index.json").write_bytes(Index((image.descriptor,)).to_bytes())
    subprocess.run(
        [
            *("skopeo", "copy", "--format=v2s2", "--dest-tls-verify=false"),
            *(f"oci:{tmp_path}/layout", f"docker://{registry}/app:docker"),
        ],
        check=True,
        capture_output=True,
    )
    client, ref = client_for(registry), Reference.parse(f"{registry}/app:docker")
    _, manifest, config = pull_image(client, ref, AMD64, store)
    assert manifest.media_type.startswith("application/vnd.docker.")
    fetch_layers(client, ref, manifest, store)
    assert config.diff_ids == (image.blobs[1][0].digest,)


def test_the_right_image_of_an_index_is_pulled(registry: str, store: BlobStore, tmp_path: Path) -> None:
    images = {name: make_image(name.encode(), platform=parse_platform(name)) for name in ("linux/amd64", "linux/arm64")}
    attestation = make_image(b"attestation", platform=Platform("unknown", "unknown"))
    nameless = make_image(b"riscv", platform=parse_platform("linux/riscv64"))
    entries = [
        Descriptor(i.descriptor.media_type, i.descriptor.digest, i.descriptor.size, platform=parse_platform(name))
        for name, i in images.items()
    ]
    entries.append(
        Descriptor(
            attestation.descriptor.media_type,
            attestation.descriptor.digest,
            attestation.descriptor.size,
            platform=Platform("unknown", "unknown"),
        )
    )
    inner = Index((nameless.descriptor,)).to_bytes()
    index = Index((*entries, Descriptor(Index(()).media_type, store.write(inner), len(inner))))
    for image in (*images.values(), attestation, nameless):
        image.put_into(store)
    data = index.to_bytes()
    top = Descriptor(index.media_type, store.write(data), len(data))
    client, ref = client_for(registry), Reference.parse(f"{registry}/multi:1")
    push_image(client, ref, top, store)

    for name, image in {**images, "linux/riscv64": nameless}.items():
        fresh = BlobStore(tmp_path / name.replace("/", "-"))
        found, _, config = pull_image(client, ref, parse_platform(name), fresh)
        assert found.digest == image.descriptor.digest and config.platform == parse_platform(name)
        assert fetch_image(never, ref, top, parse_platform(name), fresh)[0] == found
    with pytest.raises(NotFoundError, match="no image for platform linux/s390x") as caught:
        pull_image(client, ref, parse_platform("linux/s390x"), store)
    assert caught.value.hint == "it has images for linux/amd64, linux/arm64"


def never() -> RegistryClient:
    raise AssertionError("all of it is in the store")


def test_indexes_without_end_are_refused(registry: str, store: BlobStore) -> None:
    data = Index((make_image(b"x").descriptor,)).to_bytes()
    for _ in range(5):
        entry = Descriptor(Index(()).media_type, store.write(data), len(data))
        data = Index((entry,)).to_bytes()
    with pytest.raises(IntegrityError, match="nested"):
        fetch_image(never, Reference.parse(f"{registry}/x"), entry, AMD64, store)
    with pytest.raises(IntegrityError, match="nested"):
        push_image(client_for(registry), Reference.parse(f"{registry}/x"), entry, store)


def test_a_config_that_contradicts_its_manifest_is_refused(registry: str, store: BlobStore) -> None:
    one, two = make_image(b"one"), make_image(b"one", b"two")
    from stagewright.records import replace

    mixed = replace(two.manifest, config=one.manifest.config).to_bytes()
    for image in (one, two):
        image.put_into(store)
    descriptor = Descriptor(two.manifest.media_type, store.write(mixed), len(mixed))
    with pytest.raises(IntegrityError, match="2 layers, the config 1"):
        fetch_image(never, Reference.parse(f"{registry}/x"), descriptor, AMD64, store)


def test_damage_in_the_store_is_mended_by_the_next_pull(registry: str, store: BlobStore) -> None:
    image = make_image(b"layer" * 1000)
    image.put_into(store)
    client, ref = client_for(registry), Reference.parse(f"{registry}/app:1")
    push_image(client, ref, image.descriptor, store)
    for digest, _ in list(store.digests()):
        store.path(digest).write_bytes(b"")
    _, manifest, _ = pull_image(client, ref, AMD64, store)
    fetch_layers(client, ref, manifest, store)
    assert store.read(image.blobs[1][0].digest) == b"layer" * 1000


def test_a_base_layer_is_mounted_and_need_not_be_here(registry: str, store: BlobStore, tmp_path: Path) -> None:
    base, client = make_image(b"base"), client_for(registry)
    base.put_into(store)
    push_image(client, Reference.parse(f"{registry}/base:1"), base.descriptor, store)
    child = make_image(b"base", b"own")
    child.put_into(store)
    store.delete(base.blobs[1][0].digest)
    with pytest.raises(NotFoundError, match=base.blobs[1][0].digest):
        push_image(client, Reference.parse(f"{registry}/lonely:1"), child.descriptor, store)
    push_image(client, Reference.parse(f"{registry}/child:1"), child.descriptor, store, mount_from=["base"])
    fresh = BlobStore(tmp_path / "fresh")
    ref = Reference.parse(f"{registry}/child:1")
    fetch_layers(client, ref, pull_image(client, ref, AMD64, fresh)[1], fresh)
    assert fresh.read(base.blobs[1][0].digest) == b"base"


def test_the_first_failure_ends_all_transfers(registry: str, store: BlobStore) -> None:
    image = make_image(*[os.urandom(1000) for _ in range(20)])
    image.put_into(store)
    for blob, _ in image.blobs[5:]:
        store.delete(blob.digest)
    with pytest.raises(NotFoundError, match="not in the store"):
        push_image(client_for(registry), Reference.parse(f"{registry}/app:1"), image.descriptor, store)
    assert not [thread for thread in threading.enumerate() if thread.name == "transfer"]


def test_basic_credentials(basic_registry: str, store: BlobStore, tmp_path: Path) -> None:
    image = make_image(b"layer")
    image.put_into(store)
    ref = Reference.parse(f"{basic_registry}/app:1")
    good = client_for(basic_registry, DOCKER_CONFIG=docker_config(tmp_path, basic_registry, auth=user()))
    push_image(good, ref, image.descriptor, store)
    assert pull_image(good, ref, AMD64, BlobStore(tmp_path / "fresh"))[0] == image.descriptor
    with pytest.raises(UnauthorizedError) as caught:
        client_for(basic_registry).resolve(ref)
    assert caught.value.hint == f"log in with: docker login {basic_registry}"
    wrong = docker_config(tmp_path, basic_registry, auth=user("wrong-secret"))
    with pytest.raises(UnauthorizedError, match="refused the credentials") as caught:
        client_for(basic_registry, DOCKER_CONFIG=wrong).resolve(ref)
    assert "wrong-secret" not in caught.value.render() and user("wrong-secret") not in caught.value.render()


@pytest.mark.parametrize("entry", [{"auth": user()}, {"identitytoken": "refresh-secret"}])
def test_bearer_tokens(
    bearer_registry: tuple[str, TokenServer], store: BlobStore, tmp_path: Path, entry: dict[str, str]
) -> None:
    address, tokens = bearer_registry
    image = make_image(b"one", b"two")
    image.put_into(store)
    ref = Reference.parse(f"{address}/team/app:1")
    client = client_for(address, DOCKER_CONFIG=docker_config(tmp_path, address, **entry))
    push_image(client, ref, image.descriptor, store, mount_from=["base"])
    assert set(tokens.given) == {"repository:team/app:pull,push", "repository:base:pull"}
    tokens.given.clear()
    fresh = BlobStore(tmp_path / "fresh")
    fetch_layers(client, ref, pull_image(client, ref, AMD64, fresh)[1], fresh)
    assert tokens.given == ["repository:team/app:pull"]


def test_anonymous_bearer_tokens_pull_but_do_not_push(
    bearer_registry: tuple[str, TokenServer], store: BlobStore, tmp_path: Path
) -> None:
    address, _ = bearer_registry
    image = make_image(b"one")
    image.put_into(store)
    ref = Reference.parse(f"{address}/app:1")
    config = docker_config(tmp_path, address, auth=user())
    push_image(client_for(address, DOCKER_CONFIG=config), ref, image.descriptor, store)
    anonymous = client_for(address)
    assert anonymous.resolve(ref) == image.descriptor
    other = make_image(b"two")
    other.put_into(store)
    with pytest.raises(UnauthorizedError):
        push_image(anonymous, ref, other.descriptor, store)


def test_a_token_is_asked_for_again_once_it_has_run_out(
    bearer_registry: tuple[str, TokenServer], server: ScriptedServer, tmp_path: Path
) -> None:
    address, tokens = bearer_registry
    tokens.lifetime_s = 1e-9  # type: ignore[assignment]
    client = client_for(address, DOCKER_CONFIG=docker_config(tmp_path, address, auth=user()))
    for _ in range(2):
        with pytest.raises(NotFoundError):
            client.resolve(Reference.parse(f"{address}/app:1"))
    assert len(tokens.given) > 1


def test_a_refused_user_is_told(bearer_registry: tuple[str, TokenServer], tmp_path: Path) -> None:
    address, _ = bearer_registry
    client = client_for(address, DOCKER_CONFIG=docker_config(tmp_path, address, auth=user("wrong-secret")))
    with pytest.raises(UnauthorizedError, match="refused to give a token") as caught:
        client.resolve(Reference.parse(f"{address}/app:1"))
    assert "wrong-secret" not in caught.value.render()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"token": 7}', b'{"token": "a\\nb"}', b'{"token": ""}', b" " * 2_000_000]
)
def test_a_token_server_that_talks_nonsense(server: ScriptedServer, body: bytes) -> None:
    challenge = f'Bearer realm="{server.url}/token",service="x"'
    server.on("* /v2/.*", lambda handler: handler.reply(401, WWW_Authenticate=challenge))
    server.on("GET /token", lambda handler: handler.reply(200, body))
    from stagewright.errors import RegistryError

    with pytest.raises(RegistryError):
        client_for(server.address).resolve(Reference.parse(f"{server.address}/app:1"))


def test_a_registry_that_refuses_its_own_tokens_is_given_up(server: ScriptedServer) -> None:
    challenge = f'Bearer realm="{server.url}/token",service="x"'
    server.on("* /v2/.*", lambda handler: handler.reply(401, WWW_Authenticate=challenge))
    server.on("GET /token", lambda handler: handler.reply(200, b'{"token":"t"}'))
    with pytest.raises(UnauthorizedError, match="denied access"):
        client_for(server.address).resolve(Reference.parse(f"{server.address}/app:1"))
    assert len(server.asked("HEAD")) == 3
