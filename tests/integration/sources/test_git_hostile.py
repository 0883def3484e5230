"""Repositories and servers that want more than to be fetched: nothing runs, nothing is read or written outside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_servers import HttpServer, Repository, git_daemon
from git_store import GitStore

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GitStore]:
    made = GitStore(tmp_path / "state", {"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    yield made
    made.check()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "served").mkdir()
    return Repository.create(tmp_path / "served" / "r.git")


@pytest.fixture
def url(repository: Repository) -> Iterator[str]:
    with git_daemon(repository.folder.parent) as address:
        yield f"git://{address}/r.git"


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A file that nothing may make: the test fails if anything does."""
    path = tmp_path / "trapped"
    yield path
    assert not path.exists()


# --- trees ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        ("120000", ".git", b"/etc"),
        ("100644", ".git", b"gitdir: /etc\n"),
        ("120000", ".GIT", b"/etc"),
        ("100644", "git~1", b"x"),
        ("100644", "..", b"x"),
        ("100644", ".", b"x"),
        ("100644", "../escaped", b"x"),
        ("120000", ".gitmodules", b"/etc/passwd"),
    ],
)
def test_names_that_no_file_may_have(
    store: GitStore, repository: Repository, url: str, tmp_path: Path, entry: tuple[str, str, bytes]
) -> None:
    repository.commit_tree(entry)
    before = set(os.listdir(tmp_path)) | {"state"}
    error = store.failure(url)
    assert error.message.startswith(("failed to check out ", "failed to fetch remote "))
    assert set(os.listdir(tmp_path)) == before


def test_a_file_is_not_written_through_a_link(
    store: GitStore, repository: Repository, url: str, tmp_path: Path, trap: Path
) -> None:
    inner = repository._write("tree", b"100644 trapped\0" + bytes.fromhex(repository._write("blob", b"x")))
    link = repository._write("blob", str(tmp_path).encode())
    raw = b"120000 a\0" + bytes.fromhex(link) + b"40000 a\0" + bytes.fromhex(inner)
    commit = repository.git("commit-tree", repository._write("tree", raw), "-m", "x")
    repository.git("update-ref", "refs/heads/main", commit)
    try:
        store.fetch(url)
    except Exception as error:
        assert "failed to check out" in str(error)


def test_attributes_choose_no_program(store: GitStore, repository: Repository, url: str, trap: Path) -> None:
    repository.commit(
        {
            ".gitattributes": "* filter=evil diff=evil merge=evil\n",
            ".gitconfig": f'[filter "evil"]\n\tsmudge = touch {trap}\n',
            ".lfsconfig": f"[lfs]\n\turl = {trap}\n",
            "a": "1",
        }
    )
    assert store.files(url)["a"] == "1"


# --- submodules -----------------------------------------------------------------------------------------------------


def submodule(repository: Repository, *, url: str, path: str = "sub", name: str = "sub", update: str = "") -> None:
    """Commit a submodule as the attacker wants it."""
    commit = repository.commit({"plain": "x"})
    extra = f"\tupdate = {update}\n" if update else ""
    (repository.folder / ".gitmodules").write_text(f'[submodule "{name}"]\n\tpath = {path}\n\turl = {url}\n{extra}')
    repository.git("add", ".gitmodules")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    repository.git("commit", "--quiet", "-m", "submodule")


@pytest.mark.parametrize(
    "address",
    [
        "ext::sh -c 'touch {trap}'",
        "ext::touch% {trap}",
        "file://{secret}",
        "{secret}",
        "../../../../../../../../../..{secret}",
        "--upload-pack=touch {trap}",
        "-u./x",
        "ssh://-oProxyCommand=touch {trap}/x",
        "fd::0",
    ],
)
def test_addresses_of_submodules(
    store: GitStore, repository: Repository, url: str, tmp_path: Path, trap: Path, address: str
) -> None:
    secret = Repository.create(tmp_path / "secret")
    secret.commit({"secret": "s"})
    submodule(repository, url=address.format(trap=trap, secret=secret.folder))
    message = store.failure(url).message
    assert message.startswith("failed to check out ")
    message = store.failure(url, keep_git_dir=True).message
    assert message.startswith("failed to check out ")


@pytest.mark.parametrize("name", ["../../../../trapped", "x/../../../trapped", "-c"])
def test_names_of_submodules(
    store: GitStore, repository: Repository, url: str, tmp_path: Path, trap: Path, name: str
) -> None:
    submodule(repository, url="../r.git", name=name)
    try:
        assert "sub/plain" not in store.files(url) or name == "-c"
    except Exception as error:
        assert "failed to check out" in str(error)
    assert {path.name for path in tmp_path.iterdir()} == {"served", "state"}


def test_a_submodule_chooses_no_command(store: GitStore, repository: Repository, url: str, trap: Path) -> None:
    submodule(repository, url="../r.git", update=f"!touch {trap}")
    assert store.failure(url).message.startswith("failed to check out ")


def test_submodules_of_themselves_end(store: GitStore, repository: Repository, url: str) -> None:
    submodule(repository, url="../r.git")
    # The commit that it names has no submodule any more.
    assert store.files(url)["sub/plain"] == "x"


# --- this machine's own configuration -------------------------------------------------------------------------------


def test_the_users_configuration_counts_for_nothing(
    store: GitStore, repository: Repository, url: str, tmp_path: Path, trap: Path
) -> None:
    repository.commit({"a": "1"})
    config = tmp_path / ".gitconfig"
    config.write_text(
        f'[core]\n\tfsmonitor = touch {trap}\n\thooksPath = {tmp_path}\n\tgitProxy = "touch {trap}"\n'
        f'[url "ext::touch% {trap}"]\n\tinsteadOf = git://\n[protocol]\n\tallow = always\n'
    )
    (tmp_path / "post-checkout").write_text(f"#!/bin/sh\ntouch {trap}\n")
    (tmp_path / "post-checkout").chmod(0o755)
    store.env |= {
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_SYSTEM": str(config),
        "XDG_CONFIG_HOME": str(tmp_path),
        "GIT_DIR": str(tmp_path),
        "GIT_WORK_TREE": str(tmp_path),
        "GIT_SSH_COMMAND": f"touch {trap}",
        "GIT_PROXY_COMMAND": f"touch {trap}",
        "GIT_EXEC_PATH": str(tmp_path),
        "GIT_TEMPLATE_DIR": str(tmp_path),
        "GIT_ASKPASS": f"touch {trap}",
        "GIT_TRACE": str(trap),
    }
    assert store.files(url) == {"a": "1"}
    assert (store.fetch(url, keep_git_dir=True) / "a").read_text() == "1"


# --- servers --------------------------------------------------------------------------------------------------------


def test_a_default_branch_like_an_option(store: GitStore, repository: Repository, url: str) -> None:
    commit = repository.commit({"a": "1"})
    repository.git("update-ref", "refs/heads/--upload-pack=x", commit)
    repository.git("symbolic-ref", "HEAD", "refs/heads/--upload-pack=x")
    assert store.failure(url).message == f"could not find default branch for repository: {url}"


@pytest.mark.parametrize("target", ["file:///", "ext::touch", "ftp://127.0.0.1:1/"])
def test_redirects_to_other_protocols(store: GitStore, repository: Repository, tmp_path: Path, target: str) -> None:
    repository.commit({"a": "1"})
    server = HttpServer(tmp_path)
    server.redirects = {"/": target}
    try:
        message = store.failure(f"{server.url}/served/r.git").message
    finally:
        server.stop()
    assert message.startswith("error fetching default branch for repository ")


def test_git_that_prints_without_end_is_ended(store: GitStore, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec yes refs/heads/main\n")
    program.chmod(0o755)
    store.env["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    assert store.failure("git://127.0.0.1:1/r.git").message == (
        "git printed more than 16 MiB: a server sends too much"
    )


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("x" * 200, f"names '{'x' * 100}' as a commit, which is none"),
        ("a" * 40, f"has no commit {'a' * 40}"),
    ],
)
def test_a_server_that_has_not_what_it_names(tmp_path: Path, listed: str, message: str) -> None:
    git = tmp_path / "git"
    answers = f"*ls-remote*) printf '{listed}\\trefs/heads/main\\n';; *cat-file*) exit 1;;"
    git.write_text(f'#!/bin/sh\ncase "$*" in {answers} esac\n')
    git.chmod(0o755)
    store = GitStore(tmp_path / "state", {"PATH": str(tmp_path)})
    assert store.failure("https://git.example.com/r.git#main").message.endswith(message)
    store.check()
