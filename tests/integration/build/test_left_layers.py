"""Images whose layers a push has left where an imported cache has them: whoever needs one fetches it from there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Image, Stagewright
from registry_servers import start_registry
from workbench import Workbench

TEXT = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /made\nRUN echo two > /two\n"


@dataclass
class Machine:
    """A second machine, whose image is all cached, and the registry that it was pushed to, which has the layers."""

    bench: Workbench
    registry: str
    process: subprocess.Popen[bytes]
    made: str

    @property
    def name(self) -> str:
        return f"{self.registry}/app:1"

    @property
    def stagewright(self) -> Stagewright:
        return self.bench.stagewright

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def left(self) -> list[str]:
        """The layers of the image that are not in the store."""
        stored = json.loads(self.stagewright.run("inspect", self.name).stdout)[0]["layers"]
        blobs = self.stagewright.root / "content" / "blobs" / "sha256"
        return [layer["digest"] for layer in stored if not (blobs / layer["digest"][7:]).exists()]

    def made_in(self, archive: Path, folder: str) -> str:
        scratch = self.bench.scratch / folder
        scratch.mkdir()
        return Image.load(archive, scratch).read("/made")


@pytest.fixture
def machine(bench: Workbench, other: Workbench, tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "registry"
    folder.mkdir()
    process, address = start_registry(folder, {})
    bench.dockerfile(TEXT)
    made = bench.files("--cache-to", f"type=registry,ref={address}/cache").text("/made")
    found = Machine(other, address, process, made)
    build = other.build("-t", found.name, "--push", "--cache-from", f"type=registry,ref={address}/cache")
    assert build.ran == []
    assert len(found.left()) == 3
    yield found
    found.stop()


def test_an_archive_of_it(machine: Machine) -> None:
    archive = machine.bench.scratch / "saved.tar"
    machine.stagewright.run("save", "--format=oci", "-o", archive, machine.name)
    assert machine.left() == []
    assert machine.made_in(archive, "one") == machine.made


def test_a_look_into_its_layers_and_what_differs(machine: Machine) -> None:
    layers = json.loads(machine.stagewright.run("inspect", "--layers", "--json", machine.name).stdout)
    assert len(layers[0]["layers"]) == 3
    machine.bench.dockerfile(TEXT + "RUN echo 3 > /three\n")
    machine.bench.build("-t", "new")
    assert "/three" in machine.stagewright.run("diff", machine.name, "new").stdout


def test_a_push_to_the_same_registry_moves_nothing(machine: Machine) -> None:
    again = f"{machine.registry}/elsewhere/app:2"
    machine.stagewright.run("tag", machine.name, again)
    machine.stagewright.run("push", again)
    assert len(machine.left()) == 3


def test_a_push_to_another_registry(machine: Machine, registry: str, bench: Workbench) -> None:
    again = f"{registry}/left/app:2"
    machine.stagewright.run("tag", machine.name, again)
    machine.stagewright.run("push", again)
    machine.stop()
    bench.stagewright.run("pull", again)


@pytest.mark.parametrize("name", ["", "local/app:1"])
def test_a_build_on_it(machine: Machine, name: str) -> None:
    if name:
        machine.stagewright.run("tag", machine.name, name)
    machine.bench.dockerfile(f"FROM {name or machine.name}\nRUN cat /made > /copy\n")
    assert machine.bench.files().text("/copy") == machine.made
    archive = machine.bench.scratch / "on.tar"
    machine.bench.build("-o", f"type=oci,dest={archive}")
    assert machine.made_in(archive, "on") == machine.made


def test_a_later_build_finds_its_steps_without_the_cache(machine: Machine) -> None:
    build = machine.bench.build()
    assert build.ran == []
    assert machine.bench.files().text("/made") == machine.made


def test_offline_asks_no_place_on_a_server(machine: Machine) -> None:
    # The base's files have never been here, either.
    assert "busybox:latest: a part of the image is not here, and --offline" in machine.bench.fail("--offline")
    machine.stagewright.run("tag", machine.name, "local/app:1")
    machine.bench.dockerfile("FROM local/app:1\nRUN true\n")
    assert "--offline forbids a pull" in machine.bench.fail("--offline")


def test_a_layer_that_nobody_has_any_more(machine: Machine) -> None:
    machine.stop()
    first = machine.left()[0]
    archive = machine.bench.scratch / "saved.tar"
    for command in (["save", "-o", str(archive)], ["inspect", "--layers"], ["push"]):
        done = machine.stagewright.run(command[0], *command[1:], machine.name, check=False)
        assert done.returncode == 1
        if command[0] != "push":
            assert "is not in the store and cannot be fetched: " in done.stderr
            assert machine.registry in done.stderr
            assert any(f"layer {digest} " in done.stderr for digest in (first, *machine.left()))
            assert "hint: build or pull the image once more" in done.stderr
    assert not archive.exists()
    machine.stagewright.run("tag", machine.name, "local/app:1")
    machine.bench.dockerfile("FROM local/app:1\nRUN cat /made > /copy\n")
    output = machine.bench.fail()
    assert "ERROR" in output
    assert "local/app:1: layer sha256:" in output
    assert "is not in the store and cannot be fetched: " in output
    assert "build or pull the image once more" in output


def test_a_later_build_runs_the_steps_whose_layers_nobody_has_any_more(machine: Machine) -> None:
    machine.stop()
    files = machine.bench.files()
    assert files.text("/two") == "two\n"
    assert files.text("/made") != machine.made
    machine.bench.build("-t", "again")
    archive = machine.bench.scratch / "again.tar"
    machine.stagewright.run("save", "--format=oci", "-o", archive, "again")
    assert machine.made_in(archive, "again") == files.text("/made")


def test_a_folder_that_has_them_serves_when_the_registry_is_gone(
    machine: Machine, bench: Workbench, other: Workbench
) -> None:
    cache = bench.scratch / "cache"
    bench.build("--cache-to", f"type=local,dest={cache}")
    machine.stagewright.run("prune", "--all", "--force")
    other.build("-t", f"{machine.registry}/app:2", "--push", "--cache-from", f"type=local,src={cache}")
    machine.stop()
    machine.stagewright.run("save", "-o", other.scratch / "saved.tar", f"{machine.registry}/app:2")


def test_an_image_that_is_not_pushed_has_its_layers_here(machine: Machine) -> None:
    cache = f"type=registry,ref={machine.registry}/cache"
    machine.bench.build("-t", "kept", "--cache-from", cache)
    machine.stop()
    machine.stagewright.run("rm", machine.name)
    archive = machine.bench.scratch / "kept.tar"
    machine.stagewright.run("save", "--format=oci", "-o", archive, "kept")
    assert machine.made_in(archive, "kept") == machine.made
    machine.bench.dockerfile("FROM kept\nRUN cat /made > /copy\n")
    assert machine.bench.files().text("/copy") == machine.made
