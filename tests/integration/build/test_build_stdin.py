"""The build context from standard input: archives in all forms, a Dockerfile alone, and archives that mean harm."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from harness import Build, read_events
from workbench import Files, Workbench, wait_for

DOCKERFILE = b"FROM scratch\nCOPY . /\n"
# A build that needs more than this to read an archive keeps what it should stream.
MEMORY = 1 << 30

Member = tuple[str, bytes, dict[str, object]]


def archive(*members: Member, dockerfile: bytes = DOCKERFILE) -> bytes:
    """A tar archive of a Dockerfile and the members (name, content, fields of TarInfo)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, fields in [("Dockerfile", dockerfile, {}), *members]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in fields.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str, *, hard: bool = False) -> Member:
    return name, b"", {"type": tarfile.LNKTYPE if hard else tarfile.SYMTYPE, "linkname": target}


def build(bench: Workbench, data: bytes | Iterator[bytes], *flags: str) -> Build:
    """Build what comes by standard input, in little memory; a writer that is cut off stops."""
    command = [sys.executable, "-m", "stagewright", "build", "--progress=rawjson", "--root", bench.stagewright.root]
    process = subprocess.Popen(
        [*map(str, command), "--config", str(bench.stagewright.config), *flags, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    assert process.stdin is not None
    try:
        for block in [data] if isinstance(data, bytes) else data:
            process.stdin.write(block)
        process.stdin.close()
    except BrokenPipeError:
        pass
    process.stdin = None
    stdout, stderr = (text.decode() for text in process.communicate(timeout=60))
    assert "Traceback" not in stderr
    assert "internal error" not in stderr
    return Build(process.returncode, stdout, stderr, read_events(stderr))


def files(bench: Workbench, data: bytes | Iterator[bytes], *flags: str) -> Files:
    target = bench.scratch / "result.tar"
    done = build(bench, data, "-o", f"type=tar,dest={target}", *flags)
    assert done.status == 0, done.stderr
    return Files.read(target.read_bytes())


def refused(bench: Workbench, data: bytes | Iterator[bytes], *flags: str) -> str:
    """The message of a build that fails, which leaves nothing in the store."""
    done = build(bench, data, "-o", "type=cacheonly", *flags)
    assert done.status == 1, done.stderr
    assert os.listdir(bench.stagewright.root / "snapshots" / "drafts") == []
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("ERROR: failed to build: ")


# --- what comes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_an_archive_in_any_form(bench: Workbench, pack: Callable[[bytes], bytes]) -> None:
    data = pack(archive(("folder/file", b"content", {"mode": 0o640, "uid": 7, "gid": 8, "mtime": 1_000_000_000})))
    result = files(bench, data)
    assert result.below("/") == ["Dockerfile", "folder", "folder/file"]
    assert result.text("/folder/file") == "content"
    # As in BuildKit: what an archive says counts, where files of a folder belong to root.
    assert result.metadata("/folder/file") == (0o640, 7, 8, 1_000_000_000)


def test_an_ignore_file_in_an_archive_counts_for_nothing(bench: Workbench) -> None:
    assert "/file" in files(bench, archive((".dockerignore", b"file\n", {}), ("file", b"", {})))


def test_a_dockerfile_of_the_archive_by_name(bench: Workbench) -> None:
    other = b"FROM scratch\nCOPY other/Dockerfile.x /only\n"
    assert files(bench, archive(("other/Dockerfile.x", other, {})), "-f", "other/Dockerfile.x").below("/") == ["only"]


def test_a_dockerfile_in_lower_case(bench: Workbench) -> None:
    data = archive(dockerfile=DOCKERFILE).replace(b"Dockerfile", b"dockerfile", 1)
    header = bytearray(data[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert files(bench, bytes(header) + data[512:]).below("/") == ["dockerfile"]


def test_an_archive_without_a_dockerfile(bench: Workbench) -> None:
    message = refused(bench, archive(), "-f", "missing")
    assert message == "failed to read Dockerfile: open missing: no such file or directory"


def test_a_dockerfile_alone_has_an_empty_context(bench: Workbench) -> None:
    assert files(bench, b"FROM scratch\nCOPY <<EOF /file\ncontent\nEOF\n").text("/file") == "content\n"
    assert refused(bench, b"FROM scratch\nCOPY file /\n").endswith('"/file": not found')


def test_the_same_archive_is_built_once(bench: Workbench) -> None:
    data = archive(("file", b"content", {}), dockerfile=b"FROM scratch\nCOPY file /\n")
    assert len(build(bench, data, "-o", "type=cacheonly").ran) == 1
    assert build(bench, gzip.compress(data), "-o", "type=cacheonly").ran == []
    other = archive(("file", b"content", {}), ("new", b"", {}), dockerfile=b"FROM scratch\nCOPY file /\n")
    assert build(bench, other, "-o", "type=cacheonly").ran == []


def test_links_in_an_archive_stay_in_it(bench: Workbench) -> None:
    members = [link("up", "../../.."), ("up/file", b"x", {}), link("etc", "/"), ("etc/f", b"y", {})]
    result = files(bench, archive(*members, dockerfile=b"FROM scratch\nCOPY file f /\n"))
    assert (result.text("/file"), result.text("/f")) == ("x", "y")


def test_an_archive_with_absolute_names_is_relative_to_the_context(bench: Workbench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    result = files(bench, archive((str(outside), b"x", {})))
    assert result.text(str(outside)) == "x"
    assert not outside.exists()


# --- what does not --------------------------------------------------------------------------------------------------


def test_nothing_comes(bench: Workbench) -> None:
    assert refused(bench, b"") == "the build context on standard input is empty"


def test_two_dockerfiles(bench: Workbench) -> None:
    message = refused(bench, b"FROM scratch\n", "-f", "other")
    assert message == "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("../escaped", b"x", {})], "archive member '../escaped' leads out of the archive's root"),
        ([("a/../../escaped", b"x", {})], "archive member 'a/../../escaped' leads out of the archive's root"),
        ([link("hard", "/etc/passwd", hard=True)], "is a hard link to '/etc/passwd', which does not exist"),
        ([link("out", "/"), link("hard", "out/etc/passwd", hard=True)], "which does not exist"),
        ([link("hard", "../../etc/passwd", hard=True)], "'../../etc/passwd' leads out of the archive's root"),
        ([link("loop", "loop"), ("loop/file", b"", {})], "goes through a link out of the archive's root"),
        ([("n" * 5000, b"", {})], "cannot be written: File name too long"),
        ([("odd", b"", {"type": b"Z"})], "has an unknown type"),
    ],
)
def test_archives_that_mean_harm(bench: Workbench, members: list[Member], problem: str) -> None:
    message = refused(bench, archive(*members))
    assert message.startswith("failed to read the build context from standard input: ")
    assert problem in message


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (archive(("file", b"x" * 9999, {}))[:3000], "tar archive ends too early inside 'file'"),
        (gzip.compress(archive(("file", os.urandom(9999), {})))[:-2000], "gzip data ends too early"),
        (b"\x1f\x8b" + b"x" * 2000, "gzip data is damaged"),
        (gzip.compress(b"FROM scratch\n" * 100), "tar header has"),
    ],
)
def test_archives_that_are_broken(bench: Workbench, data: bytes, problem: str) -> None:
    message = refused(bench, data)
    assert message.startswith("failed to read the build context from standard input: ")
    assert problem in message


def test_devices_are_only_files_of_the_context(bench: Workbench) -> None:
    device = ("disk", b"", {"type": tarfile.BLKTYPE, "devmajor": 7, "devminor": 99})
    result = files(bench, archive(device, dockerfile=b"FROM scratch\nCOPY Dockerfile /\n"))
    assert result.below("/") == ["Dockerfile"]


def header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


def test_a_file_that_cannot_fit_is_refused_before_it_comes(bench: Workbench) -> None:
    message = refused(bench, header("huge", 1 << 60) + b"x" * 100_000)
    assert message.startswith(f"the build context does not fit: its files have {1 << 60} bytes or more, and ")


def test_a_sparse_file_takes_no_more_than_it_holds(bench: Workbench) -> None:
    script = bench.scratch / "sparse.tar"
    with open(bench.scratch / "sparse", "wb") as file:
        file.truncate(1 << 40)
    (bench.scratch / "Dockerfile").write_bytes(b"FROM scratch\nCOPY Dockerfile /\n")
    command = ["tar", "-cSf", script, "-C", bench.scratch, "sparse", "Dockerfile"]
    subprocess.run([str(word) for word in command], check=True)
    assert files(bench, script.read_bytes()).below("/") == ["Dockerfile"]


@pytest.mark.parametrize(
    ("blocks", "problem"),
    [
        (lambda: iter(lambda: b"RUN true\n" * 100_000, b""), "the Dockerfile on standard input is larger than 16 MiB"),
        (lambda: iter(lambda: bytes(1 << 20), b""), "the Dockerfile on standard input is larger than 16 MiB"),
    ],
    ids=["text", "zeros"],
)
def test_streams_without_end(bench: Workbench, blocks: Callable[[], Iterator[bytes]], problem: str) -> None:
    assert refused(bench, blocks()) == problem


def test_an_archive_that_goes_on_behind_its_end(bench: Workbench) -> None:
    def blocks() -> Iterator[bytes]:
        yield archive()
        while True:
            yield bytes(1 << 20)

    assert files(bench, blocks()).below("/") == ["Dockerfile"]


def test_a_build_that_waits_for_its_context_can_be_stopped(bench: Workbench) -> None:
    command = [sys.executable, "-m", "stagewright", "build", "--progress=plain", "--root", bench.stagewright.root]
    read, write = os.pipe()
    process = subprocess.Popen(
        [*map(str, command), "--config", str(bench.stagewright.config), "-"],
        stdin=read,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(read)
    try:
        os.write(write, archive()[:2048])
        wait_for(process, "[internal] load remote build context")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        os.close(write)
        process.kill()
        process.communicate()


def test_nothing_of_an_archive_is_open_to_others(bench: Workbench) -> None:
    files(bench, archive(("secret", b"x", {"mode": 0o777})))
    assert stat.S_IMODE((bench.stagewright.root / "snapshots").stat().st_mode) == 0o700
