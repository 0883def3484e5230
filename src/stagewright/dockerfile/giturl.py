"""Git repositories as ADD and build contexts name them: which texts are one, and what they ask for.

The rules are BuildKit's: `https://HOST/PATH.git`, `http://...git`, `git://`, `ssh://`, `USER@HOST:PATH` and, where a
folder cannot be meant, `github.com/OWNER/NAME`; behind it `#REF:SUBDIR` or the query form `?branch=...&subdir=...`.
"""

from __future__ import annotations

import posixpath
from typing import Literal, cast

from stagewright.dockerfile.golang import parse_bool, quote
from stagewright.errors import DockerfileError
from stagewright.patterns import pattern
from stagewright.records import dataclass, replace
from stagewright.redaction import redact_url

Scheme = Literal["http", "https", "ssh", "git"]

_SCHEME = pattern(r"([a-zA-Z0-9]+)://")
_SCP = pattern(r"([a-zA-Z0-9-_]+)@([a-zA-Z0-9-.]+):(.*?)(?:\?(.*?))?(?:#(.*))?")
_COMMIT = pattern(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HEX = pattern(r"[0-9a-fA-F]+")
# What git check-ref-format forbids, and what the command line would take for an option or several words.
_BAD_REF = pattern(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^[-/.]|/\.|//|[/.]$|\.lock(?:/|$)")
_CONTROL = pattern(r"[\x00-\x20\x7f]")
_FLAGS = ("submodules", "keep-git-dir")


@dataclass(frozen=True, slots=True)
class GitRef:
    """A place in a git repository.

    `remote` is what git is told to fetch from; `host` and `path` are parts of it (`host` with its port). `ref` is a
    branch, tag or commit ("" for the default branch), `subdir` a folder in it, `checksum` the beginning of the commit
    that it must be. `keep_git_dir` and `submodules` are None where the text does not say.
    """

    remote: str
    scheme: Scheme
    host: str
    path: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None


def parse_git_ref(text: str, *, bare_hosts: bool = False) -> GitRef | None:
    """The repository that `text` names, None where it names none.

    With `bare_hosts` `github.com/...` is one, too: only for build contexts, and where no folder has that name. Raises
    DockerfileError for a repository with options that are unknown, contradict each other, or that no git may be given.
    """
    if text.startswith(("./", "../")):
        return None
    if bare_hosts and text.startswith("github.com/"):
        return _from_url(f"https://{text}", "https")
    scheme = _SCHEME.match(text)
    if scheme is not None:
        name = scheme.group(1).lower()
        if name not in ("http", "https", "ssh", "git"):
            return None
        if name in ("http", "https") and not _path_of(text).endswith(".git"):
            return None
        return _from_url(text, cast(Scheme, name))
    found = _SCP.fullmatch(text)
    if found is None:
        return None
    user, host, path, query, fragment = (part or "" for part in found.groups())
    if text.startswith("-") or host.startswith("-"):
        raise DockerfileError("a git repository must not begin with a dash, which programs take for an option")
    return _complete(GitRef(f"{user}@{host}:{path}", "ssh", host, path), query, fragment)


def is_commit(ref: str) -> bool:
    """Whether a ref is a whole commit hash, which no server needs to be asked for."""
    return _COMMIT.fullmatch(ref) is not None


def check_commit(checksum: str) -> None:
    """Raise DockerfileError where a checksum, if there is one, is not the beginning of a commit's hash."""
    if checksum and not _HEX.fullmatch(checksum):
        raise DockerfileError(f"invalid checksum {checksum} for Git URL, expected hex commit hash")


def is_ref_name(ref: str) -> bool:
    """Whether git can have a branch or tag of that name, and no command line takes it for something else."""
    return _BAD_REF.search(ref) is None


def _path_of(url: str) -> str:
    from urllib.parse import unquote

    return unquote(url.partition("#")[0].partition("?")[0].partition("://")[2].partition("/")[2])


def _from_url(text: str, scheme: Scheme) -> GitRef:
    from urllib.parse import unquote

    rest, _, fragment = text.partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("://")[2].partition("/")
    ref = GitRef(f"{scheme}://{authority}{slash}{path}", scheme, authority.rpartition("@")[2], slash + path)
    return _complete(ref, query, unquote(fragment))


def _complete(ref: GitRef, query: str, fragment: str) -> GitRef:
    """The reference with what stands behind its URL. Raises DockerfileError."""
    name, _, subdir = fragment.partition(":")
    ref = _with_query(replace(ref, ref=name, subdir=subdir), query)
    if ref.host.startswith("-") or ref.path.startswith("-") or _CONTROL.search(ref.remote):
        raise DockerfileError(f"the git URL {quote(redact_url(ref.remote))} cannot be used", hint="is it misspelt?")
    if ref.ref and not is_ref_name(ref.ref):
        raise DockerfileError(f"{quote(ref.ref)} cannot be the name of a git branch, tag or commit")
    check_commit(ref.checksum)
    # Nothing above the repository's root can be meant.
    inside = posixpath.normpath("/" + ref.subdir).lstrip("/")
    return replace(ref, subdir=inside)


def _with_query(ref: GitRef, query: str) -> GitRef:
    if not query:
        return ref
    from urllib.parse import parse_qs

    tag = branch = ""
    for name, values in parse_qs(query, keep_blank_values=True).items():
        if len(values) > 1:
            raise DockerfileError(f"query {quote(name)} has multiple values")
        value = values[0]
        if not value and name not in _FLAGS:
            raise DockerfileError(f"query {quote(name)} has no value")
        match name:
            case "ref":
                ref = replace(ref, ref=_agreed("ref", ref.ref, value))
            case "subdir":
                ref = replace(ref, subdir=_agreed("subdir", ref.subdir, value))
            case "tag":
                tag = "refs/tags/" + value.removeprefix("refs/tags/")
            case "branch":
                branch = "refs/heads/" + value.removeprefix("refs/heads/")
            case "checksum" | "commit":
                ref = replace(ref, checksum=value)
            case "keep-git-dir":
                ref = replace(ref, keep_git_dir=_flag(name, value))
            case "submodules":
                ref = replace(ref, submodules=_flag(name, value))
            case _:
                raise DockerfileError(f"unexpected query {quote(name)}")
    if tag and branch:
        raise DockerfileError("branch conflicts with tag")
    wanted = tag or branch
    if wanted:
        ref = replace(ref, ref=_agreed("ref", ref.ref, wanted))
    return replace(ref, ref=ref.ref or ref.checksum)


def _agreed(what: str, known: str, value: str) -> str:
    if known and known != value:
        raise DockerfileError(f"{what} conflicts: {quote(known)} vs {quote(value)}")
    return value


def _flag(name: str, value: str) -> bool:
    try:
        return parse_bool(value) if value else True
    except ValueError:
        raise DockerfileError(f"invalid {name} value: {quote(value)}") from None
