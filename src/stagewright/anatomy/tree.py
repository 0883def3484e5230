"""The files of an image, layer by layer, read from the layers' archives as they lie in the store."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from stagewright.content.blobs import BlobStore
from stagewright.image.config import ImageConfig
from stagewright.image.manifest import Manifest
from stagewright.records import dataclass, field
from stagewright.snapshots.streams import decompressed
from stagewright.snapshots.tarreader import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, TarEntry, TarReader

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_KINDS = {REGULAR: "file", HARD_LINK: "file", SYMLINK: "link", DIRECTORY: "folder"}
# Lists of packages are smaller; what is larger only calls itself one.
_MAX_KEPT = 64 << 20


@dataclass(slots=True)
class File:
    """One path of an image: `size` in bytes (0 for another name of a file that is counted), `target` of a link.

    `digest` is that of the content where it was asked for, `data` the content of a file that was to be kept; `layer` is
    the index of the layer that has it.
    """

    path: str
    kind: str
    mode: int
    owner: str
    size: int
    layer: int
    target: str = ""
    digest: str = ""
    data: bytes | None = None


@dataclass(slots=True)
class Layer:
    """One layer: what it brings, and what it takes from those below (the files that it replaced and deleted)."""

    digest: str
    diff_id: str
    instruction: str
    compressed: int
    files: int = 0
    size: int = 0
    overwritten: list[File] = field(default_factory=list)
    deleted: list[File] = field(default_factory=list)


@dataclass(slots=True)
class ImageTree:
    """The layers of an image, the lowest first, and the files that are left when all are laid on each other."""

    layers: list[Layer]
    files: dict[str, File]


def read_tree(
    blobs: BlobStore,
    manifest: Manifest,
    config: ImageConfig,
    *,
    with_digests: bool = False,
    keeps: Callable[[str], bool] = lambda path: False,
) -> ImageTree:
    """The files of an image. `keeps` says of a path whether its content is wanted.

    Raises NotFoundError where the store lacks a layer, and IntegrityError for one that is no archive.
    """
    instructions = [entry.created_by for entry in config.history if not entry.empty_layer]
    # Not all builders write a history.
    instructions += [""] * (len(manifest.layers) - len(instructions))
    tree = ImageTree([], {})
    for index, (blob, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True)):
        layer = Layer(blob.digest, diff_id, instructions[index], blob.size)
        with closing(blobs.open(blob.digest)) as stream:
            entries, hidden, emptied = _members(TarReader(decompressed(stream)), index, with_digests, keeps)
        _hide(tree.files, layer, entries, hidden, emptied)
        for path, entry in entries.items():
            known = tree.files.get(path)
            if known is not None and known.kind == "file":
                layer.overwritten.append(known)
            _resolve_hard_link(entry, entries, tree.files)
            tree.files[path] = entry
        layer.files = sum(entry.kind != "folder" for entry in entries.values())
        layer.size = sum(entry.size for entry in entries.values())
        tree.layers.append(layer)
    return tree


def _members(
    reader: TarReader, index: int, with_digests: bool, keeps: Callable[[str], bool]
) -> tuple[dict[str, File], set[str], set[str]]:
    """The files of one layer, the paths that it deletes, and the folders of which it hides what was in them."""
    entries: dict[str, File] = {}
    hidden: set[str] = set()
    emptied: set[str] = set()
    for member in reader:
        path = _path(member.name)
        folder, name = posixpath.split(path)
        if name == _OPAQUE:
            emptied.add(folder)
        elif name.startswith(_WHITEOUT):
            hidden.add(posixpath.join(folder, name.removeprefix(_WHITEOUT)))
        elif path:
            entries[path] = _file(member, path, index, reader.body(), with_digests, keeps)
    return entries, hidden, emptied


def _file(
    member: TarEntry,
    path: str,
    index: int,
    body: Iterator[memoryview],
    with_digests: bool,
    keeps: Callable[[str], bool],
) -> File:
    kind = _KINDS.get(member.type, "special")
    file = File(path, kind, member.mode & 0o7777, f"{member.uid}:{member.gid}", 0, index)
    if member.type == HARD_LINK:
        file.target = _path(member.link_name)
    elif member.type == SYMLINK:
        file.target = member.link_name.decode(errors="surrogateescape")
    elif member.type == REGULAR:
        file.size = member.size
        kept = keeps(path) and member.size <= _MAX_KEPT
        if with_digests or kept:
            content, pieces = hashlib.sha256(repr(member.regions).encode()), []
            for piece in body:
                content.update(piece)
                if kept:
                    pieces.append(bytes(piece))
            file.digest = content.hexdigest()
            file.data = b"".join(pieces) if kept else None
    elif kind == "special":
        file.target = f"{member.type.decode()} {member.device[0]}:{member.device[1]}"
    return file


def _path(name: bytes) -> str:
    """A member's path without a leading slash; "" for the root itself."""
    path = posixpath.normpath("/" + name.decode(errors="surrogateescape")).lstrip("/")
    return "" if path == "." else path


def _hide(files: dict[str, File], layer: Layer, entries: dict[str, File], hidden: set[str], emptied: set[str]) -> None:
    """Take away what a layer deletes of those below, and what was in folders that it replaces by something else."""
    replaced = {
        path
        for path, entry in entries.items()
        if entry.kind != "folder" and (known := files.get(path)) is not None and known.kind == "folder"
    }
    emptied = emptied | replaced
    if not hidden and not emptied:
        return
    for path in [path for path in files if _is_hidden(path, hidden, emptied)]:
        gone = files.pop(path)
        if gone.kind == "folder":
            continue
        # What the same layer puts in its place is there all the same.
        (layer.overwritten if path in entries else layer.deleted).append(gone)


def _is_hidden(path: str, hidden: set[str], emptied: set[str]) -> bool:
    if path in hidden:
        return True
    folder = posixpath.dirname(path)
    while True:
        if folder in emptied or (folder and folder in hidden):
            return True
        if not folder:
            return False
        folder = posixpath.dirname(folder)


def _resolve_hard_link(entry: File, entries: dict[str, File], files: dict[str, File]) -> None:
    """Give another name of a file the content of its first name."""
    if entry.kind == "file" and entry.target:
        first = entries.get(entry.target) or files.get(entry.target)
        if first is not None:
            entry.digest, entry.data = first.digest, first.data


def folder_sizes(files: Sequence[File], most: int) -> list[tuple[str, int]]:
    """The largest folders with the bytes of all that is in them; of those that are nearly all of another one folder
    only that."""
    sizes: dict[str, int] = {}
    for file in files:
        folder = posixpath.dirname(file.path)
        while folder:
            sizes[folder] = sizes.get(folder, 0) + file.size
            folder = posixpath.dirname(folder)
    largest_child: dict[str, int] = {}
    for folder, size in sizes.items():
        parent = posixpath.dirname(folder)
        largest_child[parent] = max(largest_child.get(parent, 0), size)
    telling = [(folder, size) for folder, size in sizes.items() if size and largest_child.get(folder, 0) < 0.9 * size]
    return sorted(telling, key=lambda item: (-item[1], item[0]))[:most]
