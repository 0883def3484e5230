"""The files of a commit, written into the draft of a snapshot: submodules, a folder of it alone, or its .git folder."""

from __future__ import annotations

import errno
import os

from stagewright.errors import NotFoundError, StagewrightError
from stagewright.records import dataclass, replace
from stagewright.snapshots import syscalls
from stagewright.snapshots.store import Draft
from stagewright.sources.gitcli import GitRunner, failing

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Links in a repository are followed as if it were the whole file system.
_INSIDE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


@dataclass(frozen=True, slots=True)
class Checkout:
    """What to write: of the repository `store` the object (a commit or a tag of one), of it the folder `subdir`.

    `url` is where it comes from, for submodules that name theirs relative to it; `format` the object format.
    """

    store: str
    url: str
    object: str
    format: str
    subdir: str
    submodules: bool


def check_out(git: GitRunner, checkout: Checkout, draft: Draft, *, keep_as: str | None) -> None:
    """Write the files into the draft.

    With `keep_as` a .git folder stays, in which that ref ("" for none) names the commit. Raises StagewrightError.
    """
    tree = draft.fs
    if checkout.subdir:
        tree = os.path.join(draft.path, "tree")
        os.mkdir(tree, 0o755)
    if keep_as is None:
        git_dir = os.path.join(draft.path, "git")
        _borrow(git, checkout, git_dir)
        _run(git, checkout, "read-tree", "--reset", "-u", checkout.object, git_dir=git_dir, work_tree=tree)
    else:
        git_dir = os.path.join(tree, ".git")
        _clone(git, checkout, git_dir, tree, keep_as)
    if checkout.submodules and os.path.lexists(os.path.join(tree, ".gitmodules")):
        update = ("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
        _run(git, checkout, *update, git_dir=git_dir, work_tree=tree)
        if keep_as is None:
            _steady_links(tree, git_dir)
    if checkout.subdir:
        _move_up(checkout, tree, draft.fs)


def _borrow(git: GitRunner, checkout: Checkout, git_dir: str) -> None:
    """Make a git directory that reads the objects of the store."""
    git.run("init", "--quiet", "--bare", f"--object-format={checkout.format}", "--", git_dir)
    with open(os.path.join(git_dir, "objects", "info", "alternates"), "w", encoding="utf-8") as file:
        file.write(os.path.join(checkout.store, "objects") + "\n")
    git.run("config", "remote.origin.url", checkout.url, git_dir=git_dir)


def _clone(git: GitRunner, checkout: Checkout, git_dir: str, tree: str, ref: str) -> None:
    """Make a .git folder with the commit alone, as a shallow clone has it, and its files."""
    git.run("init", "--quiet", f"--object-format={checkout.format}", git_dir=git_dir, work_tree=tree)
    git.run("remote", "add", "origin", checkout.url, git_dir=git_dir)
    # By the protocol: a clone of a folder would share files with it.
    local = replace(git, local=True)
    source = f"refs/stagewright/{checkout.object}"
    git.run("update-ref", source, checkout.object, git_dir=checkout.store)
    fetch = ("fetch", "--quiet", "--update-head-ok", "--depth=1", "--no-tags", "--no-write-fetch-head")
    target = f"{source}:{ref}" if ref else f"{source}:refs/stagewright"
    local.run(*fetch, "--", f"file://{checkout.store}", target, git_dir=git_dir)
    _run(git, checkout, "checkout", "--quiet", "--detach", checkout.object, git_dir=git_dir, work_tree=tree)
    if not ref:
        git.run("update-ref", "-d", "refs/stagewright", git_dir=git_dir)


def _run(git: GitRunner, checkout: Checkout, *arguments: str, git_dir: str, work_tree: str) -> None:
    what = f"failed to check out {checkout.object}"
    failing(what, lambda: git.run(*arguments, git_dir=git_dir, work_tree=work_tree))


def _steady_links(tree: str, git_dir: str) -> None:
    """Let the files called .git, which git leaves in submodules, say what they would say in a clone.

    They are there in BuildKit's checkouts, too, and lead nowhere in either; but their bytes must not depend on where
    this checkout was made. No commit can have such files.
    """
    for folder, _, names, handle in os.fwalk(tree, follow_symlinks=False):
        if ".git" not in names or folder == tree:
            continue
        link = os.open(".git", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
        with open(link, "r+b") as file:
            target = os.fsdecode(file.read().removeprefix(b"gitdir: ").rstrip(b"\n"))
            inside = os.path.relpath(os.path.join(folder, target), git_dir)
            steady = os.path.relpath(os.path.join(tree, ".git", inside), folder)
            file.seek(0)
            file.truncate()
            file.write(b"gitdir: " + os.fsencode(steady) + b"\n")


def _move_up(checkout: Checkout, tree: str, target: str) -> None:
    """Move what is in the folder that is wanted to where all should be."""
    name = checkout.subdir
    root = os.open(tree, _FOLDER)
    try:
        try:
            folder = syscalls.openat2(root, os.fsencode(name), _FOLDER, resolve=_INSIDE)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise NotFoundError(f"the repository has no folder {name}") from None
            raise StagewrightError(f"cannot use the folder {name} of the repository: {error.strerror}") from None
        try:
            for entry in os.listdir(folder):
                os.rename(entry, os.path.join(target, entry), src_dir_fd=folder)
        finally:
            os.close(folder)
    finally:
        os.close(root)
