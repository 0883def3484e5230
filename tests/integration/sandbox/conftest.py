"""Both runtimes, the modes that claim isolation, and boxes and arenas in which steps run."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from arena import MODES, Arena, give
from box import Box, make_root
from mapped_runtime import USER, MappedRuntime, find_interpreter

from stagewright.sandbox.native import NativeRuntime
from stagewright.sandbox.oci import OciRuntime
from stagewright.sandbox.spec import Runtime


@pytest.fixture(scope="session")
def busybox() -> str:
    found = shutil.which("busybox")
    if found is None or "statically linked" not in _file_kind(found):
        subprocess.run(["apt-get", "install", "-qq", "-y", "busybox-static"], check=True, capture_output=True)
        found = shutil.which("busybox")
    assert found is not None
    return found


def _file_kind(path: str) -> str:
    """Whether a program has an ELF interpreter, told by its program headers' names for it."""
    with open(path, "rb") as file:
        return "dynamic" if b"/ld-linux" in file.read(4096) else "statically linked"


@pytest.fixture(scope="session")
def lower(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("root") / "lower", busybox)


@pytest.fixture(scope="session", params=["native", "oci"])
def runtime(request: pytest.FixtureRequest, busybox: str) -> Iterator[Runtime]:
    made: Runtime
    if request.param == "native":
        made = NativeRuntime()
    else:
        runc = shutil.which("runc")
        if runc is None:
            pytest.skip("runc is not installed")
        made = OciRuntime(runc)
    yield made
    made.close()


@pytest.fixture
def box(runtime: Runtime, lower: Path, tmp_path: Path) -> Iterator[Box]:
    yield Box(runtime, lower, tmp_path)
    for directory in tmp_path.glob("work*/work"):
        os.chmod(directory, stat.S_IRWXU)


@pytest.fixture(scope="session", params=MODES)
def mode(request: pytest.FixtureRequest, busybox: str) -> Iterator[tuple[str, Runtime, tuple[str, str], int, Path]]:
    """A mode's name, its runtime, a Python for its steps (path, prefix), the user who builds, and a folder of his."""
    interpreter = find_interpreter()
    if interpreter is None:
        pytest.skip("there is no Python that an ordinary user can run")
    directory = Path(tempfile.mkdtemp(prefix="stagewright-mode-"))
    directory.chmod(0o755)
    kind = "native" if request.param.startswith("native") else shutil.which("runc")
    if kind is None:
        pytest.skip("runc is not installed")
    made: Runtime
    owner = 0
    if "user namespace" in request.param:
        owner = USER
        made = MappedRuntime(kind, interpreter[0], directory)
    elif kind == "native":
        made = NativeRuntime()
    else:
        made = OciRuntime(kind)
    make_root(directory / "lower", busybox)
    give(directory, owner)
    yield request.param, made, interpreter, owner, directory
    made.close()
    shutil.rmtree(directory)


@pytest.fixture
def arena(mode: tuple[str, Runtime, tuple[str, str], int, Path]) -> Iterator[Arena]:
    """Surroundings for an attempt to escape, which must leave the host as it was."""
    name, runtime, interpreter, owner, directory = mode
    own = Path(tempfile.mkdtemp(dir=directory))
    own.chmod(0o755)
    made = Arena(runtime, directory / "lower", own, mode=name, interpreter=interpreter, owner=owner)
    made.make_host()
    made.give()
    before = made.look()
    yield made
    assert made.look() == before
    shutil.rmtree(own)
