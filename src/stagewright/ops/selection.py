"""Which files of a tree a copy takes, and the digest of just those."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator

from stagewright.dockerfile.wildcard import has_wildcards, match
from stagewright.graph.ops import CopyAction
from stagewright.records import dataclass
from stagewright.sources.digests import FileDigests, describe
from stagewright.sources.tree import Entry, Tree


@dataclass(frozen=True, slots=True)
class Selected:
    """One source of a copy: what was found, and the name under which it goes into a folder."""

    name: str
    entry: Entry


def select(tree: Tree, action: CopyAction) -> list[Selected]:
    """The sources that a copy action names, wildcards expanded, in order.

    Raises NotFoundError for a name that does not exist; a wildcard may match nothing.
    """
    source = posixpath.normpath("/" + action.source).lstrip("/")
    paths: list[str] | Iterator[str] = [source]
    if action.wildcard and has_wildcards(source):
        paths = _expand(tree, source)
    found = []
    for path in paths:
        entry = tree.entry(tree.resolve(path, follow_last=action.follow_source_link))
        found.append(Selected(posixpath.basename(path), entry))
    return found


def _expand(tree: Tree, pattern: str) -> Iterator[str]:
    parts = pattern.split("/")
    literal = 0
    while not has_wildcards(parts[literal]):
        literal += 1
    base = tree.resolve("/".join(parts[:literal]))
    yield from _matches(tree, base, parts[literal:])


def _matches(tree: Tree, folder: str, parts: list[str]) -> Iterator[str]:
    try:
        entries = list(tree.children(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if match(parts[0], posixpath.basename(entry.path)):
            if len(parts) == 1:
                yield entry.path
            elif entry.is_dir:
                yield from _matches(tree, entry.path, parts[1:])


def content_digest(tree: Tree, actions: list[CopyAction], digests: FileDigests) -> str:
    """The digest of all that the actions would copy from the tree: names, modes, owners, contents; not times."""
    content = hashlib.sha256()
    for action in actions:
        for selected in select(tree, action):
            entry = selected.entry
            if entry.is_dir:
                content.update(f"folder {'' if action.contents else selected.name}\n".encode(errors="surrogateescape"))
                start = len(entry.path) + 1 if entry.path else 0
                lines = (describe(tree, item, item.path[start:], digests) for item in tree.walk(entry.path))
                content.update("".join(lines).encode(errors="surrogateescape"))
            else:
                line = describe(tree, entry, selected.name, digests)
                content.update(line.encode(errors="surrogateescape"))
        content.update(b"end\n")
    return "sha256:" + content.hexdigest()
