"""What an image is made of, as flat facts that can be compared: its config, its layers and every path of its files.

Reads the archives of `docker save` with nothing but Python's tarfile, so that no tool under test has a say in it.
"""

from __future__ import annotations

import hashlib
import json
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
KINDS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
# An image's times and the container settings of its making differ from build to build.
HISTORY_FACTS = ("created_by", "comment", "empty_layer", "author")
XATTR = "SCHILY.xattr."

Facts = dict[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """One file of any kind, without its names."""

    mode: str
    owner: str
    content: str
    xattrs: str
    serial: int

    def __str__(self) -> str:
        return " ".join(part for part in (self.mode, self.owner, self.content, self.xattrs) if part)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of a layer: a node at a path, a second name of another path, or a whiteout."""

    path: str
    node: Node | None = None
    linked: str | None = None


@dataclass(slots=True)
class ImageReader:
    """Reads images and remembers the layers that it knows, since images share their bases."""

    layers: dict[str, list[Change]] = field(default_factory=dict)

    def facts(self, archive: Path) -> Facts:
        """The facts of the only image in an archive of `docker save`."""
        with tarfile.open(archive) as outer:
            (manifest,) = json.load(member(outer, "manifest.json"))
            config = json.load(member(outer, manifest["Config"]))
            layers = []
            for diff_id, name in zip(config["rootfs"]["diff_ids"], manifest["Layers"], strict=True):
                if diff_id not in self.layers:
                    self.layers[diff_id] = list(changes(member(outer, name)))
                layers.append(self.layers[diff_id])
        return config_facts(config) | layer_facts(layers) | path_facts(layers)


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """One file of an archive, open for reading."""
    opened = archive.extractfile(name)
    assert opened is not None, f"{name} is no file"
    return opened


def changes(layer: IO[bytes]) -> Iterator[Change]:
    """The entries of a layer's archive, compressed or not."""
    with tarfile.open(fileobj=layer, mode="r:*") as archive:
        for serial, info in enumerate(archive):
            path = "/" + info.name.removeprefix("./").strip("/")
            folder, _, name = path.rpartition("/")
            if name.startswith(WHITEOUT):
                yield Change(path if name == OPAQUE else f"{folder}/{name.removeprefix(WHITEOUT)}")
            elif info.islnk():
                yield Change(path, linked="/" + info.linkname.removeprefix("./").strip("/"))
            else:
                yield Change(path, node_of(archive, info, serial))


def node_of(archive: tarfile.TarFile, info: tarfile.TarInfo, serial: int) -> Node:
    """What an archive's entry says of a file."""
    if info.isreg():
        content = hashlib.sha256(member_of(archive, info)).hexdigest()[:16]
    elif info.issym():
        content = f"-> {info.linkname}"
    else:
        content = f"{info.devmajor}:{info.devminor}" if info.isdev() and not info.isfifo() else ""
    xattrs = {name.removeprefix(XATTR): text for name, text in info.pax_headers.items() if name.startswith(XATTR)}
    mode = stat.filemode(KINDS[info.type] | info.mode)
    return Node(mode, f"{info.uid}:{info.gid}", content, str(dict(sorted(xattrs.items()))) if xattrs else "", serial)


def member_of(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """A regular file's bytes."""
    opened = archive.extractfile(info)
    assert opened is not None
    return opened.read()


def config_facts(config: dict[str, Any]) -> Facts:
    """The image config's facts: what a container gets, the platform, and the history."""
    facts = {f"config/{name}": as_text(value) for name, value in config["config"].items() if value not in (None, "")}
    facts |= {name: as_text(config.get(name)) for name in ("architecture", "os", "variant", "author")}
    for number, entry in enumerate(config.get("history") or ()):
        facts |= {f"history/{number}/{name}": as_text(entry.get(name)) for name in HISTORY_FACTS}
    facts["history/length"] = str(len(config.get("history") or ()))
    return facts


def as_text(value: object) -> str:
    """A JSON value in one spelling."""
    return json.dumps(value, sort_keys=True)


def layer_facts(layers: list[list[Change]]) -> Facts:
    """How many layers there are, and which paths each of them holds or takes away.

    Folders are left out: builders may name those above a change, or may not, and mark new ones as opaque, or may not.
    """
    facts = {"layers": str(len(layers))}
    for number, layer in enumerate(layers):
        paths = {c.path for c in layer if not c.path.endswith(OPAQUE) and (c.node is None or c.node.mode[0] != "d")}
        facts[f"layer/{number}"] = "\n".join(sorted(paths))
    return facts


def path_facts(layers: list[list[Change]]) -> Facts:
    """Every path of the layers put together, with its file and the other names of it."""
    tree: dict[str, tuple[int, Node]] = {}
    for number, layer in enumerate(layers):
        # A whiteout speaks of the layers below only, wherever it stands in its own.
        for change in layer:
            if change.node is None and change.linked is None:
                remove(tree, change.path)
        for change in layer:
            if change.linked is not None:
                tree[change.path] = tree[change.linked]
            elif change.node is not None:
                if not change.node.mode.startswith("d"):
                    remove(tree, change.path)
                tree[change.path] = (number, change.node)
    names: dict[tuple[int, int], list[str]] = {}
    for path, (number, node) in tree.items():
        names.setdefault((number, node.serial), []).append(path)
    facts = {}
    for path, (number, node) in tree.items():
        linked = sorted(names[number, node.serial])
        facts[f"path{path}"] = str(node) if len(linked) == 1 else f"{node} = {' '.join(linked)}"
    return facts


def remove(tree: dict[str, tuple[int, Node]], path: str) -> None:
    """Take a path and all below it out of the tree; for an opaque marker only what is below its folder."""
    folder, _, name = path.rpartition("/")
    below = f"{folder}/" if name == OPAQUE else f"{path}/"
    for known in [known for known in tree if known.startswith(below)]:
        del tree[known]
    if name != OPAQUE:
        tree.pop(path, None)
