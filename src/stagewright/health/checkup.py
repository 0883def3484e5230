"""A checkup of a state directory: what is wrong in it, and the removal of that, so that the next build makes it anew.

What is right here may look odd. A key whose result was pruned, a layer whose blob is known by its digest alone, an
image whose layers a registry has: builds know what to do about each. Leases and locks need no look, since the kernel
takes back those of the dead. While something uses the store, nothing is mended, and what may be in the making is passed
over.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

from stagewright.cache.leases import BuildLease, collecting
from stagewright.cache.locks import LockFile
from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError, StoreError
from stagewright.health.metadata import damage, rebuild
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, parse_manifest
from stagewright.reach import reach
from stagewright.records import replace
from stagewright.reports import StoreCheck, StoreProblem
from stagewright.snapshots.tree import remove_tree
from stagewright.sources.digests import is_readable
from stagewright.sources.git import lock_of, remote_of, wrong_with
from stagewright.sources.gitcli import GitRunner
from stagewright.sources.remote import URL_ROW
from stagewright.state import State

# A problem and what mends it.
_Found = tuple[StoreProblem, Callable[[], object]]
_NAMED_STEPS = 5
_DEAD = "was left by a process that died"
_STOPPED = "was not yet synced to the disk when the machine stopped"
# Tables of what is known of snapshots, with the column that names one, and what losing a row means.
_SPEAK_OF_SNAPSHOTS = {
    "cache_results": ("snapshot", "id", "the step runs again"),
    "content_digests": ("snapshot", "id", "files are read again"),
    "layer_blobs": ("dir", "dir", "nothing"),
    "lazy_layers": ("dir", "dir", "nothing"),
    "secret_searches": ("dir", "dir", "nothing"),
    "linked_files": ("dir", "dir", "nothing"),
    "context_copies": ("dir", "dir", "files are copied again"),
}


def check_store(root: Path, repair: bool) -> StoreCheck:
    """Check the state directory `root`, and mend it where that is asked for and nobody uses it.

    Raises StoreError where it cannot be read or, with `repair`, written.
    """
    if not root.is_dir():
        return StoreCheck((), False, 0, 0, 0)
    locks, path = LockFile(root / "locks"), root / "metadata.db"
    with ExitStack() as stack:
        alone = stack.enter_context(collecting(locks))
        mends = repair and alone
        problems: list[StoreProblem] = []
        what = damage(path)
        if what:
            problems.append(_damaged_file(path, what, mends))
            if not mends:
                return StoreCheck(tuple(problems), not alone, 0, 0, 0)
        with closing(State(str(root), {})) as state:
            checkup = _Checkup(state, mends, problems)
            checkup.run(checkup.rows(), checkup.snapshots())
            if alone:
                checkup.run(checkup.folders())
            if alone and not mends:
                # What takes long keeps no build from starting.
                stack.close()
                stack.enter_context(BuildLease(locks))
            checkup.run(checkup.blobs(), checkup.images(), checkup.resolutions())
            checkup.run(checkup.repositories(), checkup.history())
            if mends:
                state.db.unsynced.forget_lost()
            return StoreCheck(
                tuple(problems),
                not alone,
                blobs=checkup.blobs_seen,
                snapshots=len(state.snapshots.rows()),
                images=state.db.query("SELECT count(*) FROM images")[0][0],
            )


def forget_lost_snapshots(state: State) -> list[StoreProblem]:
    """Forget the snapshots whose folders are missing, with all that is built on them; answers what was wrong.

    Safe while builds run: of these files none can have any use.
    """
    problems: list[StoreProblem] = []
    checkup = _Checkup(state, mends=True, problems=problems)
    checkup.run(checkup.snapshots())
    return [problem for problem in problems if problem.kind == "snapshot"]


def forget_unsynced(state: State) -> str:
    """Forget what the machine may have lost when it stopped; answers in one line what that was, "" for nothing.

    Safe while builds run, all of which have begun with this.
    """
    problems: list[StoreProblem] = []
    checkup, unsynced = _Checkup(state, mends=True, problems=problems), state.db.unsynced
    # Most can be told from their digests, so that images stay whole.
    blobs = unsynced.lost("blob")
    damaged = sum(state.blobs.has(digest) and state.blobs.discard_damaged(digest) for digest in blobs)
    with state.db.transaction():
        before = len(state.snapshots.rows())
        checkup.run(checkup.snapshots())
        snapshots = before - len(state.snapshots.rows())
        mounts = state.cache_mounts.forget_lost()
        unsynced.forget_lost()
    counts = {"snapshot": snapshots, "cache mount": mounts, "blob": damaged}
    lost = ", ".join(f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count)
    return f"the machine stopped before all of the last builds was on its disk: made anew is {lost}" if lost else ""


def _damaged_file(path: Path, what: str, mends: bool) -> StoreProblem:
    costs = (
        "the build cache; images keep those names that can still be read, where all of their blobs are whole;"
        " others can be tagged by digest until a prune"
    )
    problem = StoreProblem("metadata", str(path), f"is damaged: {what}", costs)
    if not mends:
        return problem
    aside, kept = rebuild(path, BlobStore(path.parent / "content"))
    told = f"{problem.wrong}; it is {aside} now, images kept: {', '.join(kept) or 'none'}"
    return replace(problem, wrong=told, repaired=True)


class _Checkup:
    """The looks into one store. With `mends` what is found is mended at once."""

    def __init__(self, state: State, mends: bool, problems: list[StoreProblem]) -> None:
        self._state = state
        self._mends = mends
        self._problems = problems
        self._damaged: set[str] = set()
        self.blobs_seen = 0

    def run(self, *looks: Iterator[_Found]) -> None:
        """Take what looks find."""
        for look in looks:
            for problem, mend in look:
                if self._mends:
                    mend()
                self._problems.append(replace(problem, repaired=self._mends))

    # --- the metadata and the folders -----------------------------------------------------------------------------

    def rows(self) -> Iterator[_Found]:
        """Rows that speak of snapshots that are not there."""
        db = self._state.db
        for table, (column, target, cost) in _SPEAK_OF_SNAPSHOTS.items():
            where = f"{column} IS NOT NULL AND {column} NOT IN (SELECT {target} FROM snapshots)"  # noqa: S608
            count = db.query(f"SELECT count(*) FROM {table} WHERE {where}")[0][0]  # noqa: S608
            if count:
                yield (
                    StoreProblem("rows", table, f"{count} speak of snapshots that are not there", cost),
                    partial(db.execute, f"DELETE FROM {table} WHERE {where}"),  # noqa: S608
                )

    def snapshots(self) -> Iterator[_Found]:
        """Snapshots without their folder or their parent, and all that is built on those."""
        snapshots = self._state.snapshots
        lazy = {name for (name,) in self._state.db.query("SELECT dir FROM lazy_layers")}
        unsynced = set(self._state.db.unsynced.lost("snapshot"))
        known: set[int] = set()
        # What each one that is broken is broken by, and all that goes with that one.
        causes: dict[int, int] = {}
        lost: dict[int, set[int]] = {}
        wrong: dict[int, str] = {}
        # A child's id is always above its parent's.
        for row in snapshots.rows():
            known.add(row.id)
            cause = causes.get(row.parent) if row.parent is not None else None
            if cause is None:
                if row.parent is not None and row.parent not in known:
                    wrong[row.id] = f"the snapshot {row.parent} that it is built on is not there"
                elif row.dir not in lazy and not os.path.isdir(snapshots.folder_named(row.dir)):
                    wrong[row.id] = f"its folder {snapshots.folder_named(row.dir)} is missing"
                elif row.dir in unsynced and row.dir not in lazy:
                    wrong[row.id] = f"its folder {snapshots.folder_named(row.dir)} {_STOPPED}"
                else:
                    continue
                cause = row.id
            causes[row.id] = cause
            lost.setdefault(cause, set()).add(row.id)
        for cause, ids in lost.items():
            costs = f"what it holds is built or unpacked again{self._and_steps(ids)}"
            yield StoreProblem("snapshot", str(cause), wrong[cause], costs), partial(self._forget, ids)

    def _and_steps(self, snapshots: set[int]) -> str:
        names = [
            name
            for snapshot, name in self._state.db.query("SELECT snapshot, name FROM cache_results ORDER BY created")
            if snapshot in snapshots
        ]
        if not names:
            return ""
        more = f" and {len(names) - _NAMED_STEPS} more" if len(names) > _NAMED_STEPS else ""
        return f", with the steps that led to it or came after: {', '.join(names[:_NAMED_STEPS])}{more}"

    def _forget(self, snapshots: set[int]) -> None:
        self._state.snapshots.forget(snapshots)
        self.run(self.rows())

    def folders(self) -> Iterator[_Found]:
        """What dead processes have left, and folders and rows that lack each other. For when nobody uses the store."""
        state = self._state
        snapshots, db = state.snapshots, state.db
        known = {name for (name,) in db.query("SELECT dir FROM snapshots")}
        root = snapshots.folder_named("")
        orphans = [name for name in _names(root) if name.isdecimal() and name not in known]
        dead = [os.path.join(part, name) for part in ("drafts", "trash") for name in _names(os.path.join(root, part))]
        for name in (*orphans, *dead):
            yield _left(os.path.join(root, name), "a folder that no snapshot has" if name in orphans else _DEAD)
        ingest = str(state.root / "content" / "ingest")
        for name in _names(ingest):
            yield _left(os.path.join(ingest, name), _DEAD)
        for note in state.cache_mounts.lent_notes():
            problem = StoreProblem("cache mount", note, "was moved into a step whose build died", "nothing")
            yield problem, state.cache_mounts.bring_back
        unsynced = set(db.unsynced.lost("cache mount"))
        for identity, name in db.query("SELECT id, dir FROM cache_mounts"):
            is_there = (state.root / "mounts" / name).is_dir()
            if not is_there or name in unsynced:
                wrong = f"its folder {name} {_STOPPED if is_there else 'is missing'}"
                yield (
                    StoreProblem("cache mount", identity, wrong, "it begins empty again"),
                    partial(db.execute, "DELETE FROM cache_mounts WHERE dir = ?", (name,)),
                )
        for folder in state.cache_mounts.unnamed():
            yield _left(folder, "a folder that no cache mount has")
        for name in _names(str(state.context_indexes)):
            index = state.context_indexes / name
            if not is_readable(index):
                wrong = "is no stat index of this version"
                costs = "the files of a build context are read again"
                yield StoreProblem("stat index", str(index), wrong, costs), partial(index.unlink, missing_ok=True)

    # --- content --------------------------------------------------------------------------------------------------

    def blobs(self) -> Iterator[_Found]:
        """Blobs whose bytes are not what their digests say."""
        blobs = self._state.blobs
        for digest, _ in sorted(blobs.digests()):
            self.blobs_seen += 1
            if not blobs.is_whole(digest) and blobs.has(digest):
                self._damaged.add(digest)
                costs = "it is fetched or made anew when something needs it"
                problem = StoreProblem("blob", digest, "its bytes are not what its digest says", costs)
                yield problem, partial(blobs.discard_damaged, digest)

    def images(self) -> Iterator[_Found]:
        """Names that lead to what is damaged or not here."""
        db = self._state.db
        for name, text in db.query("SELECT name, descriptor FROM images ORDER BY name"):
            wrong = self._wrong_with_image(text)
            if wrong:
                costs = "the name; build, pull or load the image again"
                problem = StoreProblem("image", name, wrong, costs)
                yield problem, partial(db.execute, "DELETE FROM images WHERE name = ?", (name,))

    def _wrong_with_image(self, text: str) -> str:
        """What is wrong with the image that a descriptor leads to; "" for nothing."""
        try:
            target = Descriptor.from_json(json.loads(text))
        except (ValueError, IntegrityError):
            return "what it leads to cannot be read"
        damaged = sorted(reach(self._state.blobs, [target]).blobs & self._damaged)
        if damaged:
            return f"it is made of damaged blobs: {', '.join(damaged)}"
        try:
            self._check_documents(target)
        except (NotFoundError, IntegrityError) as error:
            return error.message
        return ""

    def _check_documents(self, target: Descriptor) -> None:
        """Raise what is wrong with the documents of an image; of an index one image must be here, or as good as."""
        document = parse_manifest(self._state.blobs.read(target.digest), target.media_type)
        if not isinstance(document, Index):
            if not self._state.blobs.has(document.config.digest, document.config.size):
                raise NotFoundError(f"its config {document.config.digest} is not in the store")
            return None
        for entry in document.manifests:
            with suppress(NotFoundError, IntegrityError):
                return self._check_documents(entry)
        raise NotFoundError(f"no image of index {target.digest} is in the store")

    def resolutions(self) -> Iterator[_Found]:
        """What names were last resolved to, where that cannot be read."""
        db = self._state.db
        for name, text in db.query("SELECT name, value FROM resolutions WHERE name NOT LIKE ?", (f"{URL_ROW}%",)):
            try:
                Descriptor.from_json(json.loads(text))
            except (ValueError, IntegrityError):
                problem = StoreProblem("resolution", name, "cannot be read", "its registry is asked again")
                yield problem, partial(db.execute, "DELETE FROM resolutions WHERE name = ?", (name,))


    # --- what was fetched by git, and the records of builds -------------------------------------------------------

    def repositories(self) -> Iterator[_Found]:
        """Bare repositories in which git finds something wrong."""
        folder = self._state.git_repositories
        runner = GitRunner(os.environ, threading.Event())
        for name in _names(str(folder)):
            with self._state.locks.hold(lock_of(name)):
                wrong = wrong_with(folder / name, runner)
                if wrong:
                    what = remote_of(folder / name) or str(folder / name)
                    problem = StoreProblem("git repository", what, f"git says: {wrong}", "it is fetched again")
                    yield problem, partial(_remove, str(folder / name))

    def history(self) -> Iterator[_Found]:
        """Records of builds that cannot be read."""
        history = self._state.history
        for path, wrong in history.problems():
            costs = "what it says of a build"
            yield StoreProblem("history", str(path), wrong, costs), partial(history.discard, path)


def _left(path: str, wrong: str) -> _Found:
    return StoreProblem("leftover", path, wrong, "nothing"), partial(_remove, path)


def _remove(path: str) -> None:
    try:
        remove_tree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}") from error


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
