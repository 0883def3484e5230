"""Builds in stores that are full, read-only, damaged or in another time: an error that says so, or a repair.

Never a wrong image: what a build makes after the damage is what it makes in a store of its own.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Files, StandinImages, runner
from registry_servers import Handler, ScriptedServer, make_image
from workbench import Workbench

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
# Runs the rest of its arguments with a file system of so many KiB at the first.
IN_SMALL_FILE_SYSTEM = """
import os, sys
folder, size, *command = sys.argv[1:]
os.makedirs(folder, exist_ok=True)
assert not os.system(f"mount -t tmpfs -o size={size}k,mode=700 none {folder}")
for arguments in (command[: command.index(";")], command[command.index(";") + 1 :]):
    status = os.spawnvp(os.P_WAIT, arguments[0], arguments)
sys.exit(status)
"""


@pytest.fixture
def example(bench: Workbench) -> Workbench:
    bench.dockerfile("""
        FROM busybox AS made
        COPY source /src/
        RUN cat /src/a > /made && echo more >> /made
        FROM scratch
        COPY --from=made /made /made
        COPY source /copied/
    """)
    bench.write("source/a", "one\n")
    return bench


def build(bench: Workbench, target: Path, *flags: object) -> bytes:
    """Build into an OCI archive; its bytes."""
    bench.build("-o", f"type=oci,dest={target},rewrite-timestamp=true", *flags, env=EPOCH)
    return target.read_bytes()


@pytest.fixture
def clean(example: Workbench, standin_images: StandinImages, tmp_path: Path) -> Iterator[bytes]:
    """What the example is in a store that nothing ever happened to."""
    for stagewright in runner(tmp_path / "clean", standin_images.config):
        yield build(Workbench(stagewright, example.context), tmp_path / "clean.tar")


def base_layer(root: Path) -> Path:
    """The largest blob: that of the base image's layer."""
    return max((root / "content" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)


def spoil(path: Path) -> None:
    """Change a byte in the middle, as a failing disk does; the size stays."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


# --- blobs ------------------------------------------------------------------------------------------------------------


def test_a_base_layer_that_is_damaged_before_it_is_unpacked(
    example: Workbench, clean: bytes, standin_images: StandinImages
) -> None:
    stagewright = example.stagewright
    stagewright.run("pull", "busybox")
    blob = base_layer(stagewright.root)
    whole = blob.read_bytes()
    spoil(blob)
    assert build(example, example.scratch / "a.tar") == clean
    assert blob.read_bytes() == whole


@pytest.fixture
def with_base(example: Workbench) -> Workbench:
    """The example with its base in the image."""
    example.dockerfile("""
        FROM busybox
        RUN echo made > /made
    """)
    return example


def test_a_base_layer_that_is_damaged_after_it_was_unpacked(with_base: Workbench) -> None:
    first = build(with_base, with_base.scratch / "first.tar")
    blob = base_layer(with_base.stagewright.root)
    whole = blob.read_bytes()
    spoil(blob)
    target = with_base.scratch / "second.tar"
    said = with_base.fail("-o", f"type=oci,dest={target},rewrite-timestamp=true", env=EPOCH)
    assert f"blob sha256:{blob.name} was damaged on the disk" in said
    assert "build again" in said
    assert not target.exists()
    assert build(with_base, target) == first
    assert blob.read_bytes() == whole


def test_a_layer_of_a_step_that_is_damaged(with_base: Workbench) -> None:
    first = build(with_base, with_base.scratch / "first.tar")
    with_base.build("-t", "app:1", env=EPOCH)
    stagewright = with_base.stagewright
    digest = json.loads(stagewright.run("inspect", "app:1").stdout)[0]["layers"][-1]["digest"]
    layer = stagewright.root / "content" / "blobs" / digest.replace(":", "/")
    spoil(layer)
    found = stagewright.run("check", check=False)
    assert found.returncode == 1
    assert layer.name in found.stdout
    stagewright.run("check", "--repair")
    assert stagewright.run("check").stdout.endswith("Nothing is wrong.\n")
    assert build(with_base, with_base.scratch / "second.tar") == first


def test_a_registry_is_never_given_a_damaged_blob(with_base: Workbench, registry: str) -> None:
    config = with_base.scratch / "config.toml"
    config.write_text(with_base.stagewright.config.read_text() + f'\n[registry."{registry}"]\nhttp = true\n')
    name = f"{registry}/damaged:1"
    with_base.build("-t", name)
    spoil(base_layer(with_base.stagewright.root))
    pushed = with_base.stagewright.run("push", "--config", config, name, check=False)
    assert pushed.returncode == 1
    assert "damaged on the disk" in pushed.stderr


# --- metadata and snapshots -------------------------------------------------------------------------------------------


def test_a_metadata_file_that_lost_its_end(example: Workbench, clean: bytes) -> None:
    stagewright = example.stagewright
    build(example, example.scratch / "a.tar")
    example.build("-t", "app:1", env=EPOCH)
    path = stagewright.root / "metadata.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    os.truncate(path, path.stat().st_size - 4096)
    said = example.fail()
    assert "is damaged" in said
    assert "stagewright check" in said
    assert stagewright.run("check", check=False).returncode == 1
    stagewright.run("check", "--repair")
    assert build(example, example.scratch / "b.tar") == clean
    assert stagewright.run("check").returncode == 0


def test_an_empty_metadata_file(example: Workbench, clean: bytes) -> None:
    build(example, example.scratch / "a.tar")
    for path in example.stagewright.root.glob("metadata.db*"):
        path.write_bytes(b"")
    assert build(example, example.scratch / "b.tar") == clean
    example.stagewright.run("check", "--repair")
    assert build(example, example.scratch / "c.tar") == clean


@pytest.mark.parametrize("which", ["base", "result"])
def test_a_snapshot_whose_folder_is_gone(example: Workbench, clean: bytes, which: str) -> None:
    stagewright = example.stagewright
    build(example, example.scratch / "a.tar")
    with sqlite3.connect(stagewright.root / "metadata.db") as connection:
        step = "% FROM docker%" if which == "base" else "%/copied/%"
        ((name,),) = connection.execute(
            "SELECT dir FROM snapshots s JOIN cache_results r ON r.snapshot = s.id WHERE r.name LIKE ?", (step,)
        ).fetchall()
    connection.close()
    shutil.rmtree(stagewright.root / "snapshots" / name)
    if which == "base":
        example.write("source/a", "two\n")
    said = example.fail("-o", f"type=tar,dest={example.scratch / 'b.tar'}", env=EPOCH)
    assert f"the folder {stagewright.root}/snapshots/{name} of snapshot" in said
    assert "check --repair" in said
    stagewright.run("check", "--repair")
    example.write("source/a", "one\n")
    assert build(example, example.scratch / "b.tar") == clean
    assert stagewright.run("check").returncode == 0


# --- the registry -----------------------------------------------------------------------------------------------------


def test_a_registry_that_dies_in_the_middle_of_a_blob(bench: Workbench, server: ScriptedServer, tmp_path: Path) -> None:
    """The build fails and says why, and keeps nothing of the half; the next one is right."""
    content = os.urandom(300_000)
    image = make_image(tar_with("file", content))
    server.serve_image(image)
    config = tmp_path / "c.toml"
    config.write_text(f'[registry."{server.address}"]\nhttp = true\n')
    bench.dockerfile(f"FROM {server.address}/app:1\nCOPY source /source\n")
    bench.write("source", "x")
    honest = server.scripts[:]
    whole = image.blobs[-1][1]

    def dies(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(whole)))
        handler.end_headers()
        handler.wfile.write(whole[: len(whole) // 2])
        handler.cut()
        # From now on nobody is there.
        server.on("* /v2/.*", lambda handler: handler.cut())

    server.on(f"GET /v2/app/blobs/{image.blobs[-1][0].digest}", dies)
    target = bench.scratch / "a.tar"
    said = bench.fail("-o", f"type=tar,dest={target}", "--config", config)
    assert server.address in said
    assert not target.exists()
    assert bench.stagewright.run("check").returncode == 0
    server.scripts[:] = honest
    bench.build("-o", f"type=tar,dest={target}", "--config", config)
    assert Files.read(target.read_bytes()).contents["/file"] == content


def tar_with(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# --- the disk ---------------------------------------------------------------------------------------------------------


def small(bench: Workbench, size_kib: int, *last: str, first: tuple[str, ...] = ("true",)) -> tuple[int, str]:
    """Run commands with a store of so many KiB; the status and the messages of the last one."""
    program = [sys.executable, "-c", IN_SMALL_FILE_SYSTEM, bench.stagewright.root, size_kib, *first, ";", *last]
    done = subprocess.run(
        ["unshare", "-m", *map(str, program)], capture_output=True, text=True, env={**os.environ, **EPOCH}, check=False
    )
    return done.returncode, done.stderr


def command(bench: Workbench, *words: object) -> tuple[str, ...]:
    name, *rest = map(str, words)
    stagewright = bench.stagewright
    flags = ("--root", str(stagewright.root), "--config", str(stagewright.config))
    return (sys.executable, "-m", "stagewright", name, *flags, *rest)


@pytest.mark.root("mounts a small file system for the store")
def test_a_disk_that_is_full(example: Workbench) -> None:
    """At whatever point the room ends, the error says so; with enough room all is well."""
    word = command(example, "build", "--progress=plain", "-o", "type=cacheonly", example.context)
    needed = 0
    for size_kib in (16, 64, 128, 256, 1 << 10, 16 << 10, 64 << 10, 1 << 20):
        status, said = small(example, size_kib, *word)
        if not status:
            needed = size_kib
            break
        assert status == 1, said
        assert "No space left on device" in said or "disk is full" in said, (size_kib, said)
        assert "Traceback" not in said and "internal error" not in said
    assert needed > 1 << 10


@pytest.mark.root("mounts a small file system for the store")
def test_a_disk_that_was_full_and_has_room_again(example: Workbench, clean: bytes) -> None:
    target = example.scratch / "a.tar"
    word = command(example, "build", "--progress=plain", "-o", f"type=oci,dest={target},rewrite-timestamp=true")
    word = (*word, str(example.context))
    # The failing build goes first; then the same file system gets more room.
    script = f"'{sys.executable}' -m stagewright build --root {example.stagewright.root}"
    script += f" --config {example.stagewright.config} {example.context} -o type=cacheonly"
    script += f"; test $? = 1 && mount -o remount,size=2g {example.stagewright.root}"
    status, said = small(example, 20 << 10, *word, first=("sh", "-c", script))
    assert not status, said
    assert target.read_bytes() == clean


@pytest.mark.root("remounts a file system read-only")
def test_a_store_that_is_read_only(example: Workbench) -> None:
    root = example.stagewright.root
    script = f"{' '.join(command(example, 'build', '-o', 'type=cacheonly', example.context))}"
    script += f" && mount -o remount,ro {root}"
    word = command(example, "build", "--progress=plain", "--no-cache", "-o", "type=cacheonly", example.context)
    status, said = small(example, 2 << 20, *word, first=("sh", "-c", script))
    assert status == 1
    assert "read-only" in said.lower()
    assert "Traceback" not in said and "internal error" not in said
    for name in ("du", "prune", "check"):
        status, said = small(example, 2 << 20, *command(example, name), first=("sh", "-c", script))
        assert status in (0, 1)
        assert "Traceback" not in said and "internal error" not in said, (name, said)


# --- the clock --------------------------------------------------------------------------------------------------------

YEARS_S = 20 * 365 * 24 * 3600


@pytest.mark.parametrize("seconds", [YEARS_S, -YEARS_S])
def test_a_clock_that_jumped(example: Workbench, clean: bytes, seconds: int) -> None:
    """All that the store says of times is from the past or the future of a clock that was wrong."""
    stagewright = example.stagewright
    build(example, example.scratch / "a.tar")
    with sqlite3.connect(stagewright.root / "metadata.db") as connection:
        for table, columns in {
            "snapshots": ("created", "last_used"),
            "cache_results": ("created", "last_used"),
            "resolutions": ("resolved",),
            "images": ("created",),
        }.items():
            for column in columns:
                connection.execute(f"UPDATE {table} SET {column} = {column} + ?", (seconds,))
    connection.close()
    for path in example.context.rglob("*"):
        os.utime(path, (path.stat().st_atime + seconds, path.stat().st_mtime + seconds))
    assert build(example, example.scratch / "b.tar") == clean
    # A change is seen, though its time is not later than that of the last look.
    example.write("source/a", "two\n")
    os.utime(example.context / "source/a", (0, 0))
    files = example.files(env=EPOCH)
    assert files.contents["/made"] == b"two\nmore\n"
    # What was used now is as young as it is, also for whoever asks what is old.
    with sqlite3.connect(stagewright.root / "metadata.db") as connection:
        last = connection.execute("SELECT max(last_used) FROM cache_results").fetchone()[0]
        now = connection.execute("SELECT unixepoch()").fetchone()[0]
    connection.close()
    if seconds > 0:
        assert last <= now + 1 or last > now
    assert stagewright.run("check").returncode == 0
    stagewright.run("du")
