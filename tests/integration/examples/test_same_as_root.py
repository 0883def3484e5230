"""The examples, built by root and by an ordinary user: the same images, bit for bit, when a date is given."""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import json
import os
import pwd
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import EXAMPLES, SCRIPTS, Stagewright, StandinImages, output_of

pytestmark = [
    pytest.mark.root("builds as two users"),
    pytest.mark.skipif("STAGEWRIGHT_TEST_USER" not in os.environ, reason="scripts/test names an ordinary user"),
]
DATE = "--build-arg=SOURCE_DATE_EPOCH=1700000000"
# What the steps' own tools date or number anew each time; root's next build would differ from its last one as well.
UNSTEADY = {
    "01-node": (),
    "02-python": ("*.dist-info/RECORD", "*.dist-info/uv_cache.json"),
    "03-copy-from": (),
    "04-pnpm-targets": ("tmp/node-compile-cache/*",),
    "05-layers": ("var/cache/ldconfig/aux-cache", "var/log/*", "*.pyc"),
    "07-parallel": (),
}


@dataclass(frozen=True, slots=True)
class User:
    """An ordinary user: a folder that is the user's, and what commands of the user's begin with."""

    folder: Path
    prefix: tuple[str, ...]

    def run(self, *command: object) -> str:
        return output_of(*self.prefix, *command)


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    name, python = os.environ["STAGEWRIGHT_TEST_USER"], os.environ["STAGEWRIGHT_TEST_PYTHON"]
    folder = Path(tempfile.mkdtemp())
    shutil.chown(folder, name, name)
    become = ("setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups")
    yield User(folder, (*become, "env", f"HOME={pwd.getpwnam(name).pw_dir}", python))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def user_flags(user: User, standin_images: StandinImages) -> list[str]:
    """The flags of the user's builds: a state directory, the stand-ins, and this machine's package settings."""
    config = user.folder / "stagewright.toml"
    config.write_text(standin_images.config.read_text())
    scripts = shutil.copytree(SCRIPTS, user.folder / "scripts")
    settings = user.run(scripts / "package_settings.py", user.folder / "settings").splitlines()
    return ["--root", f"{user.folder}/state", "--config", str(config), *settings]


@pytest.mark.parametrize("name", UNSTEADY)
def test_the_images_are_the_same(
    name: str, user: User, user_flags: list[str], standin_stagewright: Stagewright, tmp_path: Path
) -> None:
    flags = [DATE, "--network=host", "--progress=plain"]
    roots, users = tmp_path / "image.tar", user.folder / f"{name}.tar"
    standin_stagewright.build(EXAMPLES / name, DATE, "--network=host", f"--output=type=oci,dest={roots}")

    context = shutil.copytree(EXAMPLES / name, user.folder / name)
    user.run("-m", "stagewright", "build", *user_flags, *flags, f"--output=type=oci,dest={users}", context)
    assert os.stat(users).st_uid == os.stat(user.folder).st_uid

    if UNSTEADY[name]:
        assert_same_but(UNSTEADY[name], layers(roots), layers(users))
    else:
        assert digest(roots) == digest(users)
        assert roots.read_bytes() == users.read_bytes()


def digest(archive: Path) -> str:
    """The digest of the only image in an OCI archive, as skopeo sees it."""
    found: str = json.loads(output_of("skopeo", "inspect", f"oci-archive:{archive}"))["Digest"]
    return found


Member = tuple[str, dict[str, Any], str]


def layers(archive: Path) -> list[list[Member]]:
    """What the layers of an OCI archive's image hold, in their order: names, metadata, and digests of contents.

    Before them stands the image's config without the layers' digests.
    """
    with tarfile.open(archive) as outer:

        def blob(digest: str) -> bytes:
            member = outer.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert member is not None
            return member.read()

        index = outer.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
        config = json.loads(blob(manifest["config"]["digest"]))
        del config["rootfs"]
        return [[("config", config, "")], *(members(gzip.decompress(blob(d["digest"]))) for d in manifest["layers"])]


def members(layer: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        found = []
        for info in archive:
            content = archive.extractfile(info) if info.isreg() else None
            facts = {key: value for key, value in info.get_info().items() if key not in ("chksum", "size")}
            facts |= {"pax": info.pax_headers}
            found.append((info.name, facts, hashlib.sha256(content.read()).hexdigest() if content else ""))
        return found


def assert_same_but(unsteady: tuple[str, ...], ours: list[list[Member]], theirs: list[list[Member]]) -> None:
    """Fail where anything differs that is no content of a file with a name of those forms."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert [(name, facts) for name, facts, _ in one] == [(name, facts) for name, facts, _ in other]
        changed = {a[0] for a, b in zip(one, other, strict=True) if a[2] != b[2]}
        assert {name for name in changed if not any(fnmatch.fnmatch(name, form) for form in unsteady)} == set()
