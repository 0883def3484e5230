"""URLs and git repositories in builds: ADD, the main context, named contexts."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_servers import Repository, git_daemon
from harness import Image
from registry_servers import Handler, ScriptedServer
from tars import tar_of
from workbench import Files, Workbench

from stagewright import definition
from stagewright.errors import UsageError

SECONDS = 1445412480
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def serve(server: ScriptedServer, name: str, data: bytes, *, etag: str = "", modified: str = DATE) -> str:
    """Serve a file; answers its URL."""
    headers = {key: value for key, value in (("ETag", etag), ("Last_Modified", modified)) if value}

    def script(handler: Handler) -> None:
        if etag and handler.headers.get("If-None-Match") == etag:
            handler.reply(304, **headers)
        else:
            handler.reply(200, data, **headers)

    server.on(f"* /{name}", script)
    return f"{server.url}/{name}"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "served").mkdir()
    return Repository.create(tmp_path / "served" / "r.git")


@pytest.fixture
def git_url(repository: Repository) -> Iterator[str]:
    with git_daemon(repository.folder.parent) as address:
        yield f"git://{address}/r.git"


def build_from(bench: Workbench, context: str, *flags: object) -> Files:
    """Build a context that is no folder of the bench, and read the result's files."""
    target = bench.scratch / "result.tar"
    bench.stagewright.build(context, "-o", f"type=tar,dest={target}", *flags)
    return Files.read(target.read_bytes())


def failure_of(bench: Workbench, context: str, *flags: object) -> str:
    """What is printed below the events where such a build fails."""
    flags = ("-o", "type=cacheonly", *flags)
    build = bench.stagewright.build(context, *flags, check=False)
    assert build.status == 1 and "Traceback" not in build.stderr
    return "\n".join(line for line in build.stderr.splitlines() if not line.startswith("{"))


# --- ADD of URLs ----------------------------------------------------------------------------------------------------


def test_add_of_urls(bench: Workbench, server: ScriptedServer) -> None:
    file = serve(server, "file.txt", b"hello\n")
    unnamed = serve(server, "", b"unnamed\n")
    tar = serve(server, "a.tgz", tar_of({"in/side": "x"}, mode="w:gz"))
    bench.dockerfile(
        f"""
        FROM scratch
        WORKDIR /w
        ADD {file} /folder/
        ADD {file} /renamed
        ADD {file} relative
        ADD {unnamed} /root/
        ADD {file} {tar} /both/
        ADD --chown=3:4 --chmod=u=rw,go=r {file} /owned/
        ADD --unpack {tar} /unpacked/
        """
    )
    files = bench.files()
    assert files.metadata("/folder/file.txt") == (0o600, 0, 0, SECONDS)
    assert files.metadata("/owned/file.txt") == (0o644, 3, 4, SECONDS)
    assert files.text("/renamed") == files.text("/w/relative") == "hello\n"
    assert files.text("/root/__unnamed__") == "unnamed\n"
    assert files.below("/both") == ["a.tgz", "file.txt"]
    assert files.below("/unpacked") == ["in", "in/side"]


def test_an_unchanged_url_leaves_the_build_cached(bench: Workbench, server: ScriptedServer) -> None:
    url = serve(server, "file", b"hello\n", etag='"one"')
    bench.dockerfile(f"FROM scratch\nADD {url} /a/\nADD {url} /b/\n")
    bench.build()
    assert bench.build().ran == []
    assert [request.method for request in server.requests] == ["GET", "HEAD"]
    serve(server, "file", b"other\n", etag='"two"')
    assert bench.files().text("/b/file") == "other\n"


def test_the_same_file_without_an_etag_leaves_the_build_cached(bench: Workbench, server: ScriptedServer) -> None:
    url = serve(server, "file", b"hello\n")
    bench.dockerfile(f"FROM scratch\nADD {url} /a/\n")
    bench.build()
    assert bench.build().ran == []
    assert server.asked("GET") == ["/file", "/file"]
    serve(server, "file", b"hello\n", modified="Thu, 22 Oct 2015 07:28:00 GMT")
    # It is fetched, and then the copy has nothing new to copy.
    assert [step for step in bench.build().ran if "/a/" in step] != []


def test_a_file_with_a_checksum_is_asked_for_once(bench: Workbench, server: ScriptedServer) -> None:
    url = serve(server, "file", b"hello\n")
    checksum = "sha256:" + hashlib.sha256(b"hello\n").hexdigest()
    bench.dockerfile(f"FROM scratch\nARG SUM\nADD --checksum=$SUM {url} /a/\n")
    bench.build("--build-arg", f"SUM={checksum}")
    bench.build("--build-arg", f"SUM={checksum}")
    assert server.asked("GET") == ["/file"]
    wrong = "sha256:" + "0" * 64
    printed = bench.fail("--build-arg", f"SUM={wrong}")
    assert f"ERROR: failed to build: digest mismatch for {url}: {checksum} (expected: {wrong})" in printed


def test_a_url_that_is_not_there(bench: Workbench, server: ScriptedServer) -> None:
    bench.dockerfile(f"FROM scratch\nADD {server.url}/nope /a/\n")
    printed = bench.fail()
    assert "Dockerfile:2" in printed
    assert f"ERROR: failed to build: {server.url}/nope: not found" in printed


def test_credentials_of_urls_are_nowhere(bench: Workbench, server: ScriptedServer) -> None:
    serve(server, "file", b"hello\n")
    bench.dockerfile(f"FROM scratch\nADD http://user:hunter2@{server.address}/file /a/\n")
    oci = bench.scratch / "image.tar"
    build = bench.build("-o", f"type=oci,dest={oci}", "-t", "image")
    assert "hunter2" not in build.stderr
    image = Image.load(oci, bench.scratch)
    assert "hunter2" not in str(image.config)
    assert image.config["history"][0]["created_by"] == f"ADD http://***@{server.address}/file /a/ # buildkit"


def test_secrets_authorize_requests(bench: Workbench, server: ScriptedServer) -> None:
    url = serve(server, "file", b"hello\n")
    bench.dockerfile(f"FROM scratch\nADD {url} /a/\n")
    bench.build("--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=TOKEN", env={"TOKEN": "hunter2"})
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer hunter2"]


# --- ADD of repositories --------------------------------------------------------------------------------------------


def test_add_of_repositories(bench: Workbench, repository: Repository, git_url: str) -> None:
    commit = repository.commit({"plain": "p", "deep/er/file": "d"})
    bench.dockerfile(
        f"""
        FROM scratch
        ADD {git_url} /all
        ADD {git_url} /slash/
        ADD {git_url}#main:deep /part/
        ADD --keep-git-dir --checksum={commit} {git_url} /kept
        ADD --chown=3:4 --chmod=700 {git_url} /owned
        ADD --exclude=deep {git_url} /less/
        """
    )
    files = bench.files()
    everything = ["deep", "deep/er", "deep/er/file", "plain"]
    assert files.below("/all") == files.below("/slash") == files.below("/owned") == everything
    assert files.below("/part") == ["er", "er/file"]
    assert files.below("/less") == ["plain"]
    assert files.text("/kept/.git/HEAD") == f"{commit}\n"
    assert files.metadata("/owned")[:3] == (0o700, 3, 4)
    assert (files.mode("/all"), files.mode("/slash"), files.mode("/all/plain")) == (0o755, 0o755, 0o644)


def test_a_repository_that_moves_runs_what_needs_it(bench: Workbench, repository: Repository, git_url: str) -> None:
    repository.commit({"a": "1", "b": "1"})
    bench.dockerfile(
        f"""
        FROM scratch AS source
        ADD {git_url} /
        FROM scratch
        COPY --from=source /a /
        """
    )
    assert bench.files().text("/a") == "1"
    assert bench.build().ran == []
    repository.commit({"b": "2"})
    assert not [step for step in bench.build().ran if "COPY" in step]
    repository.commit({"a": "2"})
    assert bench.files().text("/a") == "2"


def test_a_repository_that_is_not_there_names_its_line(bench: Workbench, repository: Repository, git_url: str) -> None:
    repository.commit({"a": "1"})
    bench.dockerfile(f"FROM scratch\nADD {git_url}#nope /a\n")
    printed = bench.fail()
    assert "Dockerfile:2" in printed
    assert f"ERROR: failed to build: repository {git_url} does not contain ref nope" in printed


# --- contexts -------------------------------------------------------------------------------------------------------


def test_a_repository_as_the_context(bench: Workbench, repository: Repository, git_url: str) -> None:
    repository.commit(
        {
            "Dockerfile": "FROM scratch\nCOPY . /c/\n",
            "other.Dockerfile": "FROM scratch\nCOPY sub/a /only\n",
            "sub/Dockerfile": "FROM scratch\nCOPY . /s/\n",
            "sub/a": "1",
            # As in BuildKit, it is for folders of the machine that builds.
            ".dockerignore": "*\n",
        }
    )
    everything = [".dockerignore", "Dockerfile", "other.Dockerfile", "sub", "sub/Dockerfile", "sub/a"]
    assert build_from(bench, git_url).below("/c") == everything
    assert build_from(bench, git_url, "-f", "other.Dockerfile").below("/") == ["only"]
    assert build_from(bench, git_url, "-f", "sub/Dockerfile").below("/s") == everything
    assert build_from(bench, f"{git_url}#main:sub").below("/s") == ["Dockerfile", "a"]
    own = bench.write("own", "FROM scratch\nCOPY sub/a /own\n")
    assert build_from(bench, git_url, "-f", own).below("/") == ["own"]
    kept = build_from(bench, git_url, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1")
    assert "/c/.git/HEAD" in kept


def test_an_unchanged_repository_as_the_context_is_cached(
    bench: Workbench, repository: Repository, git_url: str
) -> None:
    repository.commit({"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"})
    build_from(bench, git_url)
    build = bench.stagewright.build(git_url, "-o", "type=cacheonly")
    assert build.ran == []
    assert build.step("load git source").cached
    repository.commit({"b": "1"})
    build = bench.stagewright.build(git_url, "-o", "type=cacheonly")
    assert build.ran == []


def test_a_dockerfile_in_lower_case(bench: Workbench, repository: Repository, git_url: str) -> None:
    repository.commit({"sub/dockerfile": "FROM scratch\nCOPY sub/dockerfile /\n"})
    assert build_from(bench, git_url, "-f", "sub/Dockerfile").below("/") == ["dockerfile"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "failed to read Dockerfile: open Dockerfile: no such file or directory"),
        (("-f", "sub"), "failed to read Dockerfile: sub in the build context is not a file"),
        (("-f", "out"), "failed to read Dockerfile: open out: no such file or directory"),
        (("-f", "../../x"), "failed to read Dockerfile: open ../../x: no such file or directory"),
    ],
)
def test_a_context_without_the_dockerfile(
    bench: Workbench, repository: Repository, git_url: str, flags: tuple[str, ...], message: str
) -> None:
    secret = bench.write("secret", "FROM scratch\n")
    (repository.folder / "out").symlink_to(secret)
    repository.commit({"sub/a": "1"})
    printed = failure_of(bench, git_url, *flags)
    assert f"ERROR: failed to build: {message}" in printed


def test_an_error_in_a_remote_dockerfile_shows_its_lines(
    bench: Workbench, repository: Repository, git_url: str
) -> None:
    repository.commit({"Dockerfile": "FROM scratch\nCOPY nope /\n"})
    printed = failure_of(bench, git_url)
    assert "Dockerfile:2" in printed and ">>> COPY nope /" in printed


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_as_the_context(bench: Workbench, server: ScriptedServer, mode: str) -> None:
    files = {"Dockerfile": "FROM scratch\nCOPY . /c/\n", "sub/a": "1", ".dockerignore": "*"}
    url = serve(server, "context", tar_of(files, mode), etag='"one"')
    assert build_from(bench, url).below("/c") == [".dockerignore", "Dockerfile", "sub", "sub/a"]
    build = bench.stagewright.build(url, "-o", "type=cacheonly")
    assert build.ran == []
    assert server.asked("GET") == ["/context"]


def test_an_archive_compressed_by_zstd(bench: Workbench, server: ScriptedServer) -> None:
    plain = tar_of({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    packed = subprocess.run(["zstd", "-q"], input=plain, capture_output=True, check=True).stdout
    assert build_from(bench, serve(server, "context.tar.zst", packed)).below("/") == ["Dockerfile"]


def test_a_text_is_the_dockerfile(bench: Workbench, server: ScriptedServer) -> None:
    url = serve(server, "any.txt", b"FROM scratch\nCOPY context /c\n")
    assert build_from(bench, url, "-f", "ignored").text("/c").startswith("FROM scratch")
    url = serve(server, "bad.txt", b"FROM scratch\nNOPE\n")
    assert f"{url}:2" in failure_of(bench, url)


def test_a_dockerfile_from_a_url(bench: Workbench, server: ScriptedServer) -> None:
    bench.write("file", "content")
    url = serve(server, "anything", b"FROM scratch\nCOPY file /f\n", etag='"1"')
    assert bench.files("-f", url).text("/f") == "content"
    repeated = bench.build("-f", url)
    assert repeated.ran == []
    hidden = url.replace("://", "://user:password@")
    serve(server, "anything", b"FROM scratch\nNOPE\n")
    failure = bench.fail("-f", hidden)
    assert "/anything:2" in failure
    assert "password" not in failure


@pytest.mark.parametrize(("size", "message"), [(600 << 10, " is larger than 512 KiB"), (None, "not found")])
def test_a_dockerfile_from_a_url_that_is_none(
    bench: Workbench, server: ScriptedServer, size: int | None, message: str
) -> None:
    url = f"{server.url}/missing" if size is None else serve(server, "large", b"#" * size)
    assert message in bench.fail("-f", url)


def test_a_hostile_archive_as_the_context(bench: Workbench, server: ScriptedServer) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(bench.scratch)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("out/trapped"))
        tar.addfile(tarfile.TarInfo("../trapped"))
        dockerfile = tarfile.TarInfo("Dockerfile")
        dockerfile.size = 13
        tar.addfile(dockerfile, io.BytesIO(b"FROM scratch\n"))
    url = serve(server, "c.tar", out.getvalue())
    failed = bench.stagewright.build(url, "-o", "type=cacheonly", check=False)
    assert "Traceback" not in failed.stderr
    assert not (bench.scratch / "trapped").exists()


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("nonsense", "the build context nonsense is not a folder"),
        ("file:///etc", "the build context file:///etc is not a folder"),
        ("ext::sh", "the build context ext::sh is not a folder"),
        ("git@127.0.0.1:x", "git@127.0.0.1:x: no SSH key 'default' forwarded from the client"),
        ("https://example.com/r.git?nope=1", 'unexpected query "nope"'),
        ("https://example.com/r.git#--upload-pack=x", '"--upload-pack=x" cannot be the name of a git branch, tag or'),
    ],
)
def test_contexts_that_are_none(bench: Workbench, context: str, message: str) -> None:
    assert f"ERROR: failed to build: {message}" in failure_of(bench, context)


def test_named_contexts(bench: Workbench, repository: Repository, git_url: str, server: ScriptedServer) -> None:
    repository.commit({"a": "1", "sub/b": "2"})
    file = serve(server, "file.txt", b"hello\n")
    bench.dockerfile(
        """
        FROM base
        COPY --from=files /context /from-url
        COPY --from=repo /a /from-git
        """
    )
    found = bench.files(
        "--build-context", f"base={git_url}#main:sub",
        "--build-context", f"files={file}",
        "--build-context", f"repo={git_url}",
    )  # fmt: skip
    assert found.below("/") == ["b", "from-git", "from-url"]
    assert found.text("/from-url") == "hello\n"


# --- the Dockerfile of this machine ---------------------------------------------------------------------------------


def test_a_dockerfile_through_a_pipe_that_is_written_later(bench: Workbench) -> None:
    pipe = bench.scratch / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        pipe.write_text("FROM scratch\nCOPY a /\n")

    bench.write("a", "1")
    writer = threading.Thread(target=write)
    writer.start()
    assert bench.files("-f", pipe).below("/") == ["a"]
    writer.join()


def test_a_dockerfile_that_nobody_comes_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "_PATIENCE_MS", 0)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError) as caught:
        definition.read_file(str(pipe), "Dockerfile", threading.Event())
    assert caught.value.message == f"the Dockerfile {pipe} is a pipe that nobody writes to"


def test_a_writer_may_take_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has opened the pipe is waited for, however long he is silent."""
    monkeypatch.setattr(definition, "_PATIENCE_MS", 0)
    monkeypatch.setattr(definition, "_LOOK_INTERVAL_MS", 0)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    looked = 0

    class Canceled(threading.Event):
        def is_set(self) -> bool:
            nonlocal looked, writer
            looked += 1
            if looked == 1:
                writer = os.open(pipe, os.O_WRONLY)
            if looked == 50:
                os.write(writer, b"FROM scratch\n")
                os.close(writer)
            return False

    writer = -1
    assert definition.read_file(str(pipe), "Dockerfile", Canceled()) == b"FROM scratch\n"


def test_a_dockerfile_that_nobody_writes_does_not_keep_a_canceled_build(bench: Workbench) -> None:
    pipe = bench.scratch / "pipe"
    os.mkfifo(pipe)
    process = bench.start("-f", pipe)
    # It opens once the build reads.
    writer = os.open(pipe, os.O_WRONLY)
    try:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(writer)
    assert process.returncode == 130
