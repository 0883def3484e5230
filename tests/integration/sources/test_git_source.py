"""Git repositories from git's daemon, its HTTP backend, plain files and OpenSSH: commits, folders, submodules."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from git_servers import HttpServer, Repository, basic, git, git_daemon, ssh_server
from git_store import GitStore, files_below, reporter, source

from stagewright.errors import CanceledError, IntegrityError, NotFoundError, UsageError
from stagewright.sources.ssh import SshAgents

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
needs_sshd = pytest.mark.skipif(not os.path.exists("/usr/sbin/sshd"), reason="needs OpenSSH's server")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GitStore]:
    made = GitStore(tmp_path / "state", {"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    yield made
    made.check()


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The folder below which repositories are served."""
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def repository(served: Path) -> Repository:
    return Repository.create(served / "r.git")


@pytest.fixture
def daemon(served: Path) -> Iterator[str]:
    """What URLs of repositories begin with."""
    with git_daemon(served) as address:
        yield f"git://{address}"


@pytest.fixture
def start_http(served: Path) -> Iterator[Callable[..., HttpServer]]:
    servers: list[HttpServer] = []

    def start(*, plain: bool = False, root: Path = served) -> HttpServer:
        servers.append(HttpServer(root, plain=plain))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


# --- which commit ---------------------------------------------------------------------------------------------------


def test_what_refs_mean(store: GitStore, repository: Repository, daemon: str) -> None:
    first = repository.commit({"a": "1"})
    repository.git("tag", "light")
    repository.git("tag", "-a", "heavy", "-m", "x")
    repository.git("branch", "feature/x")
    second = repository.commit({"a": "2"})
    repository.git("update-ref", "refs/pull/7/head", first)
    repository.git("branch", "light")
    url = f"{daemon}/r.git"
    wanted = {
        "": second,
        "#main": second,
        "#refs/heads/main": second,
        "#feature/x": first,
        # As git does, a branch before a tag.
        "#light": second,
        "?tag=light": first,
        "#heavy": first,
        "#pull/7/head": first,
        "#refs/pull/7/head": first,
        "?branch=feature/x": first,
        f"#{first}": first,
    }
    found = {text: store.meaning(url + text) for text in wanted}
    assert found == {text: ["git", [commit], "", True] for text, commit in wanted.items()}


def test_the_default_branch_may_have_any_name(store: GitStore, repository: Repository, daemon: str) -> None:
    repository.git("checkout", "--quiet", "-b", "trunk")
    commit = repository.commit({"a": "1"})
    assert store.meaning(f"{daemon}/r.git") == ["git", [commit], "", True]


def test_a_git_folder_tells_refs_apart(store: GitStore, repository: Repository, daemon: str) -> None:
    commit = repository.commit({"a": "1"})
    repository.git("tag", "-a", "v1", "-m", "x")
    tag = repository.git("rev-parse", "v1")
    assert store.meaning(f"{daemon}/r.git#v1", keep_git_dir=True) == ["git", [tag, "v1"], "", True]
    assert store.meaning(f"{daemon}/r.git#main", keep_git_dir=True) == ["git", [commit, "main"], "", True]
    # With a folder of the repository alone there is no .git to tell them apart.
    assert store.meaning(f"{daemon}/r.git#v1:x", keep_git_dir=True) == ["git", [commit], "x", True]


def test_a_whole_hash_needs_no_server(store: GitStore) -> None:
    commit = "0123456789" * 4
    assert store.meaning(f"git://127.0.0.1:1/r.git#{commit}") == ["git", [commit], "", True]


@pytest.mark.parametrize("behind", ["#nope", "?tag=main", "?branch=v1", "#refs/heads/nope", "#heads"])
def test_a_ref_that_is_not_there(store: GitStore, repository: Repository, daemon: str, behind: str) -> None:
    repository.commit({"a": "1"})
    repository.git("tag", "v1")
    error = store.failure(f"{daemon}/r.git{behind}")
    assert isinstance(error, NotFoundError)
    assert error.message.startswith(f"repository {daemon}/r.git does not contain ref ")


def test_a_short_hash_is_no_name(store: GitStore, repository: Repository, daemon: str) -> None:
    commit = repository.commit({"a": "1"})
    error = store.failure(f"{daemon}/r.git#{commit[:8]}")
    assert error.message == f"repository {daemon}/r.git does not contain ref {commit[:8]}"
    assert error.hint == "a commit is named by its whole hash"


def test_an_empty_repository(store: GitStore, repository: Repository, daemon: str) -> None:
    assert store.failure(f"{daemon}/r.git").message == f"could not find default branch for repository: {daemon}/r.git"


def test_a_repository_that_is_not_there(store: GitStore, served: Path, daemon: str) -> None:
    message = store.failure(f"{daemon}/nope.git").message
    assert message.startswith(f"error fetching default branch for repository {daemon}/nope.git: git ls-remote failed: ")


def test_a_commit_that_is_not_there(store: GitStore, repository: Repository, daemon: str) -> None:
    repository.commit({"a": "1"})
    message = store.failure(f"{daemon}/r.git#{'0123456789' * 4}").message
    assert "0123456789" * 4 in message


@pytest.mark.parametrize("length", [6, 40])
def test_checksums(store: GitStore, repository: Repository, daemon: str, length: int) -> None:
    commit = repository.commit({"a": "1"})
    repository.git("tag", "-a", "v1", "-m", "x")
    tag = repository.git("rev-parse", "v1")
    for text, checksum in (("#main", commit), ("#v1", commit), ("#v1", tag), (f"#{commit}", commit)):
        assert store.files(f"{daemon}/r.git{text}", checksum=checksum[:length]) == {"a": "1"}


def test_a_commit_that_is_not_the_one_that_is_wanted(store: GitStore, repository: Repository, daemon: str) -> None:
    commit = repository.commit({"a": "1"})
    repository.git("tag", "-a", "v1", "-m", "x")
    tag = repository.git("rev-parse", "v1")
    url = f"{daemon}/r.git"
    for text, found in (("#main", commit), ("#v1", f"{tag} or {commit}"), (f"#{commit}", commit)):
        error = store.failure(url + text, checksum="fffff")
        assert isinstance(error, IntegrityError)
        assert error.message == f"{url}: expected checksum to match fffff, got {found}"


# --- its files ------------------------------------------------------------------------------------------------------


def test_files_are_as_git_checks_them_out(store: GitStore, repository: Repository, daemon: str) -> None:
    repository.commit({"plain": "p", "script": "s", "deep/er/file": "d"})
    (repository.folder / "script").chmod(0o755)
    (repository.folder / "link").symlink_to("deep/er/file")
    (repository.folder / "dangling").symlink_to("/etc/passwd")
    repository.commit()
    before = os.umask(0o077)
    try:
        folder = store.fetch(f"{daemon}/r.git")
    finally:
        os.umask(before)
    assert files_below(folder) == {
        "plain": "p", "script": "s", "deep/er/file": "d", "link": "-> deep/er/file", "dangling": "-> /etc/passwd",
    }  # fmt: skip
    modes = {name: (folder / name).stat().st_mode & 0o7777 for name in ("", "plain", "script", "deep")}
    assert modes == {"": 0o755, "plain": 0o644, "script": 0o755, "deep": 0o755}
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in folder.rglob("*")} == {(0, 0)}
    assert not (folder / ".git").exists()


def test_a_commit_without_files(store: GitStore, repository: Repository, daemon: str) -> None:
    repository.commit()
    assert store.files(f"{daemon}/r.git") == {}


@pytest.mark.parametrize("subdir", ["deep", "/deep/", "deep/er/..", "link"])
def test_a_folder_of_it(store: GitStore, repository: Repository, daemon: str, subdir: str) -> None:
    repository.commit({"top": "t", "deep/er/file": "d", "deep/own": "o"})
    (repository.folder / "link").symlink_to("/deep")
    repository.commit()
    folder = store.fetch(f"{daemon}/r.git#main:{subdir}")
    assert files_below(folder) == {"er/file": "d", "own": "o"}
    assert folder.stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    ("subdir", "message"),
    [
        ("nope", "the repository has no folder nope"),
        ("top", "cannot use the folder top of the repository: Not a directory"),
        ("out", "the repository has no folder out"),
        ("loop", "cannot use the folder loop of the repository: Too many levels of symbolic links"),
    ],
)
def test_a_folder_that_is_none(
    store: GitStore, repository: Repository, daemon: str, tmp_path: Path, subdir: str, message: str
) -> None:
    (tmp_path / "secret").mkdir()
    repository.commit({"top": "t"})
    (repository.folder / "out").symlink_to(tmp_path / "secret")
    (repository.folder / "loop").symlink_to("loop")
    repository.commit()
    assert store.failure(f"{daemon}/r.git#main:{subdir}").message == message


def test_the_next_commit_is_fetched_into_what_is_there(store: GitStore, repository: Repository, daemon: str) -> None:
    url = f"{daemon}/r.git"
    repository.commit({"a": "1"})
    assert store.files(url) == {"a": "1"}
    repository.commit({"a": "2"})
    assert store.files(url) == {"a": "2"}
    (repository.folder / "a").unlink()
    repository.git("checkout", "--quiet", "--orphan", "other")
    repository.git("rm", "-r", "--quiet", "--cached", "--ignore-unmatch", ".")
    repository.commit({"b": "3"})
    repository.git("branch", "--force", "main")
    assert store.files(url) == {"b": "3"}
    assert len(os.listdir(store.root / "git")) == 1


def test_a_commit_that_is_here_needs_no_server(store: GitStore, repository: Repository, served: Path) -> None:
    commit = repository.commit({"a": "1"})
    with git_daemon(served) as address:
        url = f"git://{address}/r.git#{commit}"
        assert store.files(url) == {"a": "1"}
    assert store.files(url) == {"a": "1"}


def test_what_a_killed_build_leaves_is_no_hindrance(store: GitStore, repository: Repository, daemon: str) -> None:
    commit = repository.commit({"a": "1"})
    store.fetch(f"{daemon}/r.git")
    (kept,) = (store.root / "git").iterdir()
    commit = repository.commit({"a": "2"})
    for name in ("shallow.lock", "config.lock", "packed-refs.lock", f"refs/stagewright/{commit}.lock"):
        (kept / name).touch()
    (kept / "objects" / "pack" / "tmp_pack_x").write_bytes(b"PACK")
    (kept / "description").unlink()
    assert store.files(f"{daemon}/r.git") == {"a": "2"}
    shutil.rmtree(kept / "refs")
    (kept / "HEAD").unlink()
    (kept / "config").unlink()
    commit = repository.commit({"a": "3"})
    assert store.files(f"{daemon}/r.git#{commit}") == {"a": "3"}


def test_a_ref_that_moves_during_the_build(store: GitStore, repository: Repository, daemon: str) -> None:
    repository.commit({"a": "1"})
    build, vertex = store.build(), source(f"{daemon}/r.git")
    build.resolve(vertex, reporter())
    repository.commit({"a": "2"})
    assert files_below(Path(store.snapshots.folder(build.snapshot(vertex, reporter())))) == {"a": "1"}


def test_only_the_commit_is_fetched(store: GitStore, repository: Repository, daemon: str) -> None:
    for number in range(3):
        repository.commit({"a": str(number)})
    store.fetch(f"{daemon}/r.git")
    (kept,) = (store.root / "git").iterdir()
    assert git(kept, "rev-list", "--all", "--count") == "1"


def test_an_older_commit_after_a_newer_one(store: GitStore, repository: Repository, daemon: str) -> None:
    first = repository.commit({"a": "1"})
    repository.commit({"a": "2"})
    assert store.files(f"{daemon}/r.git") == {"a": "2"}
    assert store.files(f"{daemon}/r.git#{first}") == {"a": "1"}


def test_repositories_with_longer_hashes(store: GitStore, served: Path, daemon: str) -> None:
    repository = Repository.create(served / "long.git", format="sha256")
    commit = repository.commit({"a": "1"})
    assert len(commit) == 64
    assert store.files(f"{daemon}/long.git") == {"a": "1"}
    folder = store.fetch(f"{daemon}/long.git#{commit}", keep_git_dir=True)
    assert git(folder, "rev-parse", "HEAD") == commit


# --- the .git folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behind", "refs"),
    [
        ("", ["refs/heads/main"]),
        ("#main", ["refs/heads/main"]),
        ("?branch=main", ["refs/heads/main"]),
        ("?tag=heavy", ["refs/tags/heavy"]),
        ("#heavy", ["refs/tags/heavy"]),
        ("?tag=light", ["refs/tags/light"]),
        ("#COMMIT", []),
    ],
)
def test_a_kept_git_folder(
    store: GitStore, repository: Repository, daemon: str, behind: str, refs: list[str]
) -> None:
    repository.commit({"a": "1"})
    commit = repository.commit({"a": "2"})
    repository.git("tag", "light")
    repository.git("tag", "-a", "heavy", "-m", "x")
    folder = store.fetch(f"{daemon}/r.git{behind.replace('COMMIT', commit)}", keep_git_dir=True)
    assert git(folder, "rev-parse", "HEAD") == commit
    assert git(folder, "for-each-ref", "--format=%(refname)").split() == refs
    assert git(folder, "rev-list", "--count", "HEAD") == "1"
    assert git(folder, "status", "--porcelain") == ""
    assert git(folder, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD"
    assert git(folder, "config", "remote.origin.url") == f"{daemon}/r.git"
    assert git(folder, "fsck", "--strict") == ""
    left = {path.name for path in (folder / ".git").iterdir()}
    assert not left & {"FETCH_HEAD", "ORIG_HEAD", "logs"}
    assert str(store.root).encode() not in b"".join(
        path.read_bytes() for path in (folder / ".git").rglob("*") if path.is_file() and path.parent.name != "hooks"
    )


# --- submodules -----------------------------------------------------------------------------------------------------


@pytest.fixture
def nested(repository: Repository, served: Path) -> Repository:
    """The repository with a submodule, named relative to it, that has one itself."""
    inner = Repository.create(served / "inner.git")
    inner.commit({"inner": "i"})
    middle = Repository.create(served / "middle.git")
    middle.commit({"middle": "m"})
    middle.git("submodule", "--quiet", "add", "../inner.git", "in")
    middle.commit()
    repository.commit({"outer": "o"})
    repository.git("submodule", "--quiet", "add", "../middle.git", "sub/mid")
    repository.commit()
    return repository


def test_submodules_come_with_it(store: GitStore, nested: Repository, daemon: str) -> None:
    found = store.files(f"{daemon}/r.git")
    lists = {name: found.pop(name) for name in (".gitmodules", "sub/mid/.gitmodules")}
    assert all("submodule" in text for text in lists.values())
    assert found == {
        "outer": "o",
        "sub/mid/middle": "m",
        "sub/mid/in/inner": "i",
        "sub/mid/.git": "gitdir: ../../.git/modules/sub/mid\n",
        "sub/mid/in/.git": "gitdir: ../../../.git/modules/sub/mid/modules/in\n",
    }


def test_submodules_of_a_folder(store: GitStore, nested: Repository, daemon: str) -> None:
    found = store.files(f"{daemon}/r.git#main:sub")
    assert set(found) == {"mid/middle", "mid/in/inner", "mid/.gitmodules", "mid/.git", "mid/in/.git"}
    assert found == store.files(f"{daemon}/r.git#refs/heads/main:sub")


def test_submodules_can_be_left_out(store: GitStore, nested: Repository, daemon: str) -> None:
    found = store.files(f"{daemon}/r.git?submodules=0")
    found.pop(".gitmodules")
    assert found == {"outer": "o"}
    assert store.meaning(f"{daemon}/r.git?submodules=0") != store.meaning(f"{daemon}/r.git")


def test_submodules_in_a_kept_git_folder(store: GitStore, nested: Repository, daemon: str) -> None:
    folder = store.fetch(f"{daemon}/r.git", keep_git_dir=True)
    assert git(folder, "submodule", "status", "--recursive").count("(heads/main)") == 2
    assert git(folder, "status", "--porcelain") == ""


def test_a_submodule_that_moves_is_followed(
    store: GitStore, nested: Repository, served: Path, daemon: str
) -> None:
    store.fetch(f"{daemon}/r.git")
    other = Repository.create(served / "other.git")
    commit = other.commit({"other": "x"})
    nested.git("config", "--file", ".gitmodules", "submodule.sub/mid.url", "../other.git")
    nested.git("update-index", "--cacheinfo", f"160000,{commit},sub/mid")
    nested.git("add", ".gitmodules")
    nested.git("commit", "--quiet", "-m", "move")
    assert store.files(f"{daemon}/r.git")["sub/mid/other"] == "x"


# --- servers and credentials ----------------------------------------------------------------------------------------


def test_over_http(store: GitStore, nested: Repository, start_http: Callable[..., HttpServer]) -> None:
    server = start_http()
    assert store.files(f"{server.url}/r.git")["sub/mid/in/inner"] == "i"
    assert {login for _, login in server.requests} == {None}


def test_a_server_that_only_serves_files(
    store: GitStore, repository: Repository, start_http: Callable[..., HttpServer]
) -> None:
    first = repository.commit({"a": "1"})
    repository.commit({"a": "2"})
    repository.git("update-server-info")
    shutil.copytree(repository.folder / ".git", repository.folder.parent / "plain.git")
    server = start_http(plain=True)
    assert store.files(f"{server.url}/plain.git") == {"a": "2"}
    assert store.files(f"{server.url}/plain.git#{first}") == {"a": "1"}


@pytest.mark.parametrize(
    ("secrets", "login"),
    [
        ({"GIT_AUTH_TOKEN": b"hunter2\n"}, basic("x-access-token:hunter2")),
        ({"GIT_AUTH_HEADER": b"Custom hunter2"}, "Custom hunter2"),
        ({"GIT_AUTH_TOKEN.HOST": b"hunter2", "GIT_AUTH_TOKEN": b"hunter3"}, basic("x-access-token:hunter2")),
        ({"GIT_AUTH_HEADER.HOST": b"hunter2", "GIT_AUTH_TOKEN.HOST": b"hunter3"}, "hunter2"),
        ({"GIT_AUTH_HEADER": b"hunter3", "GIT_AUTH_TOKEN.HOST": b"hunter2"}, basic("x-access-token:hunter2")),
    ],
)
def test_secrets_open_repositories(
    store: GitStore,
    repository: Repository,
    start_http: Callable[..., HttpServer],
    secrets: dict[str, bytes],
    login: str,
) -> None:
    repository.commit({"a": "1"})
    server = start_http()
    server.logins = {login}
    host = server.url.removeprefix("http://")
    store.secrets = {name.replace("HOST", host): value for name, value in secrets.items()}
    folder = store.fetch(f"{server.url}/r.git", keep_git_dir=True)
    assert files_below(folder) == {"a": "1"}
    assert {sent for _, sent in server.requests} == {login}
    stored = store.stored()
    assert not any(value.strip() in stored for value in secrets.values())
    assert login.encode() not in stored


def test_a_login_in_the_url(store: GitStore, nested: Repository, start_http: Callable[..., HttpServer]) -> None:
    server = start_http()
    server.logins = {basic("user:p@ss")}
    host = server.url.removeprefix("http://")
    folder = store.fetch(f"http://user:p%40ss@{host}/r.git", keep_git_dir=True)
    assert (folder / "sub/mid/in/inner").read_text() == "i"
    stored = store.stored()
    assert b"p@ss" not in stored and b"p%40ss" not in stored


def test_a_private_repository_without_credentials(
    store: GitStore, repository: Repository, start_http: Callable[..., HttpServer]
) -> None:
    repository.commit({"a": "1"})
    server = start_http()
    server.logins = {"none"}
    error = store.failure(f"{server.url}/r.git")
    assert "could not read Username" in error.message
    assert error.hint == "a private repository wants credentials: --secret id=GIT_AUTH_TOKEN,env=..."


def test_wrong_credentials(store: GitStore, repository: Repository, start_http: Callable[..., HttpServer]) -> None:
    repository.commit({"a": "1"})
    server = start_http()
    server.logins = {"none"}
    store.secrets = {"GIT_AUTH_TOKEN": b"hunter2"}
    error = store.failure(f"{server.url}/r.git")
    assert "hunter2" not in error.render()


@pytest.mark.parametrize("secret", [b"Basic abc\nX-Other: y", b"abc\0", b"\xff"])
def test_a_secret_that_is_no_header(store: GitStore, secret: bytes) -> None:
    store.secrets = {"GIT_AUTH_HEADER": secret}
    error = store.failure("http://127.0.0.1:1/r.git")
    assert error.message == "http://127.0.0.1:1/r.git: the secret for its server is no line of plain text"


def test_secrets_stay_with_the_repository(
    store: GitStore, repository: Repository, served: Path, tmp_path: Path, start_http: Callable[..., HttpServer]
) -> None:
    foreign = start_http(root=tmp_path / "foreign")
    other = Repository.create(tmp_path / "foreign" / "other.git")
    other.commit({"other": "x"})
    repository.commit({"a": "1"})
    git(repository.folder, "submodule", "--quiet", "add", str(other.folder), "sub")
    git(repository.folder, "config", "--file", ".gitmodules", "submodule.sub.url", f"{foreign.url}/other.git")
    repository.commit()
    server = start_http()
    server.logins = {basic("x-access-token:hunter2")}
    store.secrets = {"GIT_AUTH_TOKEN": b"hunter2"}
    assert store.files(f"{server.url}/r.git")["sub/other"] == "x"
    assert {sent for _, sent in foreign.requests} == {None}


def test_over_https_by_the_trust_store_of_the_environment(
    store: GitStore, nested: Repository, start_http: Callable[..., HttpServer], certificate: tuple[Path, Path]
) -> None:
    server = start_http()
    server.use_tls(*certificate)
    assert "certificate" in store.failure(f"{server.url}/r.git").message
    store.env["SSL_CERT_FILE"] = str(certificate[0])
    assert store.files(f"{server.url}/r.git")["sub/mid/in/inner"] == "i"


def test_proxies_are_used(store: GitStore, start_http: Callable[..., HttpServer]) -> None:
    proxy = start_http()
    store.env["http_proxy"] = proxy.url
    store.failure("http://git.invalid/r.git")
    assert proxy.requests[0][0].startswith("http://git.invalid/r.git/info/refs")


# --- ssh ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture
def agent(key: Path, store: GitStore) -> Iterator[None]:
    """The build is given an agent with the key."""
    agents = SshAgents({"default": (str(key),)}, os.environ)
    socket = agents.socket("default")
    assert socket is not None
    store.agents["default"] = socket
    yield
    agents.close()


@pytest.mark.root("lets a user in by OpenSSH's server")
@needs_sshd
def test_over_ssh(store: GitStore, repository: Repository, key: Path, tmp_path: Path, agent: None) -> None:
    repository.commit({"a": "1"})
    with ssh_server(tmp_path, key.with_suffix(".pub")) as (address, known):
        url = f"ssh://root@{address}{repository.folder}"
        assert store.files(url) == {"a": "1"}
        # The user's own list counts where it knows the host.
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh" / "known_hosts").write_text(known)
        repository.commit({"a": "2"})
        assert store.files(url) == {"a": "2"}
        assert (tmp_path / ".ssh" / "known_hosts").read_text() == known


@pytest.mark.root("lets a user in by OpenSSH's server")
@needs_sshd
def test_a_host_key_that_is_another_one(
    store: GitStore, repository: Repository, key: Path, tmp_path: Path, agent: None
) -> None:
    repository.commit({"a": "1"})
    with ssh_server(tmp_path, key.with_suffix(".pub")) as (address, known):
        host, kind, _ = known.split()
        (tmp_path / ".ssh").mkdir()
        own = key.with_suffix(".pub").read_text().split()[1]
        (tmp_path / ".ssh" / "known_hosts").write_text(f"{host} {kind} {own}\n")
        error = store.failure(f"ssh://root@{address}{repository.folder}")
    assert error.message.endswith("git ls-remote failed: Host key verification failed.")


@pytest.mark.root("lets a user in by OpenSSH's server")
@needs_sshd
def test_a_key_that_the_server_does_not_take(
    store: GitStore, repository: Repository, key: Path, tmp_path: Path, agent: None
) -> None:
    repository.commit({"a": "1"})
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    with ssh_server(tmp_path, other.with_suffix(".pub")) as (address, _):
        error = store.failure(f"ssh://root@{address}{repository.folder}")
    assert "git ls-remote failed: root@127.0.0.1: Permission denied (" in error.message
    assert error.hint == "the agent given with --ssh has no key that the server takes"


def test_ssh_without_an_agent(store: GitStore) -> None:
    error = store.failure("git@127.0.0.1:r")
    assert isinstance(error, UsageError)
    assert error.message == "git@127.0.0.1:r: no SSH key 'default' forwarded from the client"
    assert error.hint == "give the build an agent: --ssh default"


# --- ends -----------------------------------------------------------------------------------------------------------


def test_a_server_that_says_nothing_ends_with_the_build(store: GitStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        connections: list[socket.socket] = []

        def wait_then_cancel() -> None:
            # A connection that were closed now would be another end.
            connections.append(server.accept()[0])
            connections[0].recv(1)
            store.cancel.set()

        thread = threading.Thread(target=wait_then_cancel)
        thread.start()
        with pytest.raises(CanceledError):
            store.meaning(f"git://127.0.0.1:{server.getsockname()[1]}/r.git")
        thread.join()
        connections[0].close()


def test_without_git(store: GitStore, tmp_path: Path) -> None:
    store.env["PATH"] = str(tmp_path)
    error = store.failure("git://127.0.0.1:1/r.git")
    assert (error.message, error.hint) == ("git is not installed here", "git repositories are fetched with it")


def test_offline(store: GitStore, repository: Repository, daemon: str) -> None:
    commit = repository.commit({"a": "1"})
    url = f"{daemon}/r.git"
    build = store.build(offline=True)
    with pytest.raises(NotFoundError) as caught:
        build.resolve(source(url), reporter())
    assert caught.value.message == f"{url}: --offline forbids asking its server what its default branch is"
    build.resolve(source(f"{url}#{commit}"), reporter())
    with pytest.raises(NotFoundError) as caught:
        build.snapshot(source(f"{url}#{commit}"), reporter())
    assert caught.value.message == f"{url}: {commit} is not here, and --offline forbids fetching it"
    store.fetch(f"{url}#{commit}")
    build.snapshot(source(f"{url}#{commit}"), reporter())
