"""Sources that only the network can give: URLs and git repositories, as vertices for ADD and for build contexts.

A vertex made here names what the user named; what that means now (a commit, a digest) is found out when its key is
made (`stagewright.sources.remote`), so that a definition of it is pure data. Its result is a snapshot whose files
belong to 0:0: a URL's is one file, a repository's are those of the commit.

A build context of these kinds is such a vertex, too: COPY reads it as it reads a stage. As in BuildKit, an ignore file
in it counts for nothing: it keeps files of this machine from a build, not those that a repository or an archive has.
"""

from __future__ import annotations

import posixpath

from stagewright.dockerfile.giturl import GitRef, parse_git_ref
from stagewright.errors import DockerfileError
from stagewright.graph.ops import CopyAction, FileOp, SourceOp
from stagewright.graph.vertex import Metadata, Vertex
from stagewright.patterns import pattern
from stagewright.redaction import redact_url

HTTP_SCHEMES = ("http://", "https://")
# What the file of a context from a URL is called, and that of a URL that names no file.
CONTEXT_FILE = "context"
_UNNAMED = "__unnamed__"
_CHECKSUM = pattern(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


def is_url(text: str) -> bool:
    """Whether a source is a file behind a URL, and no git repository."""
    return text.startswith(HTTP_SCHEMES) and parse_git_ref(text) is None


def is_remote(text: str) -> bool:
    """Whether a source is none of the build context's files, but a URL or a git repository, however malformed."""
    try:
        return text.startswith(HTTP_SCHEMES) or parse_git_ref(text) is not None
    except DockerfileError:
        return True


def context_source(text: str, *, name: str = "", keep_git_dir: bool = False) -> Vertex | None:
    """The vertex of the build context that a URL or a git repository is, None where `text` is neither.

    `name` is a named context's. A URL's file is called CONTEXT_FILE: whether it is an archive (see `unpacked`) or a
    Dockerfile shows only when it is there. Raises DockerfileError for a repository with impossible options.
    """
    ref = parse_git_ref(text, bare_hosts=not name)
    shown = redact_url(text)
    if ref is not None:
        return git_source(ref, Metadata(f"[internal] load git source {shown}"), keep_git_dir=keep_git_dir)
    if text.startswith(HTTP_SCHEMES):
        title = f"[context {name}] {shown}" if name else "[internal] load remote build context"
        return http_source(text, Metadata(title), filename=CONTEXT_FILE)
    return None


def is_archive_context(context: Vertex) -> bool:
    """Whether a context's vertex is a URL's, whose only file may be an archive with the files of the context."""
    return isinstance(context.op, SourceOp) and context.op.identifier.startswith(HTTP_SCHEMES)


def unpacked(source: Vertex, filename: str = CONTEXT_FILE) -> Vertex:
    """What is in the archive that a source's only file is."""
    action = CopyAction(0, filename, "/", wildcard=False, unpack=True)
    return Vertex(FileOp((action,), base=None), (source,), meta=Metadata("[internal] unpack build context"))


def git_source(ref: GitRef, meta: Metadata, *, keep_git_dir: bool = False, checksum: str = "") -> Vertex:
    """The files of a repository. `keep_git_dir` and `checksum` add to what the reference itself says."""
    path = posixpath.normpath("/" + ref.path.lstrip("/"))
    fragment = f"#{ref.ref}:{ref.subdir}" if ref.subdir else f"#{ref.ref}" if ref.ref else ""
    attrs = {"git.fullurl": ref.remote, "git.ref": ref.ref, "git.subdir": ref.subdir}
    if keep_git_dir or ref.keep_git_dir:
        attrs["git.keepgitdir"] = "true"
    if checksum or ref.checksum:
        attrs["git.checksum"] = checksum or ref.checksum
    if ref.submodules is False:
        attrs["git.skipsubmodules"] = "true"
    if ref.scheme == "ssh":
        attrs["git.mountsshsock"] = "default"
    return Vertex(SourceOp(f"git://{ref.host}{path}{fragment}", tuple(sorted(attrs.items()))), meta=meta)


def http_source(url: str, meta: Metadata, *, filename: str, checksum: str = "") -> Vertex:
    """The one file behind a URL, under the name `filename`; `checksum` is the digest that it must have."""
    attrs = {"http.filename": filename}
    if checksum:
        attrs["http.checksum"] = checksum
    return Vertex(SourceOp(url, tuple(sorted(attrs.items()))), meta=meta)


def is_checksum(text: str) -> bool:
    """Whether a text is a digest that the file behind a URL can be compared with."""
    return _CHECKSUM.fullmatch(text) is not None


def filename_of(url: str) -> str:
    """What ADD calls the file behind a URL: the last part of its path; nothing else is looked at, as in BuildKit."""
    from urllib.parse import unquote, urlsplit

    try:
        path = unquote(urlsplit(url).path, errors="surrogateescape")
    except ValueError:
        return _UNNAMED
    name = posixpath.basename(path.rstrip("/"))
    return _UNNAMED if name in ("", ".", "..") or "\0" in name else name
