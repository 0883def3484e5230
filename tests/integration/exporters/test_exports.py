"""Exports of real snapshots, with skopeo, umoci, a registry and a Docker engine as witnesses."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from harness import is_root_of_machine, output_of

from stagewright.config import Config
from stagewright.content.remote import RemoteBlobs
from stagewright.errors import CanceledError, UsageError
from stagewright.exporters.export import make_exporter
from stagewright.exporters.result import Exported, ExportResult, Services
from stagewright.image.config import ContainerConfig, History, ImageConfig
from stagewright.image.platform import host_platform
from stagewright.progress.events import Event, StatusEvent
from stagewright.progress.reporter import Emitter
from stagewright.records import replace
from stagewright.registry.client import RegistryClient
from stagewright.snapshots.layers import LayerBlobs
from stagewright.state import State


class World:
    """A state directory with a result of two layers in it."""

    def __init__(self, root: Path) -> None:
        self.state = State(str(root), {})
        self.events: list[Event] = []
        self.cancel = threading.Event()
        self.env: dict[str, str] = {}
        snapshots = self.state.snapshots
        first = snapshots.prepare(None)
        os.makedirs(f"{first.fs}/bin")
        self.write(f"{first.fs}/bin/tool", b"tool\n", 0o4755, 0)
        self.write(f"{first.fs}/gone", b"gone", 0o644, 0)
        second = snapshots.prepare(snapshots.commit(first))
        with snapshots.mount(second) as fd:
            at = f"/proc/self/fd/{fd}"
            os.unlink(f"{at}/gone")
            os.mkdir(f"{at}/srv", 0o750)
            self.write(f"{at}/srv/data", b"data" * 100, 0o640, 33)
            os.link(f"{at}/srv/data", f"{at}/srv/same")
            os.symlink("/bin/tool", f"{at}/run-me")
        top = snapshots.commit(second)
        config = ImageConfig(
            host_platform(),
            ContainerConfig(env=("PATH=/bin",), cmd=("/bin/tool",)),
            history=(History(created_by="one"), History(created_by="env", empty_layer=True), History(created_by="two")),
        )
        self.result = ExportResult(host_platform(), top, snapshots.layers(top), config)

    @staticmethod
    def write(path: str, data: bytes, mode: int, owner: int) -> None:
        Path(path).write_bytes(data)
        os.chown(path, owner, owner)
        os.chmod(path, mode)
        os.utime(path, (1_600_000_000, 1_600_000_000))

    def export(
        self, kind: str, dest: Path | None = None, attrs: Mapping[str, str] | None = None, tags: Sequence[str] = ()
    ) -> Exported | None:
        state = self.state
        client = RegistryClient(Config(), {})
        services = Services(
            snapshots=state.snapshots,
            blobs=state.blobs,
            layers=LayerBlobs(state.snapshots, state.blobs, state.db),
            images=state.images,
            config=Config(),
            env=self.env,
            client=lambda: client,
            cancel=self.cancel,
            places=state.places,
            remote=lambda: RemoteBlobs(state.blobs),
        )
        exporter = make_exporter(kind, None if dest is None else str(dest), attrs or {}, tags)
        try:
            with Emitter(self.events.append).vertex("sha256:x", exporter.title) as reporter:
                return exporter.export(self.result, services, reporter)
        finally:
            client.close()

    def image(self, *arguments: object, **options: object) -> Exported:
        made = self.export(*arguments, **options)  # type: ignore[arg-type]
        assert made is not None
        return made

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(event.id for event in self.events if isinstance(event, StatusEvent)))


@pytest.mark.parametrize("kind", ["image", "oci", "docker", "local", "tar"])
def test_a_canceled_export_ends_and_leaves_nothing(world: World, tmp_path: Path, kind: str) -> None:
    world.cancel.set()
    folder = tmp_path / "out"
    folder.mkdir()
    dest = {"image": None, "local": folder}.get(kind, folder / "file")
    with pytest.raises(CanceledError):
        world.export(kind, dest, tags=("app:1",) if kind == "image" else ())
    assert not (folder / "file").exists()
    assert not list(folder.glob(".*"))
    assert not world.state.images.list()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state")
    yield made
    made.state.close()


def inspect(reference: str, *flags: str) -> dict:
    return json.loads(output_of("skopeo", "inspect", *flags, reference))


def check_files(folder: Path, *, owner: int) -> None:
    """The files of the result, as they must be wherever they are put."""
    assert {os.path.relpath(os.path.join(h, n), folder) for h, ds, ns in os.walk(folder) for n in ds + ns} == {
        "bin", "bin/tool", "srv", "srv/data", "srv/same", "run-me",
    }  # fmt: skip
    tool, data = os.stat(folder / "bin" / "tool"), os.stat(folder / "srv" / "data")
    assert (stat.S_IMODE(tool.st_mode), tool.st_mtime) == (0o4755, 1_600_000_000)
    assert (stat.S_IMODE(data.st_mode), data.st_uid, data.st_mtime) == (0o640, owner, 1_600_000_000)
    assert stat.S_IMODE(os.stat(folder / "srv").st_mode) == 0o750
    assert os.path.samefile(folder / "srv" / "data", folder / "srv" / "same")
    assert os.readlink(folder / "run-me") == "/bin/tool"


def test_an_image_is_in_the_store_under_its_names(world: World) -> None:
    made = world.image("image", tags=["app", "example.com/app:2"])
    assert made.names == ("docker.io/library/app:latest", "example.com/app:2")
    stored = world.state.images.list()
    assert [(entry.name, entry.descriptor.digest) for entry in stored] == [
        (name, made.descriptor.digest) for name in made.names
    ]
    assert world.rows == [
        "exporting layers",
        f"exporting manifest {made.descriptor.digest}",
        f"exporting config {made.config_digest}",
        "naming to docker.io/library/app:latest",
        "naming to example.com/app:2",
    ]


def test_an_image_need_not_be_stored_and_may_have_canonical_names(world: World) -> None:
    world.image("image", attrs={"store": "false"}, tags=["app"])
    assert world.state.images.list() == []
    made = world.image("image", attrs={"name-canonical": "true"}, tags=["app"])
    assert [entry.name for entry in world.state.images.list()] == [
        "docker.io/library/app:latest",
        f"docker.io/library/app:latest@{made.descriptor.digest}",
    ]


def test_an_oci_archive_is_read_by_skopeo_and_umoci(world: World, tmp_path: Path) -> None:
    made = world.image("oci", tmp_path / "a.tar", {"annotation.note": "hello"}, ["app:1"])
    reference = f"oci-archive:{tmp_path}/a.tar"
    raw = inspect(reference, "--raw")
    assert raw["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert raw["annotations"] == {"note": "hello"}
    config = inspect(reference, "--config")
    assert config["config"]["Cmd"] == ["/bin/tool"]
    assert [entry.get("empty_layer", False) for entry in config["history"]] == [False, True, False]
    assert inspect(reference)["Digest"] == made.descriptor.digest
    output_of("skopeo", "copy", "--quiet", reference, f"oci:{tmp_path}/layout:app")
    output_of("umoci", "unpack", "--image", f"{tmp_path}/layout:app", tmp_path / "bundle")
    check_files(tmp_path / "bundle" / "rootfs", owner=33)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "uncompressed"])
def test_an_oci_layout_folder_is_unpacked_by_umoci(world: World, tmp_path: Path, compression: str) -> None:
    world.image("oci", tmp_path / "layout", {"tar": "false", "compression": compression}, ["app:1"])
    # umoci 0.4 knows no zstd.
    output_of("skopeo", "copy", "--quiet", f"oci:{tmp_path}/layout:1", f"dir:{tmp_path}/dir")
    output_of("skopeo", "copy", "--quiet", "--dest-compress-format=gzip", f"dir:{tmp_path}/dir", f"oci:{tmp_path}/o:1")
    if compression != "zstd":
        output_of("umoci", "unpack", "--image", f"{tmp_path}/o:1", tmp_path / "bundle")
        check_files(tmp_path / "bundle" / "rootfs", owner=33)


@pytest.mark.parametrize("attrs", [{}, {"oci-mediatypes": "false"}, {"compression": "zstd"}])
def test_a_docker_archive_is_read_by_skopeo(world: World, tmp_path: Path, attrs: dict[str, str]) -> None:
    made = world.image("docker", tmp_path / "d.tar", attrs, ["app:1", "app:2"])
    with tarfile.open(tmp_path / "d.tar") as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        assert json.load(file)[0]["RepoTags"] == ["app:1", "app:2"]
    for tag in ("1", "2"):
        raw = inspect(f"docker-archive:{tmp_path}/d.tar:app:{tag}", "--raw")
        assert raw["config"]["digest"] == made.config_digest
    output_of("skopeo", "copy", "--quiet", f"docker-archive:{tmp_path}/d.tar:app:1", f"oci:{tmp_path}/o:1")
    output_of("umoci", "unpack", "--image", f"{tmp_path}/o:1", tmp_path / "bundle")
    check_files(tmp_path / "bundle" / "rootfs", owner=33)


def test_docker_media_types_on_request(world: World) -> None:
    made = world.image("image", attrs={"oci-mediatypes": "false"})
    manifest = json.loads(world.state.blobs.read(made.descriptor.digest))
    assert made.descriptor.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}
    with pytest.raises(UsageError, match="annotations need OCI media types"):
        world.export("image", attrs={"oci-mediatypes": "false", "annotation.a": "b"})


def test_a_date_makes_equal_bytes(tmp_path: Path) -> None:
    archives = []
    for number in (1, 2):
        world = World(tmp_path / str(number))
        world.result = replace(world.result, epoch=1_650_000_000)
        for kind in ("oci", "docker", "tar"):
            dest = tmp_path / f"{number}.{kind}"
            world.export(kind, dest, {}, ["app:1"])
            archives.append(dest.read_bytes())
        world.state.close()
    assert archives[:3] == archives[3:]
    with tarfile.open(tmp_path / "1.tar") as tar:
        assert max(member.mtime for member in tar) == 1_650_000_000


def test_outputs_share_their_layers(world: World, tmp_path: Path) -> None:
    image = world.image("image", tags=["app"])
    packed = world.state.db.query("SELECT * FROM layer_blobs")
    archived = world.image("oci", tmp_path / "a.tar", {}, ["app"])
    assert archived.descriptor == image.descriptor
    assert world.state.db.query("SELECT * FROM layer_blobs") == packed


def test_a_result_without_files(world: World, tmp_path: Path) -> None:
    world.result = replace(world.result, snapshot=None, layers=(), config=ImageConfig(host_platform()))
    made = world.image("oci", tmp_path / "a.tar", {}, ["app"])
    assert inspect(f"oci-archive:{tmp_path}/a.tar", "--raw")["layers"] == []
    assert made.names == ("docker.io/library/app:latest",)
    world.export("local", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_local_files_are_the_callers_own(world: World, tmp_path: Path) -> None:
    world.export("local", tmp_path / "out")
    check_files(tmp_path / "out", owner=0)
    assert world.rows == ["copying files"]


def test_local_files_merge_into_a_folder_and_follow_no_links(world: World, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / "bin" / "tool").mkdir(parents=True)
    (out / "bin" / "tool" / "x").touch()
    (out / "bin" / "kept").touch()
    (out / "srv").symlink_to(elsewhere)
    (out / "run-me").write_text("old")
    world.export("local", out)
    assert (out / "bin" / "kept").exists()
    (out / "bin" / "kept").unlink()
    check_files(out, owner=0)
    assert os.listdir(elsewhere) == []
    world.export("local", out)
    check_files(out, owner=0)


def test_local_files_by_platform(world: World, tmp_path: Path) -> None:
    world.export("local", tmp_path / "out", {"platform-split": "true"})
    assert os.listdir(tmp_path / "out") == [str(host_platform()).replace("/", "_")]


def test_a_tar_has_all_files_with_their_owners(world: World, tmp_path: Path) -> None:
    world.export("tar", tmp_path / "files.tar")
    (tmp_path / "out").mkdir()
    output_of("tar", "--numeric-owner", "-xpf", tmp_path / "files.tar", "-C", tmp_path / "out")
    check_files(tmp_path / "out", owner=33)


def test_cacheonly_makes_nothing(world: World) -> None:
    assert world.export("cacheonly") is None
    assert list(world.state.blobs.digests()) == []


def test_a_push_is_what_skopeo_then_pulls(world: World, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/exports/app"
    made = world.image("image", attrs={"push": "true"}, tags=[f"{name}:1"])
    assert inspect(f"docker://{name}:1", "--tls-verify=false")["Digest"] == made.descriptor.digest
    assert "pushing layers" in world.rows
    assert f"pushing manifest for {name}:1@{made.descriptor.digest}" in world.rows
    output_of("skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{name}:1", f"oci:{tmp_path}/o:1")
    output_of("umoci", "unpack", "--image", f"{tmp_path}/o:1", tmp_path / "bundle")
    check_files(tmp_path / "bundle" / "rootfs", owner=33)


def test_a_push_by_digest_makes_no_tag(world: World, registry: str) -> None:
    name = f"{registry}/exports/untagged"
    made = world.image("image", attrs={"push-by-digest": "true", "name": name, "push": "true"})
    raw = inspect(f"docker://{name}@{made.descriptor.digest}", "--tls-verify=false", "--raw")
    assert raw["config"]["digest"] == made.config_digest
    listed = subprocess.run(
        ["skopeo", "list-tags", "--tls-verify=false", f"docker://{name}"], capture_output=True, text=True, check=False
    )
    assert listed.returncode != 0 or json.loads(listed.stdout)["Tags"] in (None, [])


def test_a_docker_engine_takes_the_image(world: World, docker_engine: str) -> None:
    world.env["DOCKER_HOST"] = docker_engine
    for attrs in ({}, {"compression": "zstd", "oci-mediatypes": "false"}):
        made = world.image("docker", None, attrs, ["stagewright-test:1"])
        command = ["docker", "--host", docker_engine, "image", "inspect", "stagewright-test:1"]
        loaded = json.loads(output_of(*command))[0]
        assert loaded["Id"] == made.config_digest
        assert loaded["Config"]["Cmd"] == ["/bin/tool"]


@pytest.fixture(scope="module")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Docker engine of our own."""
    if not is_root_of_machine():
        pytest.skip("needs root: dockerd makes control groups")
    if shutil.which("dockerd") is None:
        pytest.skip("there is no dockerd")
    folder = tmp_path_factory.mktemp("docker")
    address = f"unix://{folder}/docker.sock"
    command = [
        "dockerd",
        "--iptables=false",
        "--bridge=none",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
    ]
    with subprocess.Popen(
        [*command, f"--pidfile={folder}/pid", f"--host={address}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            assert any(b"API listen on" in line for line in process.stderr)
            drain = threading.Thread(target=process.stderr.read)
            drain.start()
            yield address
        finally:
            process.terminate()
            process.wait()
    drain.join()
    shutil.rmtree(folder)
