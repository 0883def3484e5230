"""OCI image layouts as inputs: an image of a folder in the form of the OCI image-spec ("OCI Image Layout")."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from typing import BinaryIO

from stagewright.content.blobs import BlobStore
from stagewright.errors import IntegrityError, NotFoundError
from stagewright.image.descriptor import Descriptor
from stagewright.image.digest import is_digest, split_digest, verify_digest
from stagewright.image.manifest import MAX_MANIFEST_SIZE, Index, parse_manifest
from stagewright.registry.reference import Reference

_BLOCK = 1 << 20
_REF_NAME = "org.opencontainers.image.ref.name"


class OciLayout:
    """The layout in the folder `folder`. All that is read of it is checked against its digest."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find(self, tag: str | None, digest: str | None) -> Descriptor:
        """The descriptor of an image or index: that of `digest`, else that of the tag (`latest` where there is none).

        As in buildx, a layout with one image alone means that one whatever the tag. Raises NotFoundError where there is
        no such thing, IntegrityError where it is not what its digest says.
        """
        if digest is None:
            digest = self._digest_of(tag or "latest")
        elif not is_digest(digest):
            raise NotFoundError(f"oci-layout {self._folder}: {digest!r} is not a digest")
        data = self._read(_blob_path(digest), f"blob {digest}")
        verify_digest(data, digest)
        return Descriptor(parse_manifest(data).media_type, digest, len(data))

    def _digest_of(self, tag: str) -> str:
        index = parse_manifest(self._read("index.json", "index.json"))
        if not isinstance(index, Index):
            raise IntegrityError(f"oci-layout {self._folder}: index.json is not an image index")
        named = [entry for entry in index.manifests if entry.annotations.get(_REF_NAME) == tag]
        found = named or (index.manifests if len(index.manifests) == 1 else ())
        if not found:
            tags = sorted({name for entry in index.manifests if (name := entry.annotations.get(_REF_NAME))})
            raise NotFoundError(
                f"oci-layout {self._folder}: no image has the tag {tag}",
                hint=f"its tags are: {', '.join(tags)}" if tags else "give the image's digest behind an @",
            )
        return found[0].digest

    def fetch_manifest(self, ref: Reference, descriptor: Descriptor, cancel: threading.Event | None = None) -> bytes:
        """The bytes of a manifest or index, as its descriptor says. Raises NotFoundError and IntegrityError."""
        data = self._read(_blob_path(descriptor.digest), f"blob {descriptor.digest}")
        verify_digest(data, descriptor.digest)
        return data

    def fetch_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        store: BlobStore,
        progress: Callable[[int, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Copy a blob into the store. Raises NotFoundError, IntegrityError and StoreError."""
        with (
            self._open(_blob_path(descriptor.digest), f"blob {descriptor.digest}") as file,
            store.writer(expected=descriptor.digest, size=descriptor.size) as writer,
        ):
            while block := file.read(_BLOCK):
                writer.write(block)
                if progress is not None:
                    progress(writer.offset, descriptor.size)
            writer.commit()

    def _read(self, path: str, what: str) -> bytes:
        with self._open(path, what) as file:
            data = file.read(MAX_MANIFEST_SIZE + 1)
        if len(data) > MAX_MANIFEST_SIZE:
            raise IntegrityError(f"oci-layout {self._folder}: {what} is larger than {MAX_MANIFEST_SIZE} bytes")
        return data

    def _open(self, path: str, what: str) -> BinaryIO:
        try:
            # A pipe would keep whoever opens it waiting.
            handle = os.open(os.path.join(self._folder, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise NotFoundError(f"oci-layout {self._folder}: cannot read {what}: {error.strerror}") from None
        file = os.fdopen(handle, "rb")
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            file.close()
            raise IntegrityError(f"oci-layout {self._folder}: {what} is not a file")
        return file


def _blob_path(digest: str) -> str:
    algorithm, encoded = split_digest(digest)
    return f"blobs/{algorithm}/{encoded}"


def parse_layout(text: str) -> tuple[str, str | None, str | None]:
    """Folder, tag and digest of `path[:tag][@digest]`."""
    rest, _, digest = text.partition("@")
    folder, _, tag = rest.partition(":")
    return folder, tag or None, digest or None
