"""What running a vertex gives to those that are built on it."""

from __future__ import annotations

from stagewright.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Result:
    """A filesystem: the snapshot of that id, the named build context in place, or (neither) an empty one.

    `exact` is False where it is not what its key promises, since a build context changed before it was copied: good
    for this build, and for no other. `size` is how many bytes of files were made for it, where that was found out.
    """

    snapshot: int | None = None
    context: str | None = None
    exact: bool = True
    size: int | None = field(default=None, compare=False)
