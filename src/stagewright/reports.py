"""What the store answers about images and space, and what a Dockerfile says of itself: plain data."""

from __future__ import annotations

from collections.abc import Sequence

from stagewright.errors import SourceRange, SourceText, StagewrightError
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
    """How many bytes a collection freed, and what it removed.

    `busy` tells that something used the store, so that only what dead processes had left was removed.
    """

    reclaimed: int
    rows: Sequence[UsageRow]
    busy: bool = False


@dataclass(frozen=True, slots=True)
class CacheMountRow:
    """A cache mount by the ID that steps mount it by: its bytes on disk, and its last use (Unix seconds)."""

    id: str
    size: int
    last_used: float


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Something that takes space: `kind` is image, layer snapshot, cache, cache mount, git repository or blob.

    `size` is in bytes on disk, and no byte is in two rows; times are seconds since the epoch, None where they are not
    known. `in_use` tells that a prune of everything would keep it now, `shared` that others have its bytes, too.
    `parent` is the ID of the row of the same kind that this one is built on.
    """

    kind: str
    id: str
    size: int
    created: float | None
    last_used: float | None
    in_use: bool
    description: str
    shared: bool = False
    parent: str | None = None

    @property
    def reclaimable(self) -> bool:
        """Whether a prune of everything would remove it."""
        return not self.in_use


@dataclass(frozen=True, slots=True)
class CheckWarning:
    """What a build check found: the check's name, explanation and link, and what it says of this place."""

    rule: str
    description: str
    url: str
    detail: str
    location: SourceRange


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the build checks found in a Dockerfile, and what would keep it from being built (None for nothing)."""

    source: SourceText
    warnings: tuple[CheckWarning, ...]
    error: StagewrightError | None = None


@dataclass(frozen=True, slots=True)
class OutlineArg:
    """A build argument that a target takes, with the value that it has in this build."""

    name: str
    description: str
    value: str
    location: SourceRange


@dataclass(frozen=True, slots=True)
class OutlineMount:
    """A secret or an SSH agent that a target takes, by its ID."""

    name: str
    required: bool
    location: SourceRange


@dataclass(frozen=True, slots=True)
class Outline:
    """What a target of a Dockerfile can be given; `name` and `description` are its stage's, perhaps empty."""

    source: SourceText
    name: str
    description: str
    args: tuple[OutlineArg, ...]
    secrets: tuple[OutlineMount, ...]
    ssh: tuple[OutlineMount, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A stage that can be built; all as written, and empty where it is not there."""

    name: str
    default: bool
    description: str
    base: str
    platform: str
    location: SourceRange


@dataclass(frozen=True, slots=True)
class TargetList:
    """The stages of a Dockerfile, in order."""

    source: SourceText
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Means:
    """What a machine gives for building: the way that layers are merged, and the better ones, each with why not.

    `forgone` is why there are no namespaces and no mounts; None where there are.
    """

    snapshotter: str
    refusals: tuple[tuple[str, str], ...]
    forgone: str | None = None


@dataclass(frozen=True, slots=True)
class StoreProblem:
    """Something that is wrong in the store: `what` of which `kind`, what is `wrong` with it, and what a repair `costs`.

    `repaired` tells that it was mended now.
    """

    kind: str
    what: str
    wrong: str
    costs: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """What a check of the store has found, and how much it looked at.

    While something uses the store (`busy`) nothing is repaired, and what may be in the making is not looked at.
    """

    problems: tuple[StoreProblem, ...]
    busy: bool
    blobs: int
    snapshots: int
    images: int
