"""What a display of a build's progress is, and which one a command gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol, TextIO

from stagewright.errors import UsageError
from stagewright.progress.events import Event

MODES = ("auto", "tty", "plain", "rawjson", "quiet", "none")


class Display(Protocol):
    """A sink for events that draws or writes them."""

    def __call__(self, event: Event) -> None:
        """Takes an event; may be called from any thread, one call at a time.

        Raises:
            OSError: the stream cannot be written to.
        """

    def close(self, error: BaseException | None) -> None:
        """Ends the display and gives the terminal back; `error` is what ended the build, None if it succeeded.

        The error itself is not written (`progress.failure` renders it). Call it once, whatever happened.
        """

    def abandon(self) -> None:
        """Gives the terminal back at once, because the process is about to end; takes no locks (a signal handler's)."""


class SilentDisplay:
    """`quiet` and `none`: shows nothing."""

    def __call__(self, event: Event) -> None:
        """Drops the event."""

    def close(self, error: BaseException | None) -> None:
        """Does nothing."""

    def abandon(self) -> None:
        """Does nothing."""


def open_display(
    mode: str | None,
    stream: TextIO,
    *,
    expand_warnings: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Display:
    """The display for `mode`, one of `MODES`, which writes to `stream`.

    None means BUILDKIT_PROGRESS or else auto; auto means tty on a terminal that can move its cursor, else plain.
    NO_COLOR (https://no-color.org) is honoured. Only the module of the chosen display is imported.

    Raises:
        UsageError: there is no such mode, or tty is asked for where there is no terminal.
    """
    mode = mode or environ.get("BUILDKIT_PROGRESS") or "auto"
    if mode not in MODES:
        raise UsageError(f"unknown progress mode {mode!r}", hint=f"one of {', '.join(MODES)}")
    if mode == "auto":
        mode = "tty" if stream.isatty() and environ.get("TERM", "dumb") != "dumb" else "plain"
    colours = not environ.get("NO_COLOR")
    if mode == "tty":
        if not stream.isatty():
            raise UsageError("--progress=tty needs a terminal", hint="use --progress=plain, or leave the flag out")
        from stagewright.progress.tty import TtyDisplay

        return TtyDisplay(stream, colours=colours, expand_warnings=expand_warnings)
    if mode == "plain":
        from stagewright.progress.plain import PlainDisplay

        return PlainDisplay(stream, colours=colours, expand_warnings=expand_warnings)
    if mode == "rawjson":
        from stagewright.progress.rawjson import RawJsonDisplay

        return RawJsonDisplay(stream)
    return SilentDisplay()
