"""Reads images from archives into the store: OCI image layouts in a tar, and what `docker save` writes, old and new.

The archive is read once, from its beginning to its end, so it may come through a pipe. No member's name ever becomes
a path: content goes into the blob store under its digest, and names are looked up in a table.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError, UsageError
from stagewright.image import mediatypes
from stagewright.image.config import MAX_CONFIG_SIZE, ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import is_digest, split_digest
from stagewright.image.gojson import Fields, json_problem, loads_object
from stagewright.image.manifest import MAX_MANIFEST_SIZE, Index, Manifest, parse_manifest
from stagewright.reach import image_manifest
from stagewright.records import dataclass, replace
from stagewright.registry.reference import Reference
from stagewright.snapshots.streams import PIECE, decompressed
from stagewright.snapshots.tarreader import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Readable, TarEntry, TarReader, shown

_MAX_MEMBERS = 100_000
_MAX_NESTING = 4
# The kernel's PATH_MAX; a compressed archive can hold names of a megabyte for next to nothing.
_MAX_NAME = 4096
_MAX_NAMES = 64 << 20
_LINKS_FOLLOWED = 8
_DOCUMENTS = frozenset({"manifest.json", "index.json", "oci-layout"})
# What Docker wrote for versions before 1.10, beside all that matters.
_LEGACY = frozenset({"json", "VERSION", "repositories"})
# By which containerd and Docker, and other OCI tools, name an image of a layout.
_IMAGE_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image of an archive, whose blobs are all in the store now. `names` may be empty."""

    descriptor: Descriptor
    names: tuple[Reference, ...]


def load_images(stream: Readable, blobs: BlobStore) -> list[LoadedImage]:
    """Bring all images of an archive, plain or compressed, into the blob store.

    Raises IntegrityError for what is no such archive, for content that is not what its digest says, for images that are
    not whole, and for names that are none or lead out of the archive. Blobs that came before the error stay, nameless.
    """
    archive = _Archive(blobs)
    source = decompressed(stream)
    reader = TarReader(source)
    for count, entry in enumerate(reader):
        if count >= _MAX_MEMBERS:
            raise IntegrityError(f"the archive has more than {_MAX_MEMBERS} members")
        archive.add(entry, reader.body())
    # What is left is padding, but a writer at the other end of a pipe must not fail for it.
    while source.read(PIECE):
        pass
    return archive.images()


class _Archive:
    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._documents: dict[str, bytes] = {}
        self._files: dict[str, Descriptor] = {}
        self._links: dict[str, str] = {}
        # By blob and algorithm: a config may name one layer any number of times.
        self._diff_ids: dict[tuple[str, str], str] = {}
        # Indexes may name each other's images any number of times, which is no reason to look at them as often.
        self._checked: dict[tuple[str, str, int, int], bool] = {}
        self._chosen: dict[str, tuple[Descriptor, Manifest]] = {}
        self._names_bytes = 0

    def add(self, entry: TarEntry, body: Iterable[memoryview]) -> None:
        """Take one member in."""
        name = _member_name(entry.name)
        self._names_bytes += len(entry.name) + len(entry.link_name)
        if self._names_bytes > _MAX_NAMES:
            raise IntegrityError(f"the names in the archive have more than {_MAX_NAMES} bytes")
        if entry.type == DIRECTORY or posixpath.basename(name) in _LEGACY:
            return
        if name in self._files or name in self._links or name in self._documents:
            raise IntegrityError(f"the archive has two members {shown(entry.name)}")
        if entry.type in (SYMLINK, HARD_LINK):
            base = posixpath.dirname(name) if entry.type == SYMLINK else ""
            self._links[name] = _member_name(entry.link_name, base)
        elif entry.type != REGULAR or entry.regions is not None:
            raise IntegrityError(f"archive member {shown(entry.name)} is not an ordinary file")
        elif name in _DOCUMENTS:
            if entry.size > MAX_MANIFEST_SIZE:
                raise IntegrityError(f"archive member {shown(entry.name)} is larger than {MAX_MANIFEST_SIZE} bytes")
            self._documents[name] = b"".join(body)
        else:
            self._store(name, entry.size, body)

    def _store(self, name: str, size: int, body: Iterable[memoryview]) -> None:
        digest = _blob_digest(name)
        if digest is None or not self._blobs.has(digest):
            with self._blobs.writer(expected=digest, size=size) as writer:
                for piece in body:
                    writer.write(piece)
                digest = writer.commit()
        self._files[name] = Descriptor("", digest, size)

    def images(self) -> list[LoadedImage]:
        """What the archive holds. Where it is of both kinds, the OCI layout says more."""
        if "index.json" in self._documents:
            layout = loads_object(self._documents.get("oci-layout", b"{}"), "oci-layout")
            if not str(layout.get("imageLayoutVersion", "")).startswith("1."):
                raise IntegrityError("the archive is an OCI layout of an unknown version")
            return self._oci_images()
        if "manifest.json" in self._documents:
            return [self._docker_image(fields) for fields in self._docker_entries()]
        raise IntegrityError("this is neither an OCI nor a Docker archive: it has no index.json and no manifest.json")

    # --- OCI layouts ----------------------------------------------------------------------------------------------

    def _oci_images(self) -> list[LoadedImage]:
        index = parse_manifest(self._documents["index.json"])
        if not isinstance(index, Index):
            raise IntegrityError("index.json is not an image index")
        tags = self._docker_tags()
        images: dict[str, LoadedImage] = {}
        for entry in index.manifests:
            whole = self._check(entry, _MAX_NESTING)
            if entry.digest not in self._chosen:
                self._chosen[entry.digest] = image_manifest(self._blobs, entry)
            image, manifest = self._chosen[entry.digest]
            # What has a name can be pushed: an index that lacks some of its images is left out for the best of them.
            target = entry if whole else image
            known = images.get(target.digest, LoadedImage(_plain(target), ()))
            names = _names(entry) or tags.get(manifest.config.digest, [])
            images[target.digest] = replace(known, names=tuple(dict.fromkeys([*known.names, *names])))
        return list(images.values())

    def _check(self, entry: Descriptor, depth: int) -> bool:
        """Whether all below a descriptor is here. Raises IntegrityError where an image is here in part, or none is."""
        key = (entry.digest, entry.media_type, entry.size, depth)
        if key not in self._checked:
            self._checked[key] = self._check_anew(entry, depth)
        return self._checked[key]

    def _check_anew(self, entry: Descriptor, depth: int) -> bool:
        if not depth:
            raise IntegrityError(f"the archive's indexes are nested more than {_MAX_NESTING} deep")
        if entry.media_type not in mediatypes.INDEXES | mediatypes.MANIFESTS:
            raise IntegrityError(f"the archive's index names {entry.digest}, which is neither an image nor an index")
        self._check_blob(entry)
        document = parse_manifest(self._blobs.read(entry.digest), entry.media_type)
        if isinstance(document, Manifest):
            self._check_image(document)
            return True
        present = [child for child in document.manifests if self._blobs.has(child.digest)]
        if not present:
            raise IntegrityError(f"the archive has no image of index {entry.digest}")
        whole = [self._check(child, depth - 1) for child in present]
        return all(whole) and len(present) == len(document.manifests)

    def _check_image(self, manifest: Manifest) -> None:
        self._check_blob(manifest.config)
        for layer in manifest.layers:
            if layer.media_type not in mediatypes.FOREIGN_LAYERS:
                self._check_blob(layer)
        if manifest.config.media_type in mediatypes.CONFIGS:
            config = ImageConfig.from_bytes(self._blobs.read(manifest.config.digest))
            _check_count(len(manifest.layers), config)

    def _check_blob(self, descriptor: Descriptor) -> None:
        try:
            size = self._blobs.size(descriptor.digest)
        except NotFoundError:
            raise IntegrityError(f"the archive is not whole: blob {descriptor.digest} is missing") from None
        if size != descriptor.size:
            raise IntegrityError(f"blob {descriptor.digest} has {size} bytes, its descriptor says {descriptor.size}")

    # --- Docker archives ------------------------------------------------------------------------------------------

    def _docker_entries(self) -> list[Fields]:
        try:
            entries = json.loads(self._documents["manifest.json"])
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"manifest.json is not valid JSON: {json_problem(error)}") from error
        if not isinstance(entries, list):
            raise IntegrityError("manifest.json is not a list")
        return [Fields(entry, f"manifest.json[{number}]") for number, entry in enumerate(entries)]

    def _docker_tags(self) -> Mapping[str, list[Reference]]:
        """The names that the Docker half of an archive of both kinds gives, by the digest of the config."""
        tags: dict[str, list[Reference]] = {}
        if "manifest.json" in self._documents:
            for entry in self._docker_entries():
                names = [_image_name(text) for text in entry.strings("RepoTags")]
                tags.setdefault(self._file(entry.string("Config")).digest, []).extend(names)
        return tags

    def _docker_image(self, entry: Fields) -> LoadedImage:
        name = entry.string("Config")
        blob = self._file(name)
        # The config's file name is the image ID, and people compare it.
        claimed = "sha256:" + name.removeprefix("sha256:").removesuffix(".json")
        if is_digest(claimed) and claimed != blob.digest:
            raise IntegrityError(f"config {name} has digest {blob.digest}")
        config = ImageConfig.from_bytes(self._blobs.read(blob.digest, MAX_CONFIG_SIZE))
        files = [self._file(path) for path in entry.strings("Layers")]
        _check_count(len(files), config)
        layers = tuple(self._layer(file, diff_id) for file, diff_id in zip(files, config.diff_ids, strict=True))
        data = Manifest(replace(blob, media_type=mediatypes.OCI_CONFIG), layers).to_bytes()
        descriptor = Descriptor(
            mediatypes.OCI_MANIFEST, self._blobs.write(data), len(data), platform=config.platform.normalized()
        )
        return LoadedImage(descriptor, tuple(_image_name(text) for text in entry.strings("RepoTags")))

    def _layer(self, file: Descriptor, diff_id: str) -> Descriptor:
        """The descriptor of a layer's file, which must be the layer that the config has at its place."""
        with self._blobs.open(file.digest) as stream:
            first = stream.read(6)
        compressed = first.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))
        if not compressed and file.digest == diff_id:
            return replace(file, media_type=mediatypes.OCI_LAYER)
        if self._diff_id(file.digest, split_digest(diff_id)[0]) != diff_id:
            raise IntegrityError(f"layer {file.digest} is not the one with diff ID {diff_id} that the config names")
        if not compressed:
            return replace(file, media_type=mediatypes.OCI_LAYER)
        gzip = first.startswith(b"\x1f\x8b")
        return replace(file, media_type=mediatypes.OCI_LAYER_GZIP if gzip else mediatypes.OCI_LAYER_ZSTD)

    def _diff_id(self, digest: str, algorithm: str) -> str:
        known = self._diff_ids.get((digest, algorithm))
        if known is None:
            content = hashlib.new(algorithm)
            with self._blobs.open(digest) as stream:
                plain = decompressed(stream)
                while piece := plain.read(PIECE):
                    content.update(piece)
            known = self._diff_ids[digest, algorithm] = f"{algorithm}:{content.hexdigest()}"
        return known

    def _file(self, path: str) -> Descriptor:
        name = _member_name(path.encode(errors="surrogateescape"))
        for _ in range(_LINKS_FOLLOWED):
            if name in self._files:
                return self._files[name]
            if name not in self._links:
                raise IntegrityError(f"the archive is not whole: {path!r} is missing")
            name = self._links[name]
        raise IntegrityError(f"archive member {path!r} is a link to a link without end")


def _member_name(name: bytes, base: str = "") -> str:
    """The lexical path of a member in the archive, seen from the folder `base`."""
    if len(name) > _MAX_NAME:
        raise IntegrityError(f"archive member {shown(name)} has too long a name")
    text = name.decode("utf-8", "surrogateescape")
    path = posixpath.normpath(posixpath.join(base, text))
    if path.startswith(("/", "../")) or path == "..":
        raise IntegrityError(f"archive member {shown(name)} leads out of the archive")
    return path


def _blob_digest(name: str) -> str | None:
    """The digest that a member of an OCI layout has for a name; None for other members."""
    parts = name.split("/")
    digest = ":".join(parts[1:])
    return digest if len(parts) == 3 and parts[0] == "blobs" and is_digest(digest) else None


def _image_name(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except UsageError as error:
        raise IntegrityError(f"the archive gives an image a bad name: {error.message}") from error


def _names(entry: Descriptor) -> list[Reference]:
    """The name that an index's entry gives to its image, if it gives one."""
    full = entry.annotations.get(_IMAGE_NAME)
    if full is not None:
        return [_image_name(full)]
    text = entry.annotations.get(_REF_NAME, "")
    # A reference name may be a mere tag, which says nothing of what it is a tag of.
    return [_image_name(text)] if {":", "/", "@"} & set(text) else []


def _plain(entry: Descriptor) -> Descriptor:
    """The descriptor without what only its archive says about it."""
    return Descriptor(entry.media_type, entry.digest, entry.size, platform=entry.platform)


def _check_count(layers: int, config: ImageConfig) -> None:
    if layers != len(config.diff_ids):
        raise IntegrityError(f"the archive has an image of {layers} layers whose config has {len(config.diff_ids)}")
