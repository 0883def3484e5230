"""A step's output, which comes in pieces cut anywhere, becomes lines."""

from __future__ import annotations

MAX_LINE_BYTES = 64 * 1024


class LineAssembler:
    """Joins the pieces of one stream into lines; a carriage return starts its line anew, as on a terminal.

    A line longer than `MAX_LINE_BYTES` is broken there, so that a step cannot fill the memory with one line.
    """

    __slots__ = ("_partial", "_since")

    def __init__(self) -> None:
        self._partial = b""
        self._since = 0.0

    @property
    def partial(self) -> str:
        """What has come of the line that is not yet ended."""
        return _visible(self._partial)

    def feed(self, data: bytes, timestamp: float) -> list[tuple[float, str]]:
        """Takes a piece; gives the lines that it completes, each with the time at which its first byte came."""
        if not self._partial:
            self._since = timestamp
        *ended, rest = (self._partial + data).split(b"\n")
        lines: list[tuple[float, str]] = []
        for line in ended:
            lines.append((self._since, _visible(line)))
            self._since = timestamp
        while len(rest) > MAX_LINE_BYTES:
            lines.append((self._since, _visible(rest[:MAX_LINE_BYTES])))
            rest = rest[MAX_LINE_BYTES:]
            self._since = timestamp
        # What a carriage return has overwritten will never be shown: a progress bar must not pile up here.
        self._partial = rest[rest.rstrip(b"\r").rfind(b"\r") + 1 :]
        return lines

    def flush(self) -> list[tuple[float, str]]:
        """Ends the stream; gives the line that had no line feed, if there is one."""
        rest, self._partial = self._partial, b""
        return [(self._since, _visible(rest))] if rest else []


def _visible(line: bytes) -> str:
    line = line.rstrip(b"\r")
    return line[line.rfind(b"\r") + 1 :].decode("utf-8", "replace")
