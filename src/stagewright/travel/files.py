"""The list of a cache mount's files: what each is, and which blob its content is in.

Contents lie in packs, blobs that are the contents of some files one behind the other, compressed by zstd. Each content
is there once, by its digest, however many files have it. Nothing in a list is of the machine that wrote it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

from stagewright.errors import IntegrityError
from stagewright.image.digest import validate_digest
from stagewright.image.gojson import Fields, loads_object
from stagewright.records import dataclass
from stagewright.snapshots import owners
from stagewright.snapshots.overlay import is_overlay_xattr

LIST_TYPE = "application/vnd.stagewright.cachemount.list.v1+json+zstd"
PACK_TYPE = "application/vnd.stagewright.cachemount.pack.v1+zstd"
_MAX_LIST = 256 << 20
_LEVEL = 3
# The kernel takes it for "as it is".
_NO_ID = (1 << 32) - 1
_CAPABILITY = "security.capability"

Kind = Literal["file", "dir", "link", "hard"]


@dataclass(frozen=True, slots=True)
class Pack:
    """A blob of contents: its digest and its size in bytes; `contents` are (digest, size) of each, in their order."""

    digest: str
    size: int
    contents: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a cache mount's folder, "" for the folder itself.

    `mtime` is in nanoseconds. `target` is what a link leads to, the path of another entry for a hard link (which has
    nothing else of its own), and the digest of a file's content. `xattrs` are those extended attributes that travel, in
    the order of their names: capabilities and what is of the user's own kind.
    """

    path: str
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    target: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()


def has_place(xattr: str) -> bool:
    """Whether an extended attribute means on another machine what it means here."""
    own = xattr == owners.ATTRIBUTE or is_overlay_xattr(xattr)
    return xattr == _CAPABILITY or (xattr.startswith("user.") and not own)


@dataclass(frozen=True, slots=True)
class FileList:
    """All files of a cache mount, in the order of their paths, folders before what is in them."""

    entries: tuple[Entry, ...]
    packs: tuple[Pack, ...]

    def to_bytes(self) -> bytes:
        """The document, compressed."""
        import zstandard

        value = {
            "packs": [{"blob": p.digest, "size": p.size, "contents": list(map(list, p.contents))} for p in self.packs],
            "entries": [_entry_json(entry) for entry in self.entries],
        }
        # Names may be any bytes: JSON's escapes keep those that are no characters.
        text = json.dumps(value, separators=(",", ":"))
        return zstandard.ZstdCompressor(level=_LEVEL).compress(text.encode())

    @staticmethod
    def from_bytes(data: bytes) -> FileList:
        """Read a document. Raises IntegrityError for one that is damaged, or would write outside of its folder."""
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(data) as stream:
                text = stream.read(_MAX_LIST + 1)
        except zstandard.ZstdError as error:
            raise IntegrityError(f"list of a cache mount is damaged: {error}") from None
        if len(text) > _MAX_LIST:
            raise IntegrityError(f"list of a cache mount is larger than {_MAX_LIST} bytes")
        fields = Fields(loads_object(text, "list of a cache mount"), "list of a cache mount")
        packs = tuple(_pack(entry) for entry in fields.objects("packs"))
        kinds: dict[str, str] = {}
        entries = tuple(_entry(entry, kinds) for entry in fields.objects("entries"))
        if not entries or entries[0].path:
            raise IntegrityError("list of a cache mount does not begin with its folder")
        missing = {e.target for e in entries if e.kind == "file"} - {c for pack in packs for c, _ in pack.contents}
        if missing:
            raise IntegrityError(f"list of a cache mount has no blob for the content {min(missing)}")
        return FileList(entries, packs)


def _entry_json(entry: Entry) -> dict[str, Any]:
    value: dict[str, Any] = {"path": entry.path, "kind": entry.kind}
    if entry.kind != "hard":
        value |= {"mode": entry.mode, "uid": entry.uid, "gid": entry.gid, "mtime": entry.mtime}
    if entry.xattrs:
        value["xattrs"] = [[name, base64.b64encode(data).decode()] for name, data in entry.xattrs]
    return {**value, "target": entry.target} if entry.target else value


def _pack(fields: Fields) -> Pack:
    contents = fields.raw("contents")
    if not isinstance(contents, list) or not all(_is_content(content) for content in contents):
        raise IntegrityError(f"{fields.what}: contents is not a list of digests and sizes")
    found = tuple((validate_digest(digest), size) for digest, size in contents)
    return Pack(validate_digest(fields.raw("blob")), fields.integer("size"), found)


def _is_content(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and type(value[1]) is int and value[1] >= 0


def _entry(fields: Fields, kinds: dict[str, str]) -> Entry:
    """One entry; `kinds` are those of the paths before it."""
    path, kind, target = fields.string("path"), fields.string("kind"), fields.string("target")
    _check_place(fields.what, path, kind, kinds)
    if kind == "hard" and kinds.get(target) not in ("file", "link"):
        raise IntegrityError(f"{fields.what}: the file that it is another name of is not before it")
    if kind == "file":
        validate_digest(target)
    if kind == "link" and (not target or "\0" in target):
        raise IntegrityError(f"{fields.what}: the link leads nowhere")
    mode, uid, gid = fields.integer("mode"), fields.integer("uid"), fields.integer("gid")
    if not 0 <= mode <= 0o7777 or max(uid, gid) >= _NO_ID or min(uid, gid) < 0:
        raise IntegrityError(f"{fields.what}: mode or owner is out of range")
    kinds[path] = kind
    xattrs = _xattrs(fields)
    if xattrs and kind not in ("file", "dir"):
        raise IntegrityError(f"{fields.what}: extended attributes of what has none")
    return Entry(path, kind, mode, uid, gid, fields.integer("mtime"), target, xattrs)  # type: ignore[arg-type]


def _xattrs(fields: Fields) -> tuple[tuple[str, bytes], ...]:
    value = fields.raw("xattrs")
    if value is None:
        return ()
    try:
        found = tuple((str(name), base64.b64decode(text, validate=True)) for name, text in value)
        good = all(has_place(name) and "\0" not in name and os.fsencode(name) for name, _ in found)
    except (TypeError, ValueError):  # Whatever is not a list of pairs of texts.
        good = False
    if not good:
        raise IntegrityError(f"{fields.what}: its extended attributes are none that travel")
    return found


def _check_place(what: str, path: str, kind: str, kinds: Mapping[str, str]) -> None:
    """Raise IntegrityError unless an entry lies in a folder of the same list, under a name of its own."""
    if kind not in ("file", "dir", "link", "hard"):
        raise IntegrityError(f"{what}: unknown kind {kind!r}")
    parent, _, name = path.rpartition("/")
    if path == "" and kind == "dir" and not kinds:
        return
    if path in kinds or name in ("", ".", "..") or "\0" in path or kinds.get(parent) != "dir":
        raise IntegrityError(f"{what}: its path {path!r} is not in a folder of the list, or there twice")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise IntegrityError(f"{what}: its path is no name of a file") from None
