"""ADD of URLs and git repositories, and contexts that are one: the vertices that they make."""

from __future__ import annotations

from typing import Any

import pytest
from frontend_world import build, copies, history, names, vertices

from stagewright.errors import DockerfileError
from stagewright.frontend.remote import context_source, is_archive_context, unpacked
from stagewright.graph.ops import CopyAction, FileOp, SourceOp
from stagewright.graph.vertex import Vertex

URL = "https://example.com/a/file.txt"
REPOSITORY = "https://example.com/o/r.git"
SHA256 = "sha256:" + "0" * 64


def sources(text: str, **options: Any) -> list[SourceOp]:
    """The remote sources of a Dockerfile."""
    ops = [vertex.op for vertex in vertices(build(text, **options))]
    return [op for op in ops if isinstance(op, SourceOp) and not op.identifier.startswith(("docker-image", "local"))]


def source(line: str, **options: Any) -> SourceOp:
    (found,) = sources(f"FROM a\n{line}", **options)
    return found


def action(line: str) -> CopyAction:
    return copies(build(f"FROM a\n{line}"))[-1]


def refused(text: str) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        build(text)
    assert caught.value.location is not None
    return caught.value


# --- URLs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.com/a/file.txt", "file.txt"),
        ("https://example.com/a/file.txt?v=1#x", "file.txt"),
        ("https://example.com/a%20b.txt", "a b.txt"),
        ("https://example.com/dir/", "dir"),
        ("https://example.com/", "__unnamed__"),
        ("https://example.com", "__unnamed__"),
        ("https://example.com/..", "__unnamed__"),
        ("https://example.com/%2e%2e", "__unnamed__"),
        ("https://example.com/a%00b", "__unnamed__"),
        ("https://example.com/?file=x", "__unnamed__"),
    ],
)
def test_the_last_part_of_the_path_names_the_file(url: str, name: str) -> None:
    op = source(f"ADD {url} /")
    assert (op.identifier, dict(op.attrs)["http.filename"]) == (url, name)
    assert action(f"ADD {url} /").source == name


def test_a_url_is_one_file() -> None:
    found = action(f"ADD --chown=1:2 --chmod=640 {URL} /d/")
    assert found == CopyAction(1, "file.txt", "/d/", owner="1:2", mode="640", wildcard=False)


@pytest.mark.parametrize(("flag", "unpack"), [("", False), ("--unpack", True), ("--unpack=false", False)])
def test_a_url_is_unpacked_only_where_that_is_asked_for(flag: str, unpack: bool) -> None:
    assert action(f"ADD {flag} {URL} /d/").unpack is unpack


@pytest.mark.parametrize("checksum", [SHA256, "sha384:" + "a" * 96, "sha512:" + "b" * 128])
def test_checksums_of_urls(checksum: str) -> None:
    assert dict(source(f"ARG SUM={checksum}\nADD --checksum=$SUM {URL} /").attrs)["http.checksum"] == checksum


@pytest.mark.parametrize("checksum", ["sha256:0", "md5:" + "0" * 32, "0" * 64, "sha256:" + "A" * 64])
def test_malformed_checksums_of_urls(checksum: str) -> None:
    error = refused(f"FROM a\nADD --checksum={checksum} {URL} /")
    assert error.message == f"invalid checksum {checksum}"
    assert error.hint == "write it as sha256: and 64 hex digits"


def test_one_url_is_one_vertex() -> None:
    assert len(sources(f"FROM a\nADD {URL} {URL} /d/\nADD {URL} /e")) == 1


def test_sources_of_all_kinds_in_one_instruction() -> None:
    plan = build(f"FROM a\nADD local {URL} {REPOSITORY} /d/")
    assert [(item.input, item.source, item.unpack) for item in copies(plan)] == [
        (1, "local", True),
        (2, "file.txt", False),
        (3, "/", False),
    ]


def test_the_step_and_the_source_have_the_line_as_their_name() -> None:
    assert names(build(f"FROM a\nADD {URL} /d/"))[1:] == [f"[2/2] ADD {URL} /d/"] * 2


def test_credentials_are_in_no_name_and_no_history() -> None:
    plan = build("FROM a\nADD https://user:hunter2@example.com/x?token=hunter2 /d/")
    assert not any("hunter2" in name for name in names(plan))
    assert history(plan) == ["ADD https://***@example.com/x?token=*** /d/ # buildkit"]


# --- git repositories -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "identifier", "attrs"),
    [
        (
            f"ADD {REPOSITORY} /d",
            "git://example.com/o/r.git",
            {"git.fullurl": REPOSITORY, "git.ref": "", "git.subdir": ""},
        ),
        (
            f"ADD --keep-git-dir {REPOSITORY}#v1:sub /d",
            "git://example.com/o/r.git#v1:sub",
            {"git.fullurl": REPOSITORY, "git.ref": "v1", "git.subdir": "sub", "git.keepgitdir": "true"},
        ),
        (
            f"ADD --checksum=abc {REPOSITORY}?tag=v1&keep-git-dir&submodules=0 /d",
            "git://example.com/o/r.git#refs/tags/v1",
            {
                "git.fullurl": REPOSITORY,
                "git.ref": "refs/tags/v1",
                "git.subdir": "",
                "git.checksum": "abc",
                "git.keepgitdir": "true",
                "git.skipsubmodules": "true",
            },
        ),
        (
            "ADD git@example.com:o/r#:sub /d",
            "git://example.com/o/r#:sub",
            {"git.fullurl": "git@example.com:o/r", "git.ref": "", "git.subdir": "sub", "git.mountsshsock": "default"},
        ),
    ],
)
def test_repositories(line: str, identifier: str, attrs: dict[str, str]) -> None:
    assert source(line) == SourceOp(identifier, tuple(sorted(attrs.items())))


def test_all_of_a_repository_is_copied() -> None:
    assert action(f"ADD --chmod=700 {REPOSITORY} /d") == CopyAction(
        1, "/", "/d", mode="700", wildcard=False, folder_itself=True
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"ADD --keep-git-dir=false {REPOSITORY}?keep-git-dir /", "inconsistent keep-git-dir configuration"),
        (f"ADD --checksum=abc {REPOSITORY}?checksum=abd /", 'checksum mismatch "abc" != "abd"'),
        (f"ADD --checksum=xyz {REPOSITORY} /", "invalid checksum xyz for Git URL, expected hex commit hash"),
        (f"ADD {REPOSITORY}?nope=1 /", 'unexpected query "nope"'),
        (f"COPY {REPOSITORY}?nope=1 /", 'unexpected query "nope"'),
    ],
)
def test_what_a_repository_cannot_be_asked_for(line: str, message: str) -> None:
    assert refused(f"FROM a\n{line}").message == message


# --- contexts -------------------------------------------------------------------------------------------------------


def test_copy_reads_the_context_that_it_is_given() -> None:
    context = context_source(f"{REPOSITORY}#main:sub")
    assert context is not None
    plan = build("FROM a\nCOPY x /\nRUN --mount=target=/m true", context=context)
    found = [vertex for vertex in vertices(plan) if vertex.meta.name.startswith("[internal]")]
    assert found == [context]
    assert context.meta.name == f"[internal] load git source {REPOSITORY}#main:sub"


@pytest.mark.parametrize(
    ("text", "name", "identifier", "title"),
    [
        ("github.com/o/r", "", "git://github.com/o/r", "[internal] load git source github.com/o/r"),
        ("https://u:p@example.com/r.git", "", "git://example.com/r.git", "https://***@example.com/r.git"),
        ("https://example.com/c.tgz", "", "https://example.com/c.tgz", "[internal] load remote build context"),
        ("https://example.com/c.tgz", "files", "https://example.com/c.tgz", "[context files] https://example.com/c.tgz"),
    ],
)
def test_contexts(text: str, name: str, identifier: str, title: str) -> None:
    found = context_source(text, name=name)
    assert found is not None and isinstance(found.op, SourceOp)
    assert (found.op.identifier, title in found.meta.name) == (identifier, True)


@pytest.mark.parametrize("text", [".", "folder", "./git@host:path", "file:///x"])
def test_contexts_that_are_not_remote(text: str) -> None:
    assert context_source(text) is None


def test_a_bare_host_is_no_named_context() -> None:
    assert context_source("github.com/o/r", name="files") is None


def test_a_git_folder_in_a_context_is_kept_where_that_is_asked_for() -> None:
    kept = context_source(REPOSITORY, keep_git_dir=True)
    assert kept is not None and isinstance(kept.op, SourceOp)
    assert ("git.keepgitdir", "true") in kept.op.attrs


def test_an_archive_of_a_context_is_unpacked() -> None:
    context = context_source("https://example.com/c.tgz")
    assert context is not None and is_archive_context(context)
    found: Vertex = unpacked(context)
    assert found.op == FileOp((CopyAction(0, "context", "/", wildcard=False, unpack=True),), base=None)
    assert not is_archive_context(found)
