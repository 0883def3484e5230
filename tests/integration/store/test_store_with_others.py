"""The store beside other tools: registries, and skopeo and umoci at the other end of an archive."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tars import tar_of

from stagewright.errors import NotFoundError
from stagewright.progress.events import Event, StatusEvent, VertexEvent
from stagewright.store import Store


def skopeo(*arguments: object) -> bytes:
    return subprocess.run(["skopeo", *map(str, arguments)], check=True, capture_output=True).stdout


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout in a folder with an image of two layers, by umoci."""
    folder = tmp_path / "layout"
    umoci("init", "--layout", folder)
    umoci("new", "--image", f"{folder}:1")
    for number in range(2):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(tar_of({"file": b"%d" % number}))
        umoci("raw", "add-layer", "--image", f"{folder}:1", path)
    umoci("config", "--image", f"{folder}:1", "--config.cmd", "/bin/true")
    return folder


def umoci(*arguments: object) -> None:
    subprocess.run(["umoci", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def store(tmp_path: Path, registry: str) -> Iterator[Store]:
    config = tmp_path / "stagewright.toml"
    config.write_text(f'[registry."{registry}"]\nhttp = true\n')
    opened = Store(tmp_path / "state", config)
    yield opened
    opened.close()


def load_file(store: Store, path: Path) -> list[str]:
    with open(path, "rb") as file:
        return store.load(file)


def save_file(store: Store, path: Path, *images: str, format: str) -> None:
    with open(path, "wb") as file:
        store.save(images, file, format)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_load_what_skopeo_wrote(store: Store, layout: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tar"
    skopeo("copy", f"oci:{layout}:1", f"{kind}:{path}:registry.example.com/app:1")
    assert load_file(store, path) == ["registry.example.com/app:1"]
    facts = store.inspect("registry.example.com/app:1")
    assert facts["config"]["config"]["Cmd"] == ["/bin/true"]
    assert len(facts["layers"]) == 2


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_skopeo_and_umoci_read_what_was_saved(store: Store, layout: Path, tmp_path: Path, kind: str) -> None:
    source, saved = tmp_path / "a.tar", tmp_path / "b.tar"
    skopeo("copy", f"oci:{layout}:1", f"oci-archive:{source}:docker.io/library/app:1")
    load_file(store, source)
    save_file(store, saved, "app:1", format=kind.removesuffix("-archive"))
    config = json.loads(skopeo("inspect", "--config", f"{kind}:{saved}"))
    assert config["rootfs"]["diff_ids"] == [entry["diff_id"] for entry in store.inspect("app:1")["layers"]]
    again = tmp_path / "again"
    skopeo("copy", f"{kind}:{saved}", f"oci:{again}:1")
    umoci("unpack", "--rootless", "--image", f"{again}:1", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "rootfs" / "file").read_bytes() == b"1"


def test_push_and_pull(store: Store, layout: Path, tmp_path: Path, registry: str) -> None:
    source = tmp_path / "a.tar"
    name = f"{registry}/team/app:1"
    skopeo("copy", f"oci:{layout}:1", f"oci-archive:{source}:docker.io/library/app:1")
    load_file(store, source)
    store.tag("app:1", name)
    events: list[Event] = []
    digest = store.push(name, on_event=events.append)
    assert digest == store.inspect("app:1")["digest"]
    remote = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{name}"))
    assert remote["Digest"] == digest
    check_events(events, f"pushing {name}", {entry["digest"] for entry in store.inspect("app:1")["layers"]})

    before = store.inspect(name)
    store.remove("app:1")
    store.remove(name)
    store.prune(all=True)
    with pytest.raises(NotFoundError):
        store.inspect(name)
    assert [row for row in store.disk_usage() if row.size] == []

    events = []
    assert store.pull(name, on_event=events.append) == digest
    check_events(events, f"pulling {name}", {entry["digest"] for entry in before["layers"]})
    store.prune(all=True)
    after = store.inspect(name)
    assert (after["layers"], after["config"]) == (before["layers"], before["config"])
    # All of it is here, so that it can go elsewhere.
    store.tag(name, f"{registry}/other/app:2")
    assert store.push(f"{registry}/other/app:2") == digest


def check_events(events: list[Event], name: str, layers: set[str]) -> None:
    vertices = [event for event in events if isinstance(event, VertexEvent)]
    assert {event.name for event in vertices} == {name}
    assert vertices[-1].completed is not None
    rows = [event for event in events if isinstance(event, StatusEvent)]
    assert layers <= {event.id for event in rows if event.completed is not None and event.current == event.total}


def test_pull_one_platform_of_an_index(store: Store, layout: Path, tmp_path: Path, registry: str) -> None:
    umoci("tag", "--image", f"{layout}:1", "2")
    umoci("config", "--image", f"{layout}:2", "--architecture", "s390x")
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    for entry, architecture in zip(entries, ("amd64", "s390x"), strict=True):
        entry["platform"] = {"os": "linux", "architecture": architecture}
        del entry["annotations"]
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    digest = hashlib.sha256(index).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(index)
    top = {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(index)}
    top["annotations"] = {"org.opencontainers.image.ref.name": "multi"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    name = f"{registry}/multi:1"
    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layout}:multi", f"docker://{name}")

    assert store.pull(name, platform="linux/s390x") == entries[1]["digest"]
    assert store.inspect(name)["platform"] == "linux/s390x"
    assert store.pull(name, platform="linux/amd64") == entries[0]["digest"]
    with pytest.raises(NotFoundError, match="no image for platform"):
        store.pull(name, platform="linux/riscv64")
    assert store.push(name) == entries[0]["digest"]


def test_pull_what_does_not_exist(store: Store, registry: str) -> None:
    events: list[Event] = []
    with pytest.raises(NotFoundError):
        store.pull(f"{registry}/nothing:1", on_event=events.append)
    assert isinstance(events[-1], VertexEvent)
    assert events[-1].error
    assert store.images() == []
