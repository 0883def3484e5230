"""Which files of a tree a copy takes, and the digest of just those."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterable, Iterator

from stagewright.dockerfile.wildcard import SourcePattern, has_wildcards
from stagewright.errors import NotFoundError
from stagewright.graph.ops import CopyAction
from stagewright.ops.filtering import taken
from stagewright.records import dataclass
from stagewright.sources.digests import FileDigests, describe
from stagewright.sources.tree import Entry, Tree

# Records that are encoded and hashed at once.
_BATCH = 256

# Some files at a time: their paths in the tree, with NUL between them, and what `describe` says of them, joined.
Listing = list[tuple[str, str]]
# Is told the files behind a digest.
Note = Callable[[str, Listing], None]


@dataclass(frozen=True, slots=True)
class Selected:
    """One source of a copy: what was found, and the name under which it goes into a folder."""

    name: str
    entry: Entry


def select(tree: Tree, action: CopyAction) -> list[Selected]:
    """The sources that a copy action names, wildcards expanded, in order; a source that is a link is followed.

    Raises NotFoundError for a name that does not exist, for a folder before the first wildcard that does not, for a
    required path that does not, and for a wildcard without a match unless it is optional.
    """
    for path in action.required:
        tree.named(path.lstrip("/"))
    source = posixpath.normpath("/" + action.source).lstrip("/")
    if not action.wildcard or not has_wildcards(source):
        return [Selected(posixpath.basename(source), tree.named(source))]
    pattern = SourcePattern(source)
    top = tree.named(pattern.folder)
    found = [_selected(tree, path) for path in _matches(tree, pattern, top.path, "")]
    if not found and not action.optional:
        raise NotFoundError(f'"/{source}": not found')
    return found


def _selected(tree: Tree, path: str) -> Selected:
    return Selected(posixpath.basename(path), tree.entry(tree.resolve(path)))


def _matches(tree: Tree, pattern: SourcePattern, folder: str, prefix: str) -> Iterator[str]:
    # Folders may be nested deeper than Python's stack.
    pending = [(prefix, tree.children(folder))]
    while pending:
        prefix, entries = pending[-1]
        entry = next(entries, None)
        if entry is None:
            pending.pop()
            continue
        name = prefix + posixpath.basename(entry.path)
        if pattern.matches(name):
            yield entry.path
        elif entry.is_dir and pattern.may_match_below(name):
            pending.append((name + "/", tree.children(entry.path)))


def content_digest(
    tree: Tree,
    actions: Iterable[CopyAction],
    digests: FileDigests,
    check: Callable[[], None],
    note: Note | None,
) -> str:
    """The digest of all that the actions would copy from the tree: names, modes, owners, contents; not times.

    `check` is called now and then, and may raise. `note` is told the files.
    """
    content = _Content(note)
    with tree.at_hand() as files:
        for action in actions:
            for selected in select(files, action):
                entry = selected.entry
                if entry.is_dir:
                    content.mark(b"folder\0")
                    _add_below(content, files, entry, taken(files, entry, action), digests, check)
                else:
                    content.add([entry.path], [describe(files, entry, selected.name, digests)])
            content.mark(b"end\0")
    return content.done()


def mount_digest(
    tree: Tree,
    selectors: Iterable[str],
    digests: FileDigests,
    check: Callable[[], None],
    note: Note | None,
) -> str:
    """The digest of all that can be seen where these paths of the tree (files or folders) are mounted; not times.

    Raises NotFoundError for a path that does not exist. `note` is told the files.
    """
    content = _Content(note)
    with tree.at_hand() as files:
        for selector in selectors:
            entry = files.named(selector)
            content.add([entry.path], [describe(files, entry, "", digests)])
            if entry.is_dir:
                _add_below(content, files, entry, files.runs(entry.path), digests, check)
            content.mark(b"end\0")
    return content.done()


class _Content:
    """A digest in the making, and the files that went into it."""

    def __init__(self, note: Note | None) -> None:
        self._hash = hashlib.sha256()
        self._note = note
        self._listing: Listing = []

    def mark(self, mark: bytes) -> None:
        self._hash.update(mark)

    def add(self, paths: list[str], records: list[str]) -> None:
        text = "".join(records)
        self._hash.update(text.encode(errors="surrogateescape"))
        if self._note is not None and paths:
            self._listing.append(("\0".join(paths), text))

    def done(self) -> str:
        digest = "sha256:" + self._hash.hexdigest()
        if self._note is not None:
            self._note(digest, self._listing)
        return digest


def _add_below(
    content: _Content,
    tree: Tree,
    top: Entry,
    runs: Iterable[list[Entry]],
    digests: FileDigests,
    check: Callable[[], None],
) -> None:
    start = len(top.path) + 1 if top.path else 0
    paths: list[str] = []
    records: list[str] = []
    for run in runs:
        paths += [entry.path for entry in run]
        records += _described(tree, run, start, digests, check)
        if len(records) >= _BATCH:
            check()
            content.add(paths, records)
            paths.clear()
            records.clear()
    content.add(paths, records)


def _described(tree: Tree, run: list[Entry], start: int, digests: FileDigests, check: Callable[[], None]) -> list[str]:
    """What `describe` says of entries of one folder, under their paths from `start` on."""
    files = run[:-1] if run[-1].is_dir else run
    known = digests.known(files) if files and tree.owner else None
    if known is None or tree.owner is None:
        records = []
        for entry in run:
            check()
            records.append(describe(tree, entry, entry.path[start:], digests))
        return records
    # Only regular files are known at once.
    uid, gid = tree.owner
    mode, fields = -1, ""
    records = []
    for entry, digest in zip(files, known, strict=True):
        if entry.info.st_mode != mode:
            mode = entry.info.st_mode
            fields = f"\0{mode:o}\0{uid}\0{gid}\0"
        records.append(f"{entry.path[start:]}{fields}{digest.hex()}\0")
    return records + [describe(tree, entry, entry.path[start:], digests) for entry in run[len(files) :]]
