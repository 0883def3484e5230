"""What the store answers about images and space: plain data."""

from __future__ import annotations

from collections.abc import Sequence

from stagewright.records import dataclass


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One name in the store and the image that it leads to.

    `digest` is that of the manifest or index, `config_digest` the image ID. `created` is in seconds since the epoch,
    None where the image does not say. `size` is the bytes of all of the image's blobs, compressed as they are. Where
    the image is damaged, `config_digest` is empty and `platform` "unknown".
    """

    name: str
    digest: str
    config_digest: str
    created: float | None
    size: int
    platform: str


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a collection removed, a line for each item, and how many bytes that freed."""

    reclaimed: int
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Something that takes space: `kind` is image, layer snapshot, cache, cache mount or blob.

    `size` is in bytes on disk, and no byte is in two rows; times are seconds since the epoch, None where they are not
    known. `in_use` tells that a prune of everything would keep it now.
    """

    kind: str
    id: str
    size: int
    created: float | None
    last_used: float | None
    in_use: bool
    description: str
