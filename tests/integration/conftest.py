"""Fixtures that every integration test may use: a registry, the stand-ins for public base images, the command line."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import PROJECT, SCRIPTS, Stagewright, StandinImages, is_root_of_machine, output_of, package_flags, runner
from registry_servers import HTPASSWD, ScriptedServer, TokenServer, start_registry

# Rooms whose code runs behind the door: their tests run there as well.
BEHIND_THE_DOOR = frozenset({"exporters", "ops", "sandbox", "snapshots", "solver", "sources"})
COMMAND_LINES = frozenset({"stagewright", "standin_stagewright"})
# The first run on a machine builds eight base images before its first test starts.
STANDINS_TIMEOUT_S = 900


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers that say which user a test is for."""
    config.addinivalue_line("markers", "root(why): needs the machine's root, and no user namespace will do")
    config.addinivalue_line("markers", "behind_door: needs root, for which that of a user namespace will do")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of rooms behind the door, and give those that may wait for the stand-ins the time for it."""
    here = Path(__file__).parent
    for item in items:
        if "standin_images" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(STANDINS_TIMEOUT_S))
        is_below = item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in BEHIND_THE_DOOR
        # The command line opens the door by itself.
        if is_below and not COMMAND_LINES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("behind_door")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this user cannot run, and say why."""
    if os.geteuid() != 0 and item.get_closest_marker("behind_door"):
        pytest.skip("runs behind the door: scripts/test-as-user does it")
    needs_root = item.get_closest_marker("root")
    if needs_root and not is_root_of_machine():
        pytest.skip(f"needs root: {needs_root.args[0]}")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty docker-registry on a free loopback port (plain HTTP), for tests to push to."""
    folder = tmp_path_factory.mktemp("registry")
    yield output_of(sys.executable, SCRIPTS / "registry", "start", folder).strip()
    output_of(sys.executable, SCRIPTS / "registry", "stop", folder)


@pytest.fixture(scope="session")
def standin_images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandinImages]:
    """A registry that holds all stand-ins.

    They are kept between runs in the folder that STAGEWRIGHT_STANDINS names, or the user's cache folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    storage = Path(os.environ.get("STAGEWRIGHT_STANDINS") or cache / "stagewright" / "standins")
    storage.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("standins")
    config = folder / "stagewright.toml"
    address = output_of(sys.executable, SCRIPTS / "registry", "start", folder, "--storage", storage).strip()
    try:
        with open(storage.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            output_of(sys.executable, SCRIPTS / "standins", "--registry", address, "--config", config)
        yield StandinImages(address, config)
    finally:
        output_of(sys.executable, SCRIPTS / "registry", "stop", folder)


@pytest.fixture
def start_server() -> Iterator[Callable[[], ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start() -> ScriptedServer:
        servers.append(ScriptedServer())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(start_server: Callable[[], ScriptedServer]) -> ScriptedServer:
    return start_server()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"),
            *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def basic_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a docker-registry that wants user "user" with password "secret"."""
    directory = tmp_path_factory.mktemp("registry")
    (directory / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    process, address = start_registry(directory, {"auth": auth})
    yield address
    process.kill()
    process.wait()


@pytest.fixture
def bearer_registry(
    tmp_path_factory: pytest.TempPathFactory, server: ScriptedServer, certificate: tuple[Path, Path]
) -> Iterator[tuple[str, TokenServer]]:
    """The address of a docker-registry that wants bearer tokens, and the server that gives them."""
    cert, key = certificate
    token = {"realm": f"{server.url}/token", "service": "registry", "issuer": "issuer", "rootcertbundle": str(cert)}
    process, address = start_registry(tmp_path_factory.mktemp("registry"), {"auth": {"token": token}})
    yield address, TokenServer(server, cert, key)
    process.kill()
    process.wait()


@pytest.fixture
def stagewright(tmp_path: Path) -> Iterator[Stagewright]:
    """The command line with a state directory of its own and an empty configuration."""
    config = tmp_path / "stagewright.toml"
    config.touch()
    yield from runner(tmp_path / "state", config)


@pytest.fixture(scope="module")
def standin_stagewright(
    standin_images: StandinImages, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stagewright]:
    """The command line with the stand-ins as base images and this machine's package settings in every build.

    One state directory serves the tests of a module.
    """
    folder = tmp_path_factory.mktemp("builder")
    yield from runner(folder / "state", standin_images.config, package_flags(folder / "settings"))


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the example that the module names in EXAMPLE, for the test to change."""
    return Path(shutil.copytree(PROJECT / "examples" / request.module.EXAMPLE, tmp_path / request.module.EXAMPLE))
