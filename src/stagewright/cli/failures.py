"""What a user sees of an error, and the exit status that goes with it."""

from __future__ import annotations

import sys

from stagewright.errors import CanceledError, StagewrightError
from stagewright.harmless import clean_name
from stagewright.progress.failure import render_failure

STATUS_FAILED = 1
STATUS_INTERRUPTED = 130


def report(error: BaseException, *, debug: bool, doing: str = "", with_log: bool = True) -> int:
    """Writes one message about `error` to standard error, with `debug` also its traceback; gives the exit status.

    `doing` and `with_log` are for `render_failure`.
    """
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | CanceledError):
        print("ERROR: canceled", file=sys.stderr)
        return STATUS_INTERRUPTED
    if isinstance(error, StagewrightError):
        colour = sys.stderr.isatty() and not _no_colour()
        sys.stderr.write(render_failure(error, doing=doing, with_log=with_log, colour=colour))
    else:
        advice = "" if debug else " (run it again with -D to see where)"
        print(f"internal error: {clean_name(f'{type(error).__name__}: {error}')}{advice}", file=sys.stderr)
    return STATUS_FAILED


def _no_colour() -> bool:
    import os

    return bool(os.environ.get("NO_COLOR"))
