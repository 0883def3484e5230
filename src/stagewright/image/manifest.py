"""Image manifests and image indexes (OCI image-spec; Docker's manifest version 2, schema 2 and manifest list)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagewright.errors import IntegrityError
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.image.gojson import Fields, dumps, loads_object
from stagewright.image.platform import Platform, runnable_platforms
from stagewright.records import dataclass, field

# The distribution spec asks registries to take 4 MiB; containerd reads no more than 8.
MAX_MANIFEST_SIZE = 8 << 20
_MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image of one platform: the descriptors of its config and of its layers, the bottom one first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = mediatypes.OCI_MANIFEST
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    subject: Descriptor | None = None

    def to_bytes(self) -> bytes:
        """The document as BuildKit writes it: Go's field order, indented by two spaces."""
        value: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        value["config"] = self.config.to_json()
        value["layers"] = [layer.to_json() for layer in self.layers]
        return _finish(value, self.subject, self.annotations)


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests under one name, mostly one for each platform."""

    manifests: tuple[Descriptor, ...]
    media_type: str = mediatypes.OCI_INDEX
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    subject: Descriptor | None = None

    def to_bytes(self) -> bytes:
        """The document as BuildKit writes it: Go's field order, indented by two spaces."""
        value: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        value["manifests"] = [manifest.to_json() for manifest in self.manifests]
        return _finish(value, self.subject, self.annotations)

    def select(self, wanted: Platform) -> list[Descriptor]:
        """The entries that `wanted` can run, the best first; entries that name no platform come last.

        Attestation manifests (platform unknown/unknown) are left out.
        """
        known = [entry for entry in self.manifests if entry.platform is not None and not entry.platform.is_unknown]
        chosen: list[Descriptor] = []
        for candidate in runnable_platforms(wanted):
            chosen += [
                entry
                for entry in known
                if entry.platform is not None and candidate.matches(entry.platform) and entry not in chosen
            ]
        return chosen + [entry for entry in self.manifests if entry.platform is None]


def _finish(value: dict[str, Any], subject: Descriptor | None, annotations: Mapping[str, str]) -> bytes:
    if subject is not None:
        value["subject"] = subject.to_json()
    if annotations:
        value["annotations"] = dict(sorted(annotations.items()))
    return dumps(value, indent=True)


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """Read a manifest or an index.

    `media_type` is what the descriptor or the Content-Type header said ("" if nothing); the document itself may say it,
    too. Raises IntegrityError where they disagree on what the document is, for a shape that is neither or both, for
    Docker's schema 1, and for documents above 8 MiB or 10000 entries.
    """
    if len(data) > MAX_MANIFEST_SIZE:
        raise IntegrityError(f"manifest has {len(data)} bytes, more than {MAX_MANIFEST_SIZE}")
    fields = Fields(loads_object(data, "manifest"), "manifest")
    own_type = fields.string("mediaType")
    if mediatypes.SCHEMA1 & {media_type, own_type} or fields.raw("schemaVersion") == 1:
        raise IntegrityError(
            "image manifest is of Docker's schema 1, which nothing has written since 2017",
            hint="push the image again with a current tool",
        )
    if fields.raw("schemaVersion") not in (2, None):
        raise IntegrityError(f"manifest: unknown schemaVersion {dumps(fields.raw('schemaVersion')).decode()}")
    is_index = _is_index(fields, {media_type, own_type} - {""})
    subject = fields.object("subject")
    common: dict[str, Any] = {
        "annotations": fields.string_map("annotations"),
        "artifact_type": fields.string("artifactType"),
        "subject": None if subject is None else Descriptor.from_fields(subject),
    }
    known = mediatypes.INDEXES if is_index else mediatypes.MANIFESTS
    named = [name for name in (own_type, media_type) if name in known]
    common["media_type"] = named[0] if named else mediatypes.OCI_INDEX if is_index else mediatypes.OCI_MANIFEST
    if is_index:
        return Index(manifests=_descriptors(fields, "manifests"), **common)
    config = fields.object("config")
    if config is None:
        raise IntegrityError("manifest: config is missing")
    return Manifest(config=Descriptor.from_fields(config), layers=_descriptors(fields, "layers"), **common)


def _is_index(fields: Fields, named: set[str]) -> bool:
    has_manifests = "manifests" in fields
    has_layers = "layers" in fields or "config" in fields
    if has_manifests and has_layers:
        # Read as one thing it verifies, read as the other it is another image (CVE-2021-41190).
        raise IntegrityError("manifest is both an image manifest and an index")
    says_index, says_manifest = bool(named & mediatypes.INDEXES), bool(named & mediatypes.MANIFESTS)
    if (says_index and (says_manifest or has_layers)) or (says_manifest and has_manifests):
        raise IntegrityError(f"manifest is not what its media type says ({', '.join(sorted(named))})")
    return says_index or has_manifests


def _descriptors(fields: Fields, key: str) -> tuple[Descriptor, ...]:
    entries = fields.objects(key)
    if len(entries) > _MAX_ENTRIES:
        raise IntegrityError(f"manifest: {key} has {len(entries)} entries, more than {_MAX_ENTRIES}")
    return tuple(Descriptor.from_fields(entry) for entry in entries)
