"""Git repositories: the commit that a name means now, and its files as a snapshot.

What is fetched is kept in one bare repository for each remote below the state directory, as shallow as the server
allows, so that the next commit costs what changed. Commits are fetched by their hash: a branch that moves after it was
resolved changes nothing. A checkout has a git directory of its own that borrows the objects, so that nothing of one
commit (where its submodules are, say) is left for another.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stagewright.dockerfile.giturl import is_commit, is_ref_name
from stagewright.errors import CanceledError, IntegrityError, NotFoundError, StagewrightError, UsageError
from stagewright.graph.ops import SourceOp
from stagewright.patterns import pattern
from stagewright.records import dataclass, replace
from stagewright.redaction import redact_url
from stagewright.snapshots.tree import remove_tree
from stagewright.sources.gitcheckout import Checkout, check_out
from stagewright.sources.gitcli import GitFailedError, GitRunner, failing

if TYPE_CHECKING:
    from stagewright.cache.locks import LockFile
    from stagewright.progress.reporter import Reporter
    from stagewright.snapshots.store import SnapshotStore

Secret = Callable[[str], bytes | None]

_DEFAULT_BRANCH = pattern(r"ref: refs/heads/(\S+)\tHEAD")
_KEPT = "refs/stagewright/"
# Where git keeps what people call a repository.
_DESCRIPTION = "description"
_POOR_SERVER = ("--depth", "shallow", "not our ref", "unadvertised object", "no such remote ref")
# Of these git speaks where files of a repository are not what it has written; then it is asked to look at all of them.
_SIGNS_OF_DAMAGE = ("corrupt", "bad ", "unable to read", "inflate", "pack", "not a git repo", "invalid", "missing")
# For these one token opens all repositories, so that submodules get it, too.
_GITHUB = ("https://github.com/", "https://www.github.com/")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What an op asks for, from its attributes. `url` is without credentials, which `login` has (USER:PASSWORD)."""

    url: str
    login: str
    ref: str
    subdir: str
    checksum: str
    keep_git_dir: bool
    submodules: bool
    ssh: str

    @classmethod
    def of(cls, op: SourceOp) -> _Wanted:
        """What the op asks for."""
        attrs = dict(op.attrs)
        url, login = attrs["git.fullurl"], ""
        scheme, mark, rest = url.partition("://")
        if scheme in ("http", "https") and mark:
            authority, slash, path = rest.partition("/")
            login, _, host = authority.rpartition("@")
            url = f"{scheme}://{host}{slash}{path}"
        return cls(
            url,
            login,
            ref=attrs.get("git.ref", ""),
            subdir=attrs.get("git.subdir", ""),
            checksum=attrs.get("git.checksum", ""),
            keep_git_dir="git.keepgitdir" in attrs and not attrs.get("git.subdir"),
            submodules="git.skipsubmodules" not in attrs,
            ssh=attrs.get("git.mountsshsock", ""),
        )

    @property
    def shown(self) -> str:
        """The URL for messages."""
        return redact_url(self.url)


@dataclass(frozen=True, slots=True)
class _Commit:
    """What a ref means now: the object (perhaps an annotated tag), the commit behind it, and the ref as asked for."""

    object: str
    commit: str
    ref: str

    @property
    def format(self) -> str:
        """The repository's object format."""
        return "sha256" if len(self.object) == 64 else "sha1"


def remote_of(store: Path) -> str:
    """Where a bare repository that a GitSource keeps is fetched from; "" where a killed build left none to fetch."""
    try:
        return (store / _DESCRIPTION).read_text(encoding="utf-8", errors="surrogateescape").strip()
    except FileNotFoundError:
        return ""


def lock_of(name: str) -> str:
    """The lock that whoever uses the bare repository of that name holds."""
    return f"git/{name}"


def wrong_with(store: Path, runner: GitRunner) -> str:
    """What git finds damaged in a bare repository; "" for nothing, or without a git."""
    try:
        runner.run("fsck", "--full", "--no-dangling", "--no-progress", git_dir=str(store))
    except GitFailedError as error:
        return (error.said or error.message).splitlines()[0]
    except NotFoundError:
        pass
    return ""


class GitSource:
    """Git repositories, kept below `folder`. Thread-safe.

    `env` is the process's environment. `secret` answers a build's secrets: GIT_AUTH_TOKEN and GIT_AUTH_HEADER, with
    `.HOST` behind them for one host alone, authorize requests over http and https. `ssh_socket` answers the agents of
    a build, of which ssh asks the one called default. `offline` forbids to ask servers.
    """

    def __init__(
        self,
        folder: Path,
        snapshots: SnapshotStore,
        locks: LockFile,
        env: Mapping[str, str],
        secret: Secret,
        ssh_socket: Callable[[str], str | None],
        cancel: threading.Event,
        *,
        offline: bool = False,
    ) -> None:
        self._folder = folder
        self._snapshots = snapshots
        self._locks = locks
        self._runner = GitRunner(env, cancel)
        self._secret = secret
        self._ssh_socket = ssh_socket
        self._cancel = cancel
        self._offline = offline
        self._commits: dict[SourceOp, _Commit] = {}

    def resolve(self, op: SourceOp, reporter: Reporter) -> object:
        """The commit, and what is taken of it (JSON-able); a whole commit hash means itself.

        Raises StagewrightError where the server does not answer or has no such ref, where the commit is not the one
        that the checksum wants, and CanceledError.
        """
        wanted = _Wanted.of(op)
        if is_commit(wanted.ref):
            _verify(wanted, wanted.ref, wanted.ref)
            commit = _Commit(wanted.ref, wanted.ref, wanted.ref)
        else:
            commit = self._ask(wanted)
        self._commits[op] = commit
        # Only a .git folder tells a tag from the commit that it names.
        what = [commit.object, commit.ref] if wanted.keep_git_dir else [commit.commit]
        return ["git", what, wanted.subdir, wanted.submodules]

    def snapshot(self, op: SourceOp, reporter: Reporter) -> int:
        """The snapshot with the files of the commit, which `resolve` found out first. Raises as that."""
        wanted, commit = _Wanted.of(op), self._commits[op]
        runner = self._runner_for(wanted)
        name = hashlib.sha256(wanted.url.encode(errors="surrogateescape")).hexdigest()[:32]
        store = os.path.join(self._folder, name)
        with self._locks.hold(lock_of(name), cancel=self._cancel):
            try:
                return self._checked_out(wanted, commit, store, runner, reporter)
            except CanceledError:
                raise
            except StagewrightError as error:
                if not any(sign in error.message for sign in _SIGNS_OF_DAMAGE) or not wrong_with(Path(store), runner):
                    raise
            reporter.warn(f"what was kept of {wanted.shown} was damaged: it is fetched anew")
            remove_tree(store)
            return self._checked_out(wanted, commit, store, runner, reporter)

    def _checked_out(
        self, wanted: _Wanted, commit: _Commit, store: str, runner: GitRunner, reporter: Reporter
    ) -> int:
        draft = self._snapshots.prepare(None)
        try:
            self._fetch(wanted, commit, store, runner, reporter)
            with reporter.status(f"checking out {commit.commit}"):
                check_out(
                    runner,
                    Checkout(store, wanted.url, commit.object, commit.format, wanted.subdir, wanted.submodules),
                    draft,
                    keep_as=_local_name(commit) if wanted.keep_git_dir else None,
                )
            return self._snapshots.commit(draft)
        except BaseException:
            self._snapshots.discard(draft)
            raise

    def close(self) -> None:
        """There is nothing to give back."""

    # --- what a name means ----------------------------------------------------------------------------------------

    def _ask(self, wanted: _Wanted) -> _Commit:
        """What the remote says that the ref is now."""
        if self._offline:
            raise NotFoundError(
                f"{wanted.shown}: --offline forbids asking its server what {wanted.ref or 'its default branch'} is",
                hint="build without --offline, or name a whole commit hash",
            )
        runner = self._runner_for(wanted)
        ref = wanted.ref or self._default_branch(wanted, runner)
        listing = failing(
            f"failed to fetch remote {wanted.shown}",
            lambda: runner.run("ls-remote", "--", wanted.url, ref, ref + "^{}"),
        )
        refs = {name: object for object, _, name in (line.partition("\t") for line in listing.splitlines())}
        for name in (
            f"refs/{ref.removeprefix('refs/')}",
            f"refs/heads/{ref.removeprefix('refs/heads/')}",
            f"refs/tags/{ref.removeprefix('refs/tags/')}",
        ):
            if name in refs:
                found = _Commit(refs[name], refs.get(name + "^{}", refs[name]), ref)
                break
        else:
            raise NotFoundError(f"repository {wanted.shown} does not contain ref {ref}", hint=_short_hash_hint(ref))
        if not is_commit(found.object) or not is_commit(found.commit):
            raise StagewrightError(f"{wanted.shown} names {found.object[:100]!r} as a commit, which is none")
        _verify(wanted, found.object, found.commit)
        return found

    def _default_branch(self, wanted: _Wanted, runner: GitRunner) -> str:
        listing = failing(
            f"error fetching default branch for repository {wanted.shown}",
            lambda: runner.run("ls-remote", "--symref", "--", wanted.url, "HEAD"),
        )
        found = _DEFAULT_BRANCH.search(listing)
        if found is None or not is_ref_name(found.group(1)):
            raise NotFoundError(f"could not find default branch for repository: {wanted.shown}")
        return found.group(1)

    # --- its objects ------------------------------------------------------------------------------------------------

    def _fetch(self, wanted: _Wanted, commit: _Commit, store: str, runner: GitRunner, reporter: Reporter) -> None:
        """Have the commit's objects in the bare repository `store`, which is made where it is missing."""
        os.makedirs(store, mode=0o700, exist_ok=True)
        _unlock(store)
        # For one that is there this costs little, and it mends one that a killed process only began to make.
        runner.run("init", "--quiet", "--bare", f"--object-format={commit.format}", git_dir=store)
        with open(os.path.join(store, _DESCRIPTION), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(wanted.shown + "\n")
        if self._has(commit, store, runner):
            return
        if self._offline:
            raise NotFoundError(f"{wanted.shown}: {commit.object} is not here, and --offline forbids fetching it")
        with reporter.status(f"fetching {commit.object}"):
            what = f"failed to fetch remote {wanted.shown}"
            failing(what, lambda: self._fetch_object(wanted, commit, store, runner))
        if not self._has(commit, store, runner):
            raise NotFoundError(f"repository {wanted.shown} has no commit {commit.object}")

    def _fetch_object(self, wanted: _Wanted, commit: _Commit, store: str, runner: GitRunner) -> None:
        """Fetch the commit alone, or else as much as the server makes us."""
        fetch = ["fetch", "--quiet", "--force", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"]
        one = f"{commit.object}:{_KEPT}{commit.object}"
        everything = [f"refs/heads/*:{_KEPT}heads/*", f"refs/tags/*:{_KEPT}tags/*"]
        deepen = ["--unshallow"] if os.path.exists(os.path.join(store, "shallow")) else []
        ways = (
            [*fetch, "--depth=1", "--", wanted.url, one],
            [*fetch, "--", wanted.url, one],
            [*fetch, "--prune", *deepen, "--", wanted.url, *everything],
        )
        for way in ways:
            try:
                runner.run(*way, git_dir=store)
                return
            except GitFailedError as error:
                # The first is of servers that have no shallow fetches, the others of those that give only tips.
                if way is ways[-1] or not any(sign in error.said for sign in _POOR_SERVER):
                    raise

    def _has(self, commit: _Commit, store: str, runner: GitRunner) -> bool:
        try:
            runner.run("cat-file", "-e", commit.object + "^{commit}", git_dir=store)
        except GitFailedError:
            return False
        return True

    def _runner_for(self, wanted: _Wanted) -> GitRunner:
        """git with what the remote wants to see of the build's credentials."""
        if wanted.ssh:
            socket = self._ssh_socket(wanted.ssh)
            if socket is None:
                raise UsageError(
                    f"{wanted.shown}: no SSH key {wanted.ssh!r} forwarded from the client",
                    hint=f"give the build an agent: --ssh {wanted.ssh}",
                )
            return replace(self._runner, ssh_socket=socket)
        if not wanted.url.startswith(("http://", "https://")):
            return self._runner
        host = wanted.url.partition("://")[2].partition("/")[0]
        header, scope = self._authorization(host), wanted.url
        if header is not None:
            scope = next((prefix for prefix in _GITHUB if wanted.url.startswith(prefix)), wanted.url)
        elif wanted.login:
            # git would keep them for all that is asked of that host.
            header, scope = _basic(_unquoted(wanted.login)), f"{wanted.url.partition('://')[0]}://{host}/"
        if header is None:
            return self._runner
        if not header.isascii() or not header.isprintable():
            raise UsageError(f"{wanted.shown}: the secret for its server is no line of plain text")
        return replace(self._runner, settings=((f"http.{scope}.extraHeader", f"Authorization: {header}"),))

    def _authorization(self, host: str) -> str | None:
        """The value of the Authorization header that the build's secrets make for a host."""
        for end in (f".{host}", ""):
            if (value := self._secret(f"GIT_AUTH_HEADER{end}")) is not None:
                return value.decode(errors="surrogateescape").strip()
            if (value := self._secret(f"GIT_AUTH_TOKEN{end}")) is not None:
                return _basic(b"x-access-token:" + value.strip())
        return None


def _unlock(store: str) -> None:
    """Remove git's own locks, which only killed processes have left: whoever is here holds the repository alone."""
    for folder, folders, names in os.walk(store):
        if folder == store and "objects" in folders:
            folders.remove("objects")
        for name in names:
            if name.endswith(".lock"):
                os.unlink(os.path.join(folder, name))


def _basic(pair: bytes) -> str:
    import base64

    return "basic " + base64.b64encode(pair).decode()


def _unquoted(login: str) -> bytes:
    from urllib.parse import unquote_to_bytes

    user, _, password = login.partition(":")
    return unquote_to_bytes(user) + b":" + unquote_to_bytes(password)


def _local_name(commit: _Commit) -> str:
    """The ref under which a checkout with a .git folder has what was asked for, "" for a commit's hash.

    As git's own rules make it of the name that the user gave, which is how BuildKit names it.
    """
    if is_commit(commit.ref):
        return ""
    if commit.object != commit.commit:
        return "refs/tags/" + commit.ref.removeprefix("refs/tags/")
    if commit.ref.startswith("refs/"):
        return commit.ref
    return ("refs/" if commit.ref.startswith(("heads/", "tags/", "remotes/")) else "refs/heads/") + commit.ref


def _verify(wanted: _Wanted, *objects: str) -> None:
    if wanted.checksum and not any(found.startswith(wanted.checksum) for found in objects):
        found = " or ".join(dict.fromkeys(objects))
        raise IntegrityError(f"{wanted.shown}: expected checksum to match {wanted.checksum}, got {found}")


def _short_hash_hint(ref: str) -> str | None:
    short = 4 <= len(ref) < 40 and not set(ref) - set("0123456789abcdef")
    return "a commit is named by its whole hash" if short else None
