"""Which texts name a git repository, and what they ask of it: BuildKit's rules, row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.dockerfile.giturl import GitRef, is_commit, parse_git_ref
from stagewright.errors import DockerfileError

SHA = "0123456789abcdef0123456789abcdef01234567"


def parsed(text: str, *, bare_hosts: bool = False) -> GitRef:
    ref = parse_git_ref(text, bare_hosts=bare_hosts)
    assert ref is not None
    return ref


@pytest.mark.parametrize(
    ("text", "remote", "scheme", "host", "path"),
    [
        ("https://example.com/o/r.git", "https://example.com/o/r.git", "https", "example.com", "/o/r.git"),
        ("HTTPS://example.com/r.git", "https://example.com/r.git", "https", "example.com", "/r.git"),
        ("http://example.com:8080/r.git", "http://example.com:8080/r.git", "http", "example.com:8080", "/r.git"),
        ("https://u:p@example.com/r.git", "https://u:p@example.com/r.git", "https", "example.com", "/r.git"),
        ("https://example.com/r%2egit", "https://example.com/r%2egit", "https", "example.com", "/r%2egit"),
        ("git://example.com/any", "git://example.com/any", "git", "example.com", "/any"),
        ("ssh://git@example.com:2222/any", "ssh://git@example.com:2222/any", "ssh", "example.com:2222", "/any"),
        ("git@example.com:o/r", "git@example.com:o/r", "ssh", "example.com", "o/r"),
        ("some-user_1@10.0.0.1:/abs/r.git", "some-user_1@10.0.0.1:/abs/r.git", "ssh", "10.0.0.1", "/abs/r.git"),
    ],
)
def test_repositories(text: str, remote: str, scheme: str, host: str, path: str) -> None:
    assert parsed(text) == GitRef(remote, scheme, host, path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/r",
        "https://example.com/r.git/x",
        "https://example.com/r.gitx",
        "https://example.com/x?file=r.git",
        "https://example.com/x#r.git",
        "file:///srv/r.git",
        "ext::sh -c id",
        "ext://example.com/r.git",
        "ftp://example.com/r.git",
        "./git@example.com:r",
        "../r.git",
        "r.git",
        "host:path",
        "a b@host:path",
        "github.com/o/r",
        "",
    ],
)
def test_what_is_none(text: str) -> None:
    assert parse_git_ref(text) is None


def test_a_bare_host_is_one_where_it_may_be() -> None:
    assert parsed("github.com/o/r", bare_hosts=True).remote == "https://github.com/o/r"
    assert parsed("github.com/o/r#v1:sub", bare_hosts=True).ref == "v1"
    assert parse_git_ref("gitlab.com/o/r", bare_hosts=True) is None
    assert parse_git_ref("./github.com/o/r", bare_hosts=True) is None


@pytest.mark.parametrize(
    ("behind", "ref", "subdir"),
    [
        ("", "", ""),
        ("#", "", ""),
        ("#main", "main", ""),
        ("#feature/x", "feature/x", ""),
        ("#main:", "main", ""),
        ("#:sub", "", "sub"),
        ("#main:sub/dir", "main", "sub/dir"),
        ("#main:/sub/", "main", "sub"),
        ("#main:./sub/../other", "main", "other"),
        ("#main:../../etc", "main", "etc"),
        ("#main:a:b", "main", "a:b"),
        ("#pull/42/head", "pull/42/head", ""),
        (f"#{SHA}", SHA, ""),
        ("?ref=main", "main", ""),
        ("?ref=main#main", "main", ""),
        ("?branch=main", "refs/heads/main", ""),
        ("?branch=refs/heads/main", "refs/heads/main", ""),
        ("?tag=v1", "refs/tags/v1", ""),
        ("?tag=v1&subdir=a/b", "refs/tags/v1", "a/b"),
        ("?subdir=sub#main", "main", "sub"),
        ("?subdir=sub#main:sub", "main", "sub"),
        ("?branch=a%2Fb", "refs/heads/a/b", ""),
    ],
)
def test_refs_and_folders(behind: str, ref: str, subdir: str) -> None:
    for url in ("https://example.com/r.git", "git@example.com:r", "ssh://example.com/r"):
        found = parsed(url + behind)
        assert (found.ref, found.subdir) == (ref, subdir)
        assert "#" not in found.remote and "?" not in found.remote


@pytest.mark.parametrize(
    ("query", "keep_git_dir", "submodules", "checksum", "ref"),
    [
        ("checksum=abc123", None, None, "abc123", "abc123"),
        ("commit=abc123&tag=v1", None, None, "abc123", "refs/tags/v1"),
        ("keep-git-dir", True, None, "", ""),
        ("keep-git-dir=1", True, None, "", ""),
        ("keep-git-dir=false", False, None, "", ""),
        ("submodules=0", None, False, "", ""),
        ("submodules", None, True, "", ""),
    ],
)
def test_queries(query: str, keep_git_dir: bool | None, submodules: bool | None, checksum: str, ref: str) -> None:
    found = parsed(f"https://example.com/r.git?{query}")
    assert (found.keep_git_dir, found.submodules, found.checksum, found.ref) == (
        keep_git_dir,
        submodules,
        checksum,
        ref,
    )


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        ("?ref", 'query "ref" has no value'),
        ("?ref=a&ref=b", 'query "ref" has multiple values'),
        ("?depth=1", 'unexpected query "depth"'),
        ("?ref=a#b", 'ref conflicts: "b" vs "a"'),
        ("?branch=a#a", 'ref conflicts: "a" vs "refs/heads/a"'),
        ("?tag=a&branch=a", "branch conflicts with tag"),
        ("?subdir=a#m:b", 'subdir conflicts: "b" vs "a"'),
        ("?keep-git-dir=maybe", 'invalid keep-git-dir value: "maybe"'),
        ("?submodules=maybe", 'invalid submodules value: "maybe"'),
        ("?checksum=xyz", "invalid checksum xyz for Git URL, expected hex commit hash"),
        ("#--upload-pack=id", '"--upload-pack=id" cannot be the name of a git branch, tag or commit'),
        ("#a..b", '"a..b" cannot be the name of a git branch, tag or commit'),
        ("#a^{commit}", '"a^{commit}" cannot be the name of a git branch, tag or commit'),
        ("?ref=a:refs/heads/b", '"a:refs/heads/b" cannot be the name of a git branch, tag or commit'),
        ("?ref=a%0Ab", '"a\\nb" cannot be the name of a git branch, tag or commit'),
        ("?ref=*", '"*" cannot be the name of a git branch, tag or commit'),
        ("#x.lock", '"x.lock" cannot be the name of a git branch, tag or commit'),
    ],
)
def test_what_cannot_be_asked_for(behind: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_git_ref(f"https://example.com/r.git{behind}")
    assert caught.value.message == message


@pytest.mark.parametrize(
    "text",
    [
        "git@-oProxyCommand=id:r",
        "ssh://-oProxyCommand=id/r",
        "git@example.com:-oProxyCommand=id",
        "ssh://git@-oProxyCommand=id/r",
        "git://exa\nmple.com/r",
        "https://example.com/a b.git",
    ],
)
def test_urls_that_a_command_line_could_mistake(text: str) -> None:
    try:
        found = parse_git_ref(text)
    except DockerfileError as error:
        assert error.message.startswith("the git URL ")
    else:
        # Then it is no repository at all, and nothing will hand it to git.
        assert found is None


def test_commits() -> None:
    assert is_commit(SHA) and is_commit("f" * 64)
    assert not any(map(is_commit, (SHA[:-1], SHA.upper(), SHA + "0", "main", "")))


@given(st.text(max_size=60))
def test_any_text_is_a_repository_or_none_or_refused(text: str) -> None:
    for prefix in ("", "https://example.com/r.git", "git@example.com:r", "git://"):
        try:
            found = parse_git_ref(prefix + text)
        except DockerfileError:
            continue
        assert found is None or (not found.ref.startswith("-") and not found.subdir.startswith(("/", "..")))
