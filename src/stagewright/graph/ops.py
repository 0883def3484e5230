"""The ops that a vertex can be: the same model as BuildKit's LLB, as frozen data.

`identity()` of an op is what its digest covers, as JSON-able data. What must not change a cache key (proxy variables,
display names) is left out of it.
"""

from __future__ import annotations

from typing import Any, Literal

from stagewright.records import dataclass

MountKind = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]
Network = Literal["default", "host", "none"]
Security = Literal["sandbox", "insecure"]


@dataclass(frozen=True, slots=True)
class SourceOp:
    """Where an input comes from.

    `identifier` is `docker-image://REF@DIGEST`, `local://NAME`, `git://...`, `https://...` or `oci-layout://...`;
    `attrs` are the source's own options (sorted by name).
    """

    identifier: str
    attrs: tuple[tuple[str, str], ...] = ()

    def identity(self) -> Any:
        return ["source", self.identifier, self.attrs]


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a step. The root is the mount at `/`, whose changes are the step's output.

    `input` is an index into the vertex's inputs (None: empty, or nothing to mount from); `selector` is the path inside
    it. `id`, `sharing` are a cache mount's; `id`, `required`, `env` a secret's (`env` is the variable that gets the
    value, `target` may then be empty); `mode`, `uid`, `gid` apply to cache folders, secrets and SSH sockets.
    `size` is a tmpfs's limit in bytes (None: no limit).
    """

    kind: MountKind
    target: str
    input: int | None = None
    selector: str = ""
    readonly: bool = False
    id: str = ""
    sharing: Sharing = "shared"
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size: int | None = None

    def identity(self) -> Any:
        return [
            self.kind, self.target, self.input, self.selector, self.readonly, self.id, self.sharing, self.required,
            self.env, self.mode, self.uid, self.gid, self.size,
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExecOp:
    """A process run on a root filesystem. `env` is `NAME=value` strings, `ulimits` are (name, soft, hard).

    `proxy_env` is given to the process but is no part of what the step is.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    mounts: tuple[Mount, ...]
    user: str = ""
    hostname: str = ""
    extra_hosts: tuple[tuple[str, str], ...] = ()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    shm_size: int = 0
    network: Network = "default"
    security: Security = "sandbox"
    proxy_env: tuple[str, ...] = ()

    def identity(self) -> Any:
        return [
            "exec", self.args, self.env, self.cwd, [mount.identity() for mount in self.mounts], self.user,
            self.hostname, self.extra_hosts, self.ulimits, self.shm_size, self.network, self.security,
        ]  # fmt: skip

    @property
    def secrets(self) -> tuple[str, ...]:
        """The IDs of the secrets that the process gets, each once."""
        return tuple(dict.fromkeys(mount.id for mount in self.mounts if mount.kind == "secret"))


@dataclass(frozen=True, slots=True)
class CopyAction:
    """Copy paths of an input into the result.

    `input` indexes the vertex's inputs. `source` is a path inside it, perhaps with Go wildcards (`wildcard`). `dest`
    is an absolute path in the result; one that ends in `/` is a folder. `owner` is `user[:group]`, names or numbers, as
    looked up in the result's own files (empty: keep for stages, 0:0 for a context); `mode` is an octal number or a
    symbolic expression. Of a source folder what is in it is copied. `unpack` unpacks local archives. `optional` lets a
    wildcard match nothing. `includes` and `excludes` are patterns as in .dockerignore, compared with paths relative to
    the source folder: what is copied has to match the first, if there are any, and not the second. `required` are
    paths inside the input that have to exist. `mtime` is the time of all that is written, in seconds since the epoch
    (None: the files' own). With `folder_itself` a destination that does not exist yet gets the mode of the source
    folder.
    """

    input: int
    source: str
    dest: str
    owner: str = ""
    mode: str = ""
    wildcard: bool = True
    unpack: bool = False
    optional: bool = False
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    mtime: int | None = None
    folder_itself: bool = False

    def identity(self) -> Any:
        return [
            "copy", self.input, self.source, self.dest, self.owner, self.mode, self.wildcard, self.unpack,
            self.optional, self.includes, self.excludes, self.required, self.mtime, self.folder_itself,
        ]  # fmt: skip

    def selection(self) -> Any:
        """What tells which files of the input are copied, wherever they go; can be hashed."""
        return self.source, self.wildcard, self.optional, self.includes, self.excludes, self.required


@dataclass(frozen=True, slots=True)
class MkfileAction:
    """Write a file of `data` at the absolute path `path`; `mtime` is seconds since the epoch, None for now."""

    path: str
    data: bytes
    mode: int = 0o644
    owner: str = ""
    mtime: int | None = None

    def identity(self) -> Any:
        return ["mkfile", self.path, self.data.hex(), self.mode, self.owner, self.mtime]


@dataclass(frozen=True, slots=True)
class MkdirAction:
    """Make a folder, and its parents where they are missing; one that exists stays as it is.

    `mtime` is seconds since the epoch, None for now.
    """

    path: str
    mode: int = 0o755
    owner: str = ""
    mtime: int | None = None

    def identity(self) -> Any:
        return ["mkdir", self.path, self.mode, self.owner, self.mtime]


FileAction = CopyAction | MkfileAction | MkdirAction


@dataclass(frozen=True, slots=True)
class FileOp:
    """File actions on top of a base, done in order. `base` indexes the vertex's inputs; None starts from nothing."""

    actions: tuple[FileAction, ...]
    base: int | None = 0

    def identity(self) -> Any:
        return ["file", self.base, [action.identity() for action in self.actions]]


@dataclass(frozen=True, slots=True)
class MergeOp:
    """The inputs' changes laid on top of each other, the first lowest."""

    def identity(self) -> Any:
        return ["merge"]


Op = SourceOp | ExecOp | FileOp | MergeOp
