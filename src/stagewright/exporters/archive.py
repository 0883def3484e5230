"""Image archives: an OCI image layout, in a tar or in a folder, and with a `manifest.json` what `docker load` takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, StoreError, UsageError
from stagewright.exporters.destination import replaced
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import split_digest
from stagewright.image.gojson import dumps
from stagewright.image.manifest import Index, Manifest, parse_manifest
from stagewright.records import dataclass, replace
from stagewright.registry.reference import Reference
from stagewright.snapshots.sinks import ChunkSink
from stagewright.snapshots.tarheader import END, header
from stagewright.snapshots.tarreader import BLOCK, DIRECTORY, REGULAR

_IMAGE_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class ArchiveImage:
    """One image of an archive: what leads to its manifest or index, and its names."""

    descriptor: Descriptor
    names: tuple[Reference, ...] = ()


def write_archive(
    images: Sequence[ArchiveImage],
    blobs: BlobStore,
    sink: ChunkSink,
    *,
    docker: bool,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a tar of an OCI image layout; with `docker` also the `manifest.json` that `docker load` reads.

    Equal images give equal bytes. `progress` gets the bytes of blobs done and in all. Raises NotFoundError for a blob
    that is not in the store, and UsageError for an index in a Docker archive.
    """
    content = _collect(images, blobs)
    documents = {"index.json": (0o644, _index(_entries(images))), "oci-layout": (0o444, _LAYOUT)}
    if docker:
        documents["manifest.json"] = (0o644, _docker_manifest(images, blobs))
    sizes = {_member(digest): (digest, size) for digest, size in content.items()}
    total, done = sum(content.values()), 0
    folders = sorted({"blobs/"} | {name.rpartition("/")[0] + "/" for name in sizes})
    for name in sorted([*folders, *sizes, *documents]):
        if name in documents:
            mode, data = documents[name]
            sink.write(header(name.encode(), REGULAR, mode=mode, size=len(data)))
            sink.write(data)
            sink.write(bytes(-len(data) % BLOCK))
        elif name in sizes:
            digest, size = sizes[name]
            _write_blob(name, digest, size, blobs, sink)
            done += size
            if progress is not None:
                progress(done, total)
        else:
            sink.write(header(name.encode(), DIRECTORY, mode=0o755))
    sink.write(END)
    sink.flush()


def write_layout(
    images: Sequence[ArchiveImage],
    blobs: BlobStore,
    folder: str,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write an OCI image layout into a folder, which may hold one: its images stay, but for those of the same names.

    Raises StoreError where the folder cannot be written, IntegrityError where its index is none.
    """
    content = _collect(images, blobs)
    total, done = sum(content.values()), 0
    try:
        os.makedirs(folder, exist_ok=True)
        for digest, size in content.items():
            target = os.path.join(folder, _member(digest))
            if os.path.islink(target) or not (os.path.isfile(target) and os.path.getsize(target) == size):
                _make_folders(folder, os.path.dirname(_member(digest)))
                _copy_blob(blobs, digest, target)
            done += size
            if progress is not None:
                progress(done, total)
        _replace(os.path.join(folder, "oci-layout"), _LAYOUT)
        # Last, so that whoever reads the layout meanwhile finds all that the index names.
        index = os.path.join(folder, "index.json")
        entries = _entries(images)
        _replace(index, _index([*_others(index, entries), *entries]))
    except OSError as error:
        raise StoreError(f"cannot write the OCI layout {folder}: {error.strerror}") from error


def _entries(images: Sequence[ArchiveImage]) -> list[Descriptor]:
    """The index's entries: each image once for each of its names."""
    entries = []
    for image in images:
        plain = image.descriptor
        entries += [
            replace(
                plain,
                annotations={**plain.annotations, _IMAGE_NAME: str(name), _REF_NAME: name.tag or name.object},
            )
            for name in image.names
        ] or [plain]
    return entries


def _index(entries: Sequence[Descriptor]) -> bytes:
    return dumps(
        {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_INDEX,
            "manifests": [entry.to_json() for entry in entries],
        }
    )


def _others(path: str, entries: Sequence[Descriptor]) -> list[Descriptor]:
    """What an index that exists names beside the new entries."""
    try:
        with open(path, "rb") as file:
            known = parse_manifest(file.read())
    except FileNotFoundError:
        return []
    if not isinstance(known, Index):
        raise IntegrityError(f"{path} is not an image index")
    names = {entry.annotations.get(_IMAGE_NAME) for entry in entries}
    digests = {entry.digest for entry in entries}
    return [
        entry
        for entry in known.manifests
        if entry.digest not in digests and (entry.annotations.get(_IMAGE_NAME) or "") not in names
    ]


def _docker_manifest(images: Sequence[ArchiveImage], blobs: BlobStore) -> bytes:
    entries: dict[str, dict[str, object]] = {}
    for image in images:
        document = parse_manifest(blobs.read(image.descriptor.digest), image.descriptor.media_type)
        if not isinstance(document, Manifest):
            raise UsageError(
                "a Docker archive cannot hold an image of several platforms", hint="save it in the OCI format"
            )
        names = [name.familiar() for name in image.names]
        known = entries.get(image.descriptor.digest)
        if known is not None:
            names = [*(known["RepoTags"] or ()), *names]  # type: ignore[misc]
        entries[image.descriptor.digest] = {
            "Config": _member(document.config.digest),
            "RepoTags": names or None,
            "Layers": [_member(layer.digest) for layer in document.layers],
        }
    return dumps(list(entries.values()))


def _collect(images: Sequence[ArchiveImage], blobs: BlobStore) -> dict[str, int]:
    """Digests and sizes of all blobs of the images, each once, manifests included."""
    content: dict[str, int] = {}
    pending = [(image.descriptor, _MAX_DEPTH) for image in images]
    while pending:
        descriptor, depth = pending.pop()
        if descriptor.digest in content:
            continue
        if not depth:
            raise IntegrityError(f"index {descriptor.digest} is nested too deep")
        content[descriptor.digest] = blobs.size(descriptor.digest)
        if descriptor.media_type in mediatypes.INDEXES | mediatypes.MANIFESTS:
            document = parse_manifest(blobs.read(descriptor.digest), descriptor.media_type)
            if isinstance(document, Index):
                pending += [(entry, depth - 1) for entry in document.manifests]
            else:
                below = (document.config, *document.layers)
                pending += [(blob, depth) for blob in below if blob.media_type not in mediatypes.FOREIGN_LAYERS]
    return content


def _member(digest: str) -> str:
    return "blobs/" + "/".join(split_digest(digest))


def _write_blob(name: str, digest: str, size: int, blobs: BlobStore, sink: ChunkSink) -> None:
    sink.write(header(name.encode(), REGULAR, mode=0o444, size=size))
    with blobs.open_verified(digest) as file:
        sink.copy(file, size)
    sink.write(bytes(-size % BLOCK))


def _make_folders(top: str, path: str) -> None:
    """Make the folders of a relative path. Raises StoreError for a link among them, which may lead anywhere."""
    for part in path.split("/"):
        top = os.path.join(top, part)
        if os.path.islink(top):
            raise StoreError(f"cannot write the OCI layout: {top} is a link")
        os.makedirs(top, exist_ok=True)


def _copy_blob(blobs: BlobStore, digest: str, target: str) -> None:
    import shutil

    with blobs.open_verified(digest) as source, replaced(target) as file:
        shutil.copyfileobj(source, file, 1 << 20)


def _replace(path: str, data: bytes) -> None:
    with replaced(path) as file:
        file.write(data)
