"""Images made by hand, of layers in all forms, for registries that tests run."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field

import zstandard
from isal import igzip
from registry_servers import Image, ScriptedServer, digest_of

from stagewright.image import mediatypes
from stagewright.image.config import ImageConfig
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Index, Manifest
from stagewright.image.platform import Platform

AMD64 = Platform("linux", "amd64")
LAYER_TYPES = {
    ("oci", "none"): mediatypes.OCI_LAYER,
    ("oci", "gzip"): mediatypes.OCI_LAYER_GZIP,
    ("oci", "zstd"): mediatypes.OCI_LAYER_ZSTD,
    ("docker", "none"): mediatypes.DOCKER_LAYER,
    ("docker", "gzip"): mediatypes.DOCKER_LAYER_GZIP,
    ("docker", "zstd"): mediatypes.DOCKER_LAYER_ZSTD,
}


@dataclass(slots=True)
class Layer:
    """A layer's tar archive while it is filled."""

    members: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)

    def file(self, name: str, content: bytes = b"", **fields: object) -> Layer:
        """Add a file; fields are those of TarInfo."""
        return self.member(name, tarfile.REGTYPE, content, **fields)

    def member(self, name: str, kind: bytes, content: bytes = b"", **fields: object) -> Layer:
        """Add a member of any kind."""
        entry = tarfile.TarInfo(name)
        entry.type, entry.size, entry.mode = kind, len(content), 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in fields.items():
            setattr(entry, key, value)
        self.members.append((entry, content))
        return self

    def link(self, name: str, target: str, *, hard: bool = False, **fields: object) -> Layer:
        """Add a symbolic or hard link."""
        return self.member(name, tarfile.LNKTYPE if hard else tarfile.SYMTYPE, linkname=target, **fields)

    def to_bytes(self) -> bytes:
        """The archive."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for entry, content in self.members:
                tar.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()


def image_of(*layers: Layer, form: str = "oci", compression: str = "none", platform: Platform = AMD64) -> Image:
    """An image of these layers. `form` is oci or docker, `compression` none, gzip or zstd."""
    archives = [layer.to_bytes() for layer in layers]
    pack = {"none": bytes, "gzip": igzip.compress, "zstd": zstandard.compress}[compression]
    blobs = []
    for data in map(pack, archives):
        blobs.append((Descriptor(LAYER_TYPES[form, compression], digest_of(data), len(data)), data))
    config = ImageConfig(platform, diff_ids=tuple(map(digest_of, archives))).to_bytes()
    media_type = mediatypes.DOCKER_CONFIG if form == "docker" else mediatypes.OCI_CONFIG
    descriptor = Descriptor(media_type, digest_of(config), len(config))
    manifest_type = mediatypes.DOCKER_MANIFEST if form == "docker" else mediatypes.OCI_MANIFEST
    manifest = Manifest(descriptor, tuple(layer for layer, _ in blobs), media_type=manifest_type)
    return Image(manifest, [(descriptor, config), *blobs])


def serve_index(server: ScriptedServer, images: dict[str, Image], repository: str = "app", tag: str = "1") -> None:
    """Be an honest registry for an index of images by their platforms, `linux/arm64/v8` and the like."""
    for image in images.values():
        server.serve_image(image, repository, image.descriptor.digest)
    entries = []
    for text, image in images.items():
        system, architecture, *variant = text.split("/")
        platform = Platform(system, architecture, "".join(variant))
        descriptor = image.descriptor
        entries.append(Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, platform=platform))
    data = Index(tuple(entries)).to_bytes()
    digest = digest_of(data)
    server.on(
        f"* /v2/{repository}/manifests/({tag}|{digest})",
        lambda handler: handler.reply(200, data, Content_Type=mediatypes.OCI_INDEX, Docker_Content_Digest=digest),
    )
