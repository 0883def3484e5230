"""Builds that come upon something that the store or an imported cache has lost: they begin anew, without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stagewright.errors import (
    LOST,
    DamagedBlobError,
    DamagedMetadataError,
    LostBlobError,
    LostLayerError,
    LostSnapshotError,
)
from stagewright.options import BuildOptions, BuildResult
from stagewright.progress.events import Sink, WarningEvent
from stagewright.records import replace

Lost = DamagedBlobError | DamagedMetadataError | LostBlobError | LostLayerError | LostSnapshotError
# Each time something is forgotten that cannot be found again; a disk that loses files while builds run is no use.
_MOST_BEGINNINGS = 5


def begin_anew(
    error: Lost, run: Callable[[BuildOptions, bool], BuildResult], options: BuildOptions, warn: Sink
) -> BuildResult:
    """Run a build again that ended with one of `LOST`, as often as it takes. Raises what cannot be helped.

    `run` takes the options, and whether results whose files are not in the store count as missing.
    """
    only_here = False
    for _ in range(_MOST_BEGINNINGS):
        if isinstance(error, LostLayerError):
            if only_here:
                break
            if options.context == "-":
                otherwise = "without --cache-from" if options.cache_from else "with --no-cache"
                error.hint = f"standard input cannot be read twice: build again {otherwise}"
                break
            warn(WarningEvent("", f"the build begins anew without imported caches: {error.message}"))
            options, only_here = replace(options, cache_from=()), True
        else:
            from stagewright.health.mending import mend

            done = mend(Path(options.root or ""), error)
            if _cannot_be_read_twice(options):
                error.hint = "that was mended: build again"
                break
            warn(WarningEvent("", f"{done}; the build begins anew"))
        try:
            return run(options, only_here)
        except LOST as another:
            if another.message == error.message:
                raise
            error = another
    raise error


def _cannot_be_read_twice(options: BuildOptions) -> bool:
    """Whether what the build was given, or has written, went through a pipe."""
    return options.context == "-" or any(output.dest == "-" for output in options.outputs)
