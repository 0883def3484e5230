"""The descriptor: how one piece of content refers to another (OCI image-spec, "OCI Content Descriptors")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagewright.errors import IntegrityError
from stagewright.image.digest import validate_digest
from stagewright.image.gojson import Fields
from stagewright.image.platform import Platform
from stagewright.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Media type, digest and size (bytes) of some content, with what its holder says about it."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str = ""

    @staticmethod
    def from_fields(fields: Fields) -> Descriptor:
        """Read a descriptor object. Raises IntegrityError for a bad digest, a negative size or a wrong type."""
        size = fields.integer("size")
        if size < 0:
            raise IntegrityError(f"{fields.what}: size is negative")
        try:
            digest = validate_digest(fields.raw("digest"))
        except IntegrityError as error:
            raise IntegrityError(f"{fields.what}: {error.message}") from error
        platform = fields.object("platform")
        return Descriptor(
            media_type=fields.string("mediaType"),
            digest=digest,
            size=size,
            urls=fields.strings("urls"),
            annotations=fields.string_map("annotations"),
            platform=None if platform is None else Platform.from_fields(platform),
            artifact_type=fields.string("artifactType"),
        )

    @staticmethod
    def from_json(value: Any, what: str = "descriptor") -> Descriptor:
        """Read a decoded JSON value; `what` names it in the message of the IntegrityError that a bad one raises."""
        return Descriptor.from_fields(Fields(value, what))

    def to_json(self) -> dict[str, Any]:
        """The JSON object, in the field order of Go's image-spec; empty fields are left out."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(sorted(self.annotations.items()))
        if self.platform is not None:
            value["platform"] = self.platform.to_json()
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        return value
