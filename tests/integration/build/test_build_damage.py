"""Builds in stores that are full, read-only, damaged or in another time: an error that says so, or a repair.

Never a wrong image: what a build makes after the damage is what it makes in a store of its own.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from explanations import explain
from git_servers import Repository, git_daemon
from harness import Files, StandinImages, runner
from registry_servers import Handler, ScriptedServer, make_image
from tars import tar_of
from workbench import Workbench

from stagewright.api import History
from stagewright.cache.leases import BuildLease
from stagewright.cache.locks import LockFile
from stagewright.errors import NotFoundError

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


def mended(bench: Workbench, target: Path, *flags: object) -> tuple[bytes, str]:
    """Build into an OCI archive in a store that is damaged: its bytes, and the only warning."""
    done = bench.build("-o", f"type=oci,dest={target},rewrite-timestamp=true", *flags, env=EPOCH)
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    said = [base64.b64decode(warning["short"]).decode() for line in lines for warning in line.get("warnings") or ()]
    assert len(said) == 1 and said[0].endswith("; the build begins anew"), said
    return target.read_bytes(), said[0]


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
    again, said = mended(with_base, with_base.scratch / "second.tar")
    assert again == first
    assert said.startswith(f"blob sha256:{blob.name} was damaged on the disk, and has been removed: it is made or")
    assert blob.read_bytes() == whole


def is_plain(path: Path) -> bool:
    """Whether a file of a store has its content on its own: folders of files and the metadata have tests of theirs."""
    return path.is_file() and "snapshots" not in path.parts and not path.name.startswith("metadata")


@pytest.mark.parametrize("how", ["changed", "empty"])
def test_any_file_of_a_store_that_is_damaged(with_base: Workbench, how: str) -> None:
    """Blobs, documents, stat indexes, records: the image is the same, and what cannot be read is not shown."""
    with_base.dockerfile("FROM busybox\nCOPY source /x/\nRUN cat /x/a > /made\n")
    with_base.write("source/a", "one\n")
    with_base.build("-t", "app:1", env=EPOCH)
    first = build(with_base, with_base.scratch / "first.tar")
    root = with_base.stagewright.root
    saved = with_base.scratch / "saved"
    shutil.copytree(root, saved, symlinks=True)
    files = [path.relative_to(saved) for path in sorted(saved.rglob("*")) if is_plain(path)]
    assert len(files) > 12
    for number, name in enumerate(files):
        other = replace(with_base, stagewright=replace(with_base.stagewright, root=with_base.scratch / f"s{number}"))
        shutil.copytree(saved, other.stagewright.root, symlinks=True)
        path = other.stagewright.root / name
        if how == "changed" and path.stat().st_size:
            spoil(path)
        else:
            os.truncate(path, 0)
        history = History(other.stagewright.root)
        for look in (history.builds, history.inspect, history.explain, history.events, history.export):
            with suppress(NotFoundError):
                look()
        assert build(other, with_base.scratch / "again.tar") == first, name


def test_a_damaged_blob_where_the_result_goes_through_a_pipe(with_base: Workbench) -> None:
    """Half of it may be gone by then: so the next build is the one that works."""
    first = build(with_base, with_base.scratch / "first.tar")
    blob = base_layer(with_base.stagewright.root)
    spoil(blob)
    process = with_base.start("-o", "type=oci,dest=-")
    said = process.communicate()[1]
    assert process.returncode == 1
    assert f"blob sha256:{blob.name} was damaged on the disk" in said
    assert "that was mended: build again" in said
    assert build(with_base, with_base.scratch / "second.tar") == first


def test_a_damaged_layer_that_only_the_store_had(with_base: Workbench, standin_images: StandinImages) -> None:
    """An image that was loaded cannot be fetched anew: one error says so, and no image is made."""
    stagewright = with_base.stagewright
    stagewright.run("pull", "busybox")
    stagewright.run("tag", "busybox", "only-here:1")
    stagewright.run("rm", "busybox")
    with_base.dockerfile("FROM only-here:1\nRUN echo made > /made\n")
    target = with_base.scratch / "a.tar"
    spoil(base_layer(stagewright.root))
    said = with_base.fail("-o", f"type=oci,dest={target}")
    assert "only-here" in said
    assert not target.exists()


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
    again, said = mended(example, example.scratch / "b.tar")
    assert again == clean
    assert said.startswith(f"the metadata file {path} was damaged (")
    assert f"): it is {path}.damaged-" in said and said.count("images kept: docker.io/library/app:1;") == 1
    assert list(path.parent.glob("metadata.db.damaged-*"))
    stagewright.run("check", "--repair")
    assert stagewright.run("check").returncode == 0


GARBAGE = {
    "all": lambda data: os.urandom(len(data)),
    "header": lambda data: os.urandom(100) + data[100:],
    "first page": lambda data: data[:100] + os.urandom(3996) + data[4096:],
    "pages": lambda data: data[:4096] + os.urandom(len(data) - 4096),
    "half": lambda data: data[: len(data) // 2],
    "a few bytes": lambda data: data[:7],
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_metadata_file_that_is_garbage(example: Workbench, clean: bytes, kind: str) -> None:
    stagewright = example.stagewright
    build(example, example.scratch / "a.tar")
    path = stagewright.root / "metadata.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path.write_bytes(GARBAGE[kind](path.read_bytes()))
    assert mended(example, example.scratch / "b.tar")[0] == clean
    stagewright.run("check", "--repair")
    assert stagewright.run("check").returncode == 0


def test_a_metadata_file_without_a_table(example: Workbench, clean: bytes) -> None:
    stagewright = example.stagewright
    build(example, example.scratch / "a.tar")
    with sqlite3.connect(stagewright.root / "metadata.db") as connection:
        connection.execute("DROP TABLE cache_results")
    connection.close()
    found = stagewright.run("check", check=False)
    assert (found.returncode, "no such table: cache_results" in found.stdout) == (1, True)
    assert mended(example, example.scratch / "b.tar")[0] == clean


def test_a_damaged_metadata_file_that_others_use(example: Workbench, clean: bytes) -> None:
    stagewright = example.stagewright
    build(example, example.scratch / "a.tar")
    path = stagewright.root / "metadata.db"
    with BuildLease(LockFile(stagewright.root / "locks")):
        path.write_bytes(os.urandom(path.stat().st_size))
        said = example.fail()
    assert f"the metadata file {path} is damaged: file is not a database" in said
    assert "other builds use the store: build again when they have ended" in said
    assert mended(example, example.scratch / "b.tar")[0] == clean


def test_an_empty_metadata_file(example: Workbench, clean: bytes) -> None:
    build(example, example.scratch / "a.tar")
    for path in example.stagewright.root.glob("metadata.db*"):
        path.write_bytes(b"")
    assert build(example, example.scratch / "b.tar") == clean
    example.stagewright.run("check", "--repair")
    assert build(example, example.scratch / "c.tar") == clean


SNAPSHOTS = {"base": "% FROM docker%", "step": "%RUN cat%", "result": "%/copied/%", "all": "%"}


def lose_snapshots(bench: Workbench, which: str) -> list[Path]:
    """Remove the folders of results; answers those."""
    root = bench.stagewright.root
    with sqlite3.connect(root / "metadata.db") as connection:
        rows = connection.execute(
            "SELECT dir FROM snapshots s JOIN cache_results r ON r.snapshot = s.id WHERE r.name LIKE ? ORDER BY s.id",
            (SNAPSHOTS[which],),
        ).fetchall()
    connection.close()
    folders = [root / "snapshots" / name for (name,) in rows]
    for folder in folders:
        shutil.rmtree(folder)
    return folders


@pytest.mark.parametrize("which", SNAPSHOTS)
@pytest.mark.parametrize("changed", [False, True], ids=["cached", "changed"])
def test_a_snapshot_whose_folder_is_gone(
    example: Workbench, standin_images: StandinImages, tmp_path: Path, which: str, changed: bool
) -> None:
    example.build("-o", "type=cacheonly", env=EPOCH)
    folders = lose_snapshots(example, which)
    if changed:
        example.write("source/a", "two\n")
    for other in runner(tmp_path / "other", standin_images.config):
        expected = build(Workbench(other, example.context), tmp_path / "expected.tar")
    # What needs nothing of it does not notice.
    if (which, changed) in (("base", False), ("step", False), ("step", True), ("result", True)):
        assert build(example, example.scratch / "b.tar") == expected
    else:
        again, said = mended(example, example.scratch / "b.tar")
        assert again == expected
        assert f"its folder {folders[0]} is missing" in said
        assert " more like it: what was lost is made again" in said or which != "all"
    example.stagewright.run("check", "--repair")
    assert build(example, example.scratch / "c.tar") == expected


def test_a_lost_snapshot_is_the_reason_for_a_step(example: Workbench) -> None:
    example.build(env=EPOCH)
    lose_snapshots(example, "result")
    mended(example, example.scratch / "b.tar")
    assert [(step["kind"], "/copied/" in step["name"]) for step in explain(example).data["steps"]] == [("lost", True)]


@pytest.mark.parametrize("what", ["snapshots", "metadata", "blobs"])
def test_many_builds_that_come_upon_the_same_damage(example: Workbench, clean: bytes, what: str) -> None:
    build(example, example.scratch / "a.tar")
    root = example.stagewright.root
    if what == "snapshots":
        lose_snapshots(example, "all")
    elif what == "blobs":
        for path in (root / "content" / "blobs" / "sha256").iterdir():
            spoil(path)
    else:
        for path in root.glob("metadata.db*"):
            path.write_bytes(os.urandom(40_000))
    targets = [example.scratch / f"{number}.tar" for number in range(6)]
    running = []
    for target in targets:
        word = command(example, "build", "--progress=plain", "-o", f"type=oci,dest={target},rewrite-timestamp=true")
        running.append(subprocess.Popen([*word, str(example.context)], env={**os.environ, **EPOCH}))
    assert [process.wait() for process in running] == [0] * 6
    assert all(target.read_bytes() == clean for target in targets)


# --- git repositories and records of builds -------------------------------------------------------------------------


def spoil_objects(repository: Path, how: str) -> None:
    for path in [path for path in (repository / "objects").rglob("*") if path.is_file()]:
        path.chmod(0o600)
        if how == "gone":
            path.unlink()
        elif path.stat().st_size:
            spoil(path)


@pytest.mark.parametrize("how", ["changed", "gone", "no repository"])
def test_a_repository_that_is_damaged(bench: Workbench, tmp_path: Path, how: str) -> None:
    """Of a kept repository, from which other files are checked out now."""
    (tmp_path / "served").mkdir()
    repository = Repository.create(tmp_path / "served" / "r.git")
    repository.commit({"a/file": "1", "b/file": "2"})
    stagewright = bench.stagewright
    with git_daemon(repository.folder.parent) as address:
        bench.dockerfile(f"FROM scratch\nADD git://{address}/r.git#main:a /\n")
        bench.build()
        assert stagewright.run("check").returncode == 0
        (kept,) = (stagewright.root / "git").iterdir()
        if how == "no repository":
            (kept / "HEAD").write_text("nothing")
        else:
            spoil_objects(kept, how)
        found = stagewright.run("check", check=False)
        assert found.returncode == 1
        assert f"git repository git://{address}/r.git: git says: " in found.stdout
        bench.dockerfile(f"FROM scratch\nADD git://{address}/r.git#main:b /\n")
        assert bench.files().text("/file") == "2"
        assert stagewright.run("check").returncode == 0
        spoil_objects(kept, "changed")
        stagewright.run("check", "--repair")
        assert not kept.exists()
        bench.dockerfile(f"FROM scratch\nADD git://{address}/r.git#main /\n")
        assert bench.files().text("/a/file") == "1"


def test_records_of_builds_that_are_damaged(example: Workbench) -> None:
    stagewright = example.stagewright
    example.build()
    example.write("source/a", "two\n")
    example.build()
    history = stagewright.root / "history"
    (first, second) = sorted((history / "builds").iterdir())
    spoiled = [first, *(history / "files").iterdir()]
    for path in spoiled:
        path.write_bytes(b"garbage")
    (history / "pruned").write_text("[]")
    for path in (history / "graphs").iterdir():
        path.unlink()
    found = stagewright.run("check", check=False)
    assert found.returncode == 1
    for path in (*spoiled, history / "pruned"):
        assert f"history {path}: cannot be read\n" in found.stdout
    assert f"history {second}: its steps, " in found.stdout
    stagewright.run("check", "--repair")
    assert stagewright.run("check").stdout.endswith("Nothing is wrong.\n")
    assert stagewright.run("history", "ls", "--format=json").stdout == ""
    example.build()
    assert explain(example).data["steps"] == []


# --- the registry -----------------------------------------------------------------------------------------------------


def test_a_registry_that_dies_in_the_middle_of_a_blob(bench: Workbench, server: ScriptedServer, tmp_path: Path) -> None:
    """The build fails and says why, and keeps nothing of the half; the next one is right."""
    content = os.urandom(300_000)
    image = make_image(tar_of({"file": content}))
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
        message, hint = said.splitlines()[-2:]
        assert message.endswith(("No space left on device", "the disk is full")), (size_kib, said)
        assert hint.startswith("hint: make room on "), (size_kib, said)
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
